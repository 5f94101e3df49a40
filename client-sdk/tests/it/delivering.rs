//! Events: in order, once each, until acknowledged; what is put aside; tokens that make them seen.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use client_sdk::{Code, DeadLetterHook, EventId, EventKind, SdkError, VisitorId};
use proto::{ErrorReply, SessionToken};

use crate::pop::{Manner, MemoryPop, PATIENCE, custom, home, pop_id, preferred, until, visitor};

fn named(prefix: &str, count: usize) -> Vec<(VisitorId, EventKind)> {
    (0..count).map(|n| (visitor("ada"), custom(&format!("{prefix} {n}")))).collect()
}

#[tokio::test]
async fn events_arrive_in_order_and_in_batches() {
    let memory = MemoryPop::new(1);
    let client = memory.client(&[1]).await;
    let mut tracked = Vec::new();
    for n in 0..40 {
        tracked.extend(client.track_all(named(&format!("call {n}"), 50)).await.unwrap());
    }
    client.flush(PATIENCE).await.unwrap();
    assert_eq!(memory.pop.event_ids(), tracked);
    assert!(tracked.is_sorted());
    assert_eq!(client.pending(), 0);
    let batches = memory.pop.batches();
    assert!(batches.iter().all(|len| *len <= 500), "{batches:?}");
    let stats = client.stats();
    assert_eq!((stats.tracked, stats.accepted, stats.duplicates), (2_000, 2_000, 0));
}

#[tokio::test]
async fn large_events_are_cut_into_batches_that_fit_a_frame() {
    let memory = MemoryPop::new(1);
    let client = memory.client(&[1]).await;
    let attributes = (0..32).map(|n| (format!("name-{n}"), "v".repeat(512))).collect::<Vec<_>>();
    let large = EventKind::Custom { name: "large".into(), attributes };
    let events = vec![(visitor("ada"), large); 200];
    let tracked = client.track_all(events).await.unwrap();
    client.flush(PATIENCE).await.unwrap();
    assert_eq!(memory.pop.event_ids(), tracked);
    assert!(memory.pop.batches().len() >= 5, "{:?}", memory.pop.batches());
}

#[tokio::test]
async fn a_batch_whose_acknowledgement_is_lost_goes_again_with_the_same_ids() {
    let memory = MemoryPop::new(2);
    let client = memory.client(&[1, 2]).await;
    for node in 1..=2 {
        memory.pop.set(node, Manner::LoseReplies(3));
    }
    let tracked = client.track_all(named("event", 20)).await.unwrap();
    client.flush(PATIENCE).await.unwrap();
    assert_eq!(memory.pop.event_ids(), tracked, "counted once each, in order");
    assert!(memory.pop.duplicates() >= 20, "{}", memory.pop.duplicates());
    assert!(client.stats().duplicates > 0);
}

#[tokio::test]
async fn what_was_tracked_is_asked_for_by_the_visitors_next_request_on_any_node() {
    let memory = MemoryPop::new(3);
    let client = memory.client(&[1, 2, 3]).await;
    client.track(&visitor("ada"), custom("seen")).await.unwrap();
    client.track(&visitor("bob"), custom("seen")).await.unwrap();
    client.flush(PATIENCE).await.unwrap();
    client.recommend(home(&visitor("ada"))).await.unwrap();
    memory.network.kill(&format!("node-{}", preferred(&client)));
    client.recommend(home(&visitor("ada"))).await.unwrap();
    client.recommend(home(&visitor("eve"))).await.unwrap();
    let asked = memory.pop.asked();
    assert_ne!(asked[0].node, asked[1].node);
    let token = |at: usize| asked[at].recommend.token.clone();
    let index = token(0).expect("it has written").index;
    assert!((1..=2).contains(&index));
    assert_eq!(token(1), Some(SessionToken { pop: pop_id(), index }), "on another node too");
    assert_eq!(token(2), None, "eve has written nothing");
}

#[tokio::test]
async fn events_carry_the_trace_of_the_request_that_caused_them() {
    let memory = MemoryPop::new(1);
    let client = memory.client(&[1]).await;
    let answer = client.recommend(home(&visitor("ada"))).await.unwrap();
    let (item, slot) = (answer.items[0].item.clone(), "home".parse().unwrap());
    client.track(&visitor("ada"), EventKind::Click { item, slot, answer: Some(answer.id) }).await.unwrap();
    client.track(&visitor("ada"), custom("unrelated")).await.unwrap();
    client.flush(PATIENCE).await.unwrap();
    let (events, trace) = (memory.pop.events(), memory.pop.asked()[0].trace);
    assert_eq!(events[0].trace, trace);
    assert_ne!(events[1].trace, trace);
}

#[tokio::test]
async fn a_full_queue_says_so_and_loses_nothing_it_took() {
    let memory = MemoryPop::new(1);
    memory.pop.set(1, Manner::Silent);
    let folder = tempfile::tempdir().unwrap();
    for queue_dir in [None, Some(folder.path().to_owned())] {
        memory.pop.set(1, Manner::Silent);
        let before = memory.pop.event_ids().len();
        let mut config = memory.config(&[1]);
        config.queue_bytes_max = 128 * 1024;
        config.queue_dir = queue_dir;
        let client = memory.client_with(config).await;
        let mut taken: Vec<EventId> = Vec::new();
        let error = loop {
            match client.track_all(named(&"x".repeat(200), 50)).await {
                Ok(ids) => taken.extend(ids),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, SdkError::QueueFull { bytes_max: 131_072, .. }), "{error}");
        assert_eq!(error.code(), Code::Overloaded);
        assert!(taken.len() >= 300 && client.pending() == taken.len() as u64, "{}", taken.len());
        memory.pop.set(1, Manner::Serve);
        client.flush(PATIENCE).await.unwrap();
        assert_eq!(memory.pop.event_ids()[before..], taken);
        client.track(&visitor("ada"), custom("there is room again")).await.unwrap();
        client.flush(PATIENCE).await.unwrap();
        client.close().await;
    }
}

#[tokio::test]
async fn poison_is_put_aside_alone_reported_and_kept() {
    let memory = MemoryPop::new(1);
    let folder = tempfile::tempdir().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut config = memory.config(&[1]);
    config.queue_dir = Some(folder.path().to_owned());
    config.on_dead_letter = Some(DeadLetterHook(Arc::new({
        let heard = Arc::clone(&heard);
        move |letter: &client_sdk::DeadLetter| heard.lock().unwrap().push(letter.event.id)
    })));
    let client = memory.client_with(config).await;
    let events: Vec<_> = (0..300)
        .map(|n| {
            (visitor("ada"), custom(&if n % 100 == 50 { format!("poison {n}") } else { format!("good {n}") }))
        })
        .collect();
    let ids = client.track_all(events).await.unwrap();
    client.flush(PATIENCE).await.unwrap();
    let poison = [ids[50], ids[150], ids[250]];
    let good: Vec<_> = ids.iter().copied().filter(|id| !poison.contains(id)).collect();
    assert_eq!(memory.pop.event_ids(), good, "the others arrive, in order");
    assert_eq!(*heard.lock().unwrap(), poison);
    assert_eq!(client.stats().dead_letters, 3);
    let letters = client.dead_letters().await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.event.id).collect::<Vec<_>>(), poison);
    assert!(letters.iter().all(|letter| letter.reply.code == Code::Invalid));
}

#[tokio::test]
async fn a_refused_key_keeps_events_waiting_instead_of_putting_them_aside() {
    let memory = MemoryPop::new(1);
    let client = memory.client(&[1]).await;
    memory.pop.set(1, Manner::Refuse(ErrorReply::new(Code::Forbidden, "app suspended")));
    let id = client.track(&visitor("ada"), custom("kept")).await.unwrap();
    until("the refusal is shown", || client.stats().refusal.is_some()).await;
    assert!(matches!(
        client.flush(Duration::from_millis(20)).await,
        Err(SdkError::NotFlushed { pending: 1 })
    ));
    memory.pop.set(1, Manner::Serve);
    client.flush(PATIENCE).await.unwrap();
    assert_eq!(memory.pop.event_ids(), [id]);
    assert_eq!((client.stats().dead_letters, client.stats().refusal), (0, None));
}

#[tokio::test]
async fn an_event_that_is_not_allowed_is_refused_on_the_spot() {
    let memory = MemoryPop::new(1);
    let client = memory.client(&[1]).await;
    let bad = EventKind::Rating { item: "film".parse().unwrap(), stars: 9.0 };
    let error = client.track(&visitor("ada"), bad).await.unwrap_err();
    assert!(
        matches!(&error, SdkError::Refused { node: None, reply } if reply.code == Code::Invalid),
        "{error}"
    );
    assert!(client.track_all(Vec::new()).await.is_err());
    assert_eq!(client.pending(), 0);
}

/// Nodes that fail in every way, one after another, under a stream of events.
#[tokio::test]
async fn nothing_is_lost_doubled_or_reordered_while_nodes_misbehave() {
    let memory = MemoryPop::new(3);
    let client = memory.client(&[1, 2, 3]).await;
    let error = |code| Manner::Refuse(ErrorReply::new(code, "as the test wants it"));
    let manners = [
        Manner::LoseReplies(1),
        error(Code::Unavailable),
        Manner::Serve,
        error(Code::Overloaded),
        Manner::Silent,
        Manner::LoseReplies(2),
        error(Code::Internal),
        Manner::Serve,
    ];
    let mut tracked = Vec::new();
    for round in 0..48 {
        for node in 1..=3 {
            let at = (round + 3 * usize::try_from(node).unwrap()) % manners.len();
            memory.pop.set(node, manners[at].clone());
        }
        tracked.extend(client.track_all(named(&format!("round {round}"), 7)).await.unwrap());
        // Let some of the misbehaviour meet a batch.
        let _either = client.flush(Duration::from_millis(30)).await;
    }
    for node in 1..=3 {
        memory.pop.set(node, Manner::Serve);
    }
    client.flush(PATIENCE).await.unwrap();
    assert_eq!(memory.pop.event_ids(), tracked);
    assert!(client.stats().resent_batches > 0);
}
