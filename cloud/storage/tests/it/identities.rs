//! Tokens are used once, by one key; who was revoked stays so.

use cloud_storage::{Change, EnrolError, Enrolment, Storage};
use proto::{Digest, NodeId};

use crate::{NOW_MS, open, pop};

const HOUR_MS: u64 = 3_600_000;

fn enrolment(node: u64) -> Enrolment {
    Enrolment {
        pop: pop("fra"),
        node: NodeId(node),
        names: vec!["shop.example.com".into()],
        made_by: "admin".into(),
        expires_at_ms: NOW_MS + HOUR_MS,
    }
}

fn change(what: &str, at_ms: u64) -> Change {
    Change { at_ms, who: "admin".into(), what: what.into(), detail: String::new() }
}

async fn token(storage: &Storage, text: &str, node: u64) -> Digest {
    let token = Digest::of(text.as_bytes());
    storage.add_enrolment(token, &enrolment(node), &change("token", NOW_MS)).await.unwrap();
    token
}

async fn uses(storage: &Storage, token: Digest, key: &[u8], at_ms: u64) -> Result<(), EnrolError> {
    storage.use_enrolment(token, &enrolment(4), Digest::of(key), &change("use", at_ms)).await
}

async fn lines(storage: &Storage, what: &str) -> usize {
    storage.audit_recent(100).await.unwrap().iter().filter(|line| line.what == what).count()
}

#[tokio::test]
async fn a_token_is_for_its_node_and_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let token = token(&storage, "secret", 4).await;
    assert_eq!(storage.enrolment(token, &pop("fra"), NodeId(4), NOW_MS).await.unwrap(), enrolment(4));
    let wrong = [
        storage.enrolment(Digest::of(b"other"), &pop("fra"), NodeId(4), NOW_MS).await,
        storage.enrolment(token, &pop("fra"), NodeId(5), NOW_MS).await,
        storage.enrolment(token, &pop("sin"), NodeId(4), NOW_MS).await,
        storage.enrolment(token, &pop("fra"), NodeId(4), NOW_MS + HOUR_MS).await,
    ];
    for refused in wrong {
        assert!(matches!(refused, Err(EnrolError::Token)), "{refused:?}");
    }
    // What has ended between the look and the use is not used.
    let late = uses(&storage, token, b"key", NOW_MS + HOUR_MS).await;
    assert!(matches!(late, Err(EnrolError::Token)));
    assert_eq!(lines(&storage, "use").await, 0);
}

#[tokio::test]
async fn of_many_keys_that_race_with_one_token_one_wins_and_may_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let token = token(&storage, "secret", 4).await;
    let mut racing = tokio::task::JoinSet::new();
    for key in 0..20_u8 {
        let storage = storage.clone();
        racing.spawn(async move { uses(&storage, token, &[key], NOW_MS).await.is_ok().then_some(key) });
    }
    let winners: Vec<u8> = racing.join_all().await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    // Its answer was lost: it comes again, also after a restart.
    storage.close().await;
    let storage = open(&folder).await;
    for key in 0..20_u8 {
        let used = uses(&storage, token, &[key], NOW_MS).await;
        assert_eq!(used.is_ok(), key == winners[0], "key {key}: {used:?}");
    }
    assert_eq!(lines(&storage, "use").await, 1, "who enrolled is written down once");
}

#[tokio::test]
async fn who_was_revoked_stays_so_and_gets_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let token = token(&storage, "secret", 4).await;
    let fra = pop("fra");
    let first = storage.revoke(&fra, NodeId(4), "stolen", &change("revoke", NOW_MS)).await.unwrap();
    let again = storage.revoke(&fra, NodeId(4), "again", &change("revoke", NOW_MS + 1)).await.unwrap();
    assert_eq!((first.reason.as_str(), first.revoked_at_ms), ("stolen", NOW_MS));
    assert_eq!(again, first);
    assert_eq!(lines(&storage, "revoke").await, 1);
    let used = uses(&storage, token, b"key", NOW_MS).await;
    assert!(matches!(used, Err(EnrolError::Revoked { .. })), "{used:?}");
    let made = storage.add_enrolment(Digest::of(b"new"), &enrolment(4), &change("token", NOW_MS)).await;
    assert!(matches!(made, Err(EnrolError::Revoked { .. })), "{made:?}");
    storage.close().await;
    let storage = open(&folder).await;
    assert_eq!(storage.revoked().await.unwrap(), [first]);
}
