//! The queue as tasks use it.

use std::collections::BTreeSet;

use proto::{Code, ItemId, UserId};

use super::*;

const NOW_MS: u64 = 1_700_000_000_000;
const MIB: u64 = 1024 * 1024;

fn draft(name: &str) -> Draft {
    Draft {
        visitor: VisitorId::User(UserId::new("u").unwrap()),
        at_ms: NOW_MS,
        trace: TraceId(1),
        kind: EventKind::Custom { name: name.to_owned(), attributes: Vec::new() },
    }
}

fn rating(stars: f32) -> Draft {
    Draft { kind: EventKind::Rating { item: ItemId::new("i").unwrap(), stars }, ..draft("x") }
}

async fn all(queue: &Queue) -> Vec<EventId> {
    queue.read(10_000, 10_000_000).await.unwrap().iter().map(|queued| queued.event.id).collect()
}

fn both(bytes_max: u64) -> (tempfile::TempDir, [Queue; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let durable = Queue::open(dir.path(), bytes_max, 1_000).unwrap();
    (dir, [durable, Queue::in_memory(bytes_max)])
}

#[tokio::test]
async fn events_tracked_at_once_share_their_fsync_and_lie_as_their_ids_sort() {
    let dir = tempfile::tempdir().unwrap();
    let queue = Arc::new(Queue::open(dir.path(), 16 * MIB, 1_000).unwrap());
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move { queue.append(&[draft(&format!("event {n}"))], NOW_MS).await.unwrap() })
        })
        .collect();
    let mut made = BTreeSet::new();
    for task in tasks {
        made.extend(task.await.unwrap());
    }
    let found = all(&queue).await;
    assert_eq!(found, made.into_iter().collect::<Vec<_>>());
    let progress = *queue.progress().borrow();
    assert_eq!(progress, Progress { last: 200, acknowledged: 0, pending: 200 });
}

#[tokio::test]
async fn a_full_queue_refuses_whole_calls_and_takes_events_again_when_there_is_room() {
    let (_dir, queues) = both(128 * 1024);
    for queue in queues {
        let call = vec![draft(&"x".repeat(400)); 20];
        let mut taken = Vec::new();
        let full = loop {
            match queue.append(&call, NOW_MS).await {
                Ok(ids) => taken.extend(ids),
                Err(error) => break error,
            }
        };
        let AppendError::Full { bytes, bytes_max } = full else { panic!("{full}") };
        assert!(bytes <= bytes_max && bytes_max == 128 * 1024);
        assert!(taken.len() >= 200, "{} events", taken.len());
        assert_eq!(
            all(&queue).await,
            taken,
            "nothing of what was taken is dropped, nothing of what was refused is there"
        );
        // Room comes back as events are acknowledged, in whatever portions.
        while !all(&queue).await.is_empty() {
            let newest = queue.read(37, 10_000_000).await.unwrap().last().unwrap().seq;
            queue.acknowledge(newest).await.unwrap();
        }
        assert_eq!(queue.progress().borrow().pending, 0);
        for _ in 0..10 {
            queue.append(&call, NOW_MS).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_disk_stays_within_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let queue = Queue::open(dir.path(), 128 * 1024, 1_000).unwrap();
    for round in 0..30 {
        while queue.append(&vec![draft(&"y".repeat(300)); 5], NOW_MS).await.is_ok() {}
        let used: u64 =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(used <= 128 * 1024 + 64, "round {round}: {used} bytes");
        let batch = queue.read(50 + round, 10_000_000).await.unwrap();
        queue.acknowledge(batch.last().unwrap().seq).await.unwrap();
    }
}

#[tokio::test]
async fn an_event_that_is_not_allowed_takes_nothing_of_its_call_along() {
    let (_dir, queues) = both(MIB);
    for queue in queues {
        let error = queue.append(&[rating(5.0), rating(5.5)], NOW_MS).await.unwrap_err();
        assert!(matches!(&error, AppendError::Invalid(reply) if reply.code == Code::Invalid), "{error}");
        assert_eq!(all(&queue).await, []);
        queue.append(&[rating(5.0)], NOW_MS).await.unwrap();
        assert_eq!(all(&queue).await.len(), 1);
    }
}

#[tokio::test]
async fn an_append_that_is_given_up_does_not_block_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let queue = Queue::open(dir.path(), MIB, 1_000).unwrap();
    // Polled once, which takes a place in the group, then dropped.
    let drafts = [draft("given up")];
    let given_up = queue.append(&drafts, NOW_MS);
    assert!(futures::FutureExt::now_or_never(given_up).is_none());
    queue.append(&[draft("kept")], NOW_MS).await.unwrap();
    let names: Vec<_> =
        queue.read(10, 10_000).await.unwrap().into_iter().map(|queued| queued.event.kind).collect();
    assert_eq!(names, [draft("given up").kind, draft("kept").kind]);
}

#[tokio::test]
async fn a_closed_queue_is_free_for_the_next_client_and_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let queue = Queue::open(dir.path(), MIB, 1_000).unwrap();
    let ids = queue.append(&[draft("a"), draft("b")], NOW_MS).await.unwrap();
    assert!(matches!(Queue::open(dir.path(), MIB, 1_000), Err(OpenError::Locked { .. })));
    queue.close().await;
    assert!(queue.append(&[draft("c")], NOW_MS).await.is_err());
    let again = Queue::open(dir.path(), MIB, 1_000).unwrap();
    assert_eq!(all(&again).await, ids);
    let later = again.append(&[draft("d")], NOW_MS).await.unwrap();
    assert!(later > ids, "ids rise over a restart, though the clock stood still");
}
