//! A full or locked disk: nothing is acknowledged, nothing half of it is stored, and it works again afterwards.

use cloud_storage::{AppendError, Config, DATABASE_FILE, Storage};
use proto::{Code, Offset};
use sqlx::{Connection, Executor};

use crate::{NOW_MS, events, open, pop};

#[tokio::test]
async fn a_full_database_refuses_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { database_bytes_max: 512 << 10, ..Config::default() };
    let storage = Storage::open(folder.path(), &config).await.unwrap();
    let fra = pop("fra");
    let mut upto = 0;
    let error = loop {
        let batch = events(upto..upto + 200);
        match storage.append(&fra, Offset(upto + 1), &batch, NOW_MS).await {
            Ok(appended) => upto = appended.upto.0,
            Err(error) => break error,
        }
        assert!(upto < 100_000, "512 KiB cannot hold that many");
    };
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert!(upto >= 200, "some fitted");
    assert_eq!(storage.position(&fra).await.unwrap(), Offset(upto));
    assert_eq!(storage.event_counts().await.unwrap().total, upto);
    storage.close().await;
    // Somebody made room.
    let storage = open(&folder).await;
    let batch = events(upto..upto + 200);
    storage.append(&fra, Offset(upto + 1), &batch, NOW_MS).await.unwrap();
    assert_eq!(storage.event_counts().await.unwrap().total, upto + 200);
}

#[tokio::test]
async fn a_locked_database_refuses_until_it_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { busy_timeout_ms: 20, ..Config::default() };
    let storage = Storage::open(folder.path(), &config).await.unwrap();
    let fra = pop("fra");
    storage.append(&fra, Offset(1), &events(0..10), NOW_MS).await.unwrap();
    let url = format!("sqlite://{}", folder.path().join(DATABASE_FILE).display());
    let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let error = storage.append(&fra, Offset(11), &events(10..20), NOW_MS).await.unwrap_err();
    assert!(matches!(error, AppendError::Storage(_)), "{error:?}");
    assert_eq!(error.code(), Code::Unavailable);
    assert!(!error.reply().message.contains("locked"), "no SQL text on the wire: {}", error.reply().message);
    assert_eq!(storage.position(&fra).await.unwrap(), Offset(10), "readers go on");
    other.execute("ROLLBACK").await.unwrap();
    storage.append(&fra, Offset(11), &events(10..20), NOW_MS).await.unwrap();
    assert_eq!(storage.event_counts().await.unwrap().total, 20);
}

#[tokio::test]
async fn a_batch_whose_sender_left_is_stored_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let fra = pop("fra");
    for polls in 0..40 {
        let upto = storage.position(&fra).await.unwrap();
        let batch = events(upto.0..upto.0 + 100);
        {
            let mut append = std::pin::pin!(storage.append(&fra, Offset(upto.0 + 1), &batch, NOW_MS));
            for _ in 0..polls {
                let step = std::future::poll_fn(|context| {
                    std::task::Poll::Ready(append.as_mut().poll(context).is_ready())
                });
                if step.await {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let after = storage.append(&fra, Offset(upto.0 + 1), &batch, NOW_MS).await.unwrap().upto;
        assert_eq!(after, Offset(upto.0 + 100));
        assert_eq!(storage.event_counts().await.unwrap().total, after.0, "after {polls} polls");
    }
}

#[tokio::test]
async fn a_closed_storage_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    storage.ping().await.unwrap();
    storage.close().await;
    assert_eq!(storage.ping().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(DATABASE_FILE), vec![7; 8192]).unwrap();
    let error = Storage::open(folder.path(), &Config::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Corrupt, "{error:?}");
}
