//! Events are counted once, in order, whoever sends them and however often.

use std::collections::BTreeSet;

use cloud_storage::{AppendError, Change};
use proptest::prelude::*;
use proto::Offset;

use crate::{NOW_MS, event, events, open, pop};

#[tokio::test]
async fn an_append_moves_the_offset_and_the_counters() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let fra = pop("fra");
    assert_eq!(storage.position(&fra).await.unwrap(), Offset(0));
    let appended = storage.append(&fra, Offset(1), &events(0..500), NOW_MS).await.unwrap();
    assert_eq!((appended.upto, appended.known), (Offset(500), 0));
    assert_eq!(appended.counted.values().sum::<u64>(), 500);
    let counts = storage.event_counts().await.unwrap();
    assert_eq!((counts.total, counts.by_pop["fra"]), (500, 500));
    assert_eq!(counts.by_kind["click"], 125);
    assert_eq!(counts.by_kind["impression"], 250);
    assert_eq!(counts.by_kind["rating"], 125);
    assert_eq!(storage.position(&fra).await.unwrap(), Offset(500));
}

/// What a restored database had acknowledged once is given up, counted, and the next event is due after it.
#[tokio::test]
async fn a_loss_is_given_up_once() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let fra = pop("fra");
    let change = Change {
        at_ms: NOW_MS,
        who: "admin".into(),
        what: "cloud.accept_loss".into(),
        detail: "a test".into(),
    };
    let accept = async |upto, to| storage.accept_loss(&fra, Offset(upto), Offset(to), &change).await;
    storage.append(&fra, Offset(1), &events(0..5), NOW_MS).await.unwrap();
    assert!(accept(4, 9).await.is_err(), "not what is here");
    assert!(accept(5, 5).await.is_err(), "nothing is lost");
    assert!(accept(5, u64::MAX).await.is_err(), "more than can ever be");
    assert_eq!(storage.pop(&fra).await.unwrap().unwrap().lost, 0);
    accept(5, 9).await.unwrap();
    assert!(accept(5, 9).await.is_err(), "once");
    let view = storage.pop(&fra).await.unwrap().unwrap();
    assert_eq!((view.upto, view.lost), (Offset(9), 4));
    assert_eq!(storage.pops().await.unwrap()[0].lost, 4);
    let appended = storage.append(&fra, Offset(10), &events(9..12), NOW_MS).await.unwrap();
    assert_eq!((appended.upto, storage.event_counts().await.unwrap().total), (Offset(12), 8));
    assert_eq!(storage.audit_recent(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn resent_overlapping_and_split_batches_count_once() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let fra = pop("fra");
    let all = events(0..1_000);
    storage.append(&fra, Offset(1), &all[..400], NOW_MS).await.unwrap();
    // The acknowledgement got lost, so all of it comes again.
    let again = storage.append(&fra, Offset(1), &all[..400], NOW_MS).await.unwrap();
    assert_eq!((again.upto, again.known, again.counted.len()), (Offset(400), 400, 0));
    // Half of it is known.
    let half = storage.append(&fra, Offset(201), &all[200..600], NOW_MS).await.unwrap();
    assert_eq!((half.upto, half.known), (Offset(600), 200));
    // Cut in two, the second half twice.
    storage.append(&fra, Offset(601), &all[600..777], NOW_MS).await.unwrap();
    storage.append(&fra, Offset(778), &all[777..], NOW_MS).await.unwrap();
    let last = storage.append(&fra, Offset(778), &all[777..], NOW_MS).await.unwrap();
    assert_eq!(last.upto, Offset(1_000));
    assert_eq!(storage.event_counts().await.unwrap().total, 1_000);
}

#[tokio::test]
async fn a_gap_is_refused_and_names_what_was_due() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let fra = pop("fra");
    storage.append(&fra, Offset(1), &events(0..10), NOW_MS).await.unwrap();
    let error = storage.append(&fra, Offset(12), &events(11..20), NOW_MS).await.unwrap_err();
    assert!(matches!(error, AppendError::Gap { first: Offset(12), expected: Offset(11) }), "{error}");
    assert_eq!(error.code(), proto::Code::OutOfOrder);
    assert_eq!(storage.position(&fra).await.unwrap(), Offset(10));
    assert_eq!(storage.event_counts().await.unwrap().total, 10);
}

#[tokio::test]
async fn an_event_of_two_pops_counts_for_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    storage.append(&pop("fra"), Offset(1), &events(0..10), NOW_MS).await.unwrap();
    let appended = storage.append(&pop("sin"), Offset(1), &events(5..15), NOW_MS).await.unwrap();
    assert_eq!((appended.upto, appended.known), (Offset(10), 5));
    let counts = storage.event_counts().await.unwrap();
    assert_eq!((counts.total, counts.by_pop["fra"], counts.by_pop["sin"]), (15, 10, 5));
}

#[tokio::test]
async fn an_id_twice_in_one_batch_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let batch = [event(1), event(2), event(1), event(3)];
    let appended = storage.append(&pop("fra"), Offset(1), &batch, NOW_MS).await.unwrap();
    assert_eq!((appended.upto, appended.known), (Offset(4), 1));
    assert_eq!(storage.event_counts().await.unwrap().total, 3);
}

#[tokio::test]
async fn a_log_that_began_anew_is_refused_rather_than_lost() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let fra = pop("fra");
    storage.append(&fra, Offset(1), &events(0..100), NOW_MS).await.unwrap();
    let error = storage.append(&fra, Offset(1), &events(5_000..5_050), NOW_MS).await.unwrap_err();
    assert!(matches!(error, AppendError::Rewritten { first: Offset(1), last: Offset(50) }), "{error}");
    let error = storage.append(&fra, Offset(91), &events(5_000..5_050), NOW_MS).await.unwrap_err();
    assert!(matches!(error, AppendError::Rewritten { first: Offset(91), last: Offset(100) }), "{error}");
    assert_eq!(storage.event_counts().await.unwrap().total, 100);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let fra = pop("fra");
    let storage = open(&folder).await;
    storage.append(&fra, Offset(1), &events(0..300), NOW_MS).await.unwrap();
    storage.close().await;
    let storage = open(&folder).await;
    assert_eq!(storage.position(&fra).await.unwrap(), Offset(300));
    storage.append(&fra, Offset(201), &events(200..400), NOW_MS).await.unwrap();
    assert_eq!(storage.event_counts().await.unwrap().total, 400);
}

#[tokio::test]
async fn leaders_old_and_new_and_other_pops_at_once_count_once() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let all = std::sync::Arc::new(events(0..2_000));
    let mut senders = tokio::task::JoinSet::new();
    // Two leaders of one PoP, each sending everything in batches of its own size, and a PoP with the same events.
    for (name, batch) in [("fra", 97_usize), ("fra", 250), ("sin", 130)] {
        let (storage, all) = (storage.clone(), all.clone());
        senders.spawn(async move {
            let fra = pop(name);
            let mut at = 0;
            while at < all.len() {
                let end = (at + batch).min(all.len());
                let first = Offset(at as u64 + 1);
                let upto = storage.append(&fra, first, &all[at..end], NOW_MS).await.unwrap().upto;
                assert!(upto.0 >= end as u64, "an acknowledgement covers what was sent");
                at = end;
            }
        });
    }
    while let Some(done) = senders.join_next().await {
        done.unwrap();
    }
    let counts = storage.event_counts().await.unwrap();
    assert_eq!(counts.total, 2_000);
    assert_eq!(counts.by_pop.values().sum::<u64>(), 2_000);
    assert_eq!(storage.position(&pop("fra")).await.unwrap(), Offset(2_000));
    assert_eq!(storage.position(&pop("sin")).await.unwrap(), Offset(2_000));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any cuts, resends and restarts of two PoPs that share some events: counts are those of a set.
    #[test]
    fn any_sequence_of_batches_counts_each_id_once(
        steps in proptest::collection::vec((any::<bool>(), 0_u64..40, 1_u64..60, 0_u8..10), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mut storage = open(&folder).await;
            let (mut model, mut uptos) = (BTreeSet::new(), [0_u64; 2]);
            for (second, back, len, restart) in steps {
                let (which, name) = if second { (1, "sin") } else { (0, "fra") };
                // The second PoP's log is the first one's, moved by 25: half of their events are the same.
                let number = |offset: u64| offset + if second { 25 } else { 0 };
                let first = uptos[which].saturating_sub(back) + 1;
                let batch: Vec<_> = (first..first + len).map(|offset| event(number(offset))).collect();
                let appended = storage.append(&pop(name), Offset(first), &batch, NOW_MS).await.unwrap();
                model.extend((first..first + len).map(number));
                uptos[which] = uptos[which].max(first + len - 1);
                assert_eq!(appended.upto, Offset(uptos[which]));
                if restart == 0 {
                    storage.close().await;
                    storage = open(&folder).await;
                }
                assert_eq!(storage.event_counts().await.unwrap().total, model.len() as u64);
            }
            storage.close().await;
        });
    }
}
