//! One request within its deadline, whatever nodes do.

use std::time::{Duration, Instant};

use client_sdk::{Code, SdkError, TraceId};
use proto::ErrorReply;
use transport::memory::Settings;

use crate::pop::{Manner, MemoryPop, PATIENCE, custom, home, preferred, visitor};

fn refusal(code: Code) -> ErrorReply {
    ErrorReply::new(code, "as the test wants it")
}

#[tokio::test]
async fn a_silent_node_is_answered_for_by_another_within_the_deadline_and_then_left_alone() {
    let memory = MemoryPop::new(3);
    let client = memory.client(&[1, 2, 3]).await;
    let silent = preferred(&client);
    memory.pop.set(silent, Manner::Silent);
    let deadline = Duration::from_secs(2);
    let begun = Instant::now();
    client.recommend(home(&visitor("ada")).deadline(deadline)).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= deadline / 4 && took < deadline, "a share of the deadline, then another node: {took:?}");
    assert_ne!(preferred(&client), silent);
    // The next request does not wait for the silent node again.
    let begun = Instant::now();
    client.recommend(home(&visitor("ada")).deadline(deadline)).await.unwrap();
    assert!(begun.elapsed() < deadline / 2, "{:?}", begun.elapsed());
    assert_eq!(client.stats().failovers, 1);
}

#[tokio::test]
async fn a_killed_node_is_answered_for_by_another() {
    let memory = MemoryPop::new(3);
    let client = memory.client(&[1, 2, 3]).await;
    for _ in 0..2 {
        memory.network.kill(&format!("node-{}", preferred(&client)));
        client.recommend(home(&visitor("ada")).deadline(Duration::from_secs(4))).await.unwrap();
    }
}

#[tokio::test]
async fn errors_that_say_elsewhere_move_on_at_once() {
    for code in [Code::NotReady, Code::Unavailable, Code::DeadlineExceeded, Code::Internal] {
        let memory = MemoryPop::new(3);
        let client = memory.client(&[1, 2, 3]).await;
        memory.pop.set(preferred(&client), Manner::Refuse(refusal(code)));
        let begun = Instant::now();
        client.recommend(home(&visitor("ada"))).await.unwrap();
        assert!(
            begun.elapsed() < PATIENCE / 4,
            "no share of the deadline was waited for: {:?}",
            begun.elapsed()
        );
        let asked = memory.pop.asked();
        assert_eq!(asked.len(), 2, "{code}");
        assert_eq!(asked[0].trace, asked[1].trace, "both questions belong to one trace");
        assert_ne!(asked[0].trace, TraceId::default());
    }
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let memory = MemoryPop::new(1);
    let client = memory.client(&[1]).await;
    memory.pop.set(1, Manner::RefuseTimes(1, refusal(Code::Overloaded).retry_after_ms(150)));
    let begun = Instant::now();
    client.recommend(home(&visitor("ada"))).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
    // A pause that does not fit into the deadline is not waited for.
    memory.pop.set(1, Manner::Refuse(refusal(Code::RateLimited).retry_after_ms(3_600_000)));
    let begun = Instant::now();
    let error = client.recommend(home(&visitor("ada"))).await.unwrap_err();
    assert!(begun.elapsed() < PATIENCE / 4);
    let SdkError::Deadline { last: Some(last), .. } = &error else { panic!("{error}") };
    assert_eq!(last.code(), Code::RateLimited, "{error}");
}

#[tokio::test]
async fn a_final_refusal_returns_without_asking_another() {
    let memory = MemoryPop::new(3);
    let client = memory.client(&[1, 2, 3]).await;
    for node in 1..=3 {
        memory.pop.set(node, Manner::Refuse(refusal(Code::NotFound)));
    }
    let error = client.recommend(home(&visitor("ada"))).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(memory.pop.asked().len(), 1);
}

#[tokio::test]
async fn a_request_that_is_not_allowed_is_not_sent() {
    let memory = MemoryPop::new(1);
    let client = memory.client(&[1]).await;
    for request in [home(&visitor("ada")).count(0), home(&visitor("ada")).context("name", "x".repeat(10_000))]
    {
        let error = client.recommend(request).await.unwrap_err();
        assert!(matches!(error, SdkError::Refused { node: None, .. }), "{error}");
    }
    assert!(memory.pop.asked().is_empty());
}

#[tokio::test]
async fn all_nodes_silent_is_a_deadline_and_costs_no_more_than_it() {
    let memory = MemoryPop::new(3);
    let client = memory.client(&[1, 2, 3]).await;
    for node in 1..=3 {
        memory.pop.set(node, Manner::Silent);
    }
    let deadline = Duration::from_millis(400);
    let begun = Instant::now();
    let error = client.recommend(home(&visitor("ada")).deadline(deadline)).await.unwrap_err();
    assert!(matches!(error, SdkError::Deadline { deadline_ms: 400, asked: 3, .. }), "{error}");
    assert!(begun.elapsed() >= deadline);
    // Back again, they are found again, though every one of them is being left alone for a while.
    for node in 1..=3 {
        memory.pop.set(node, Manner::Serve);
    }
    client.recommend(home(&visitor("ada"))).await.unwrap();
}

/// The node is back, but nothing tells the client that its old connection is dead: only silence does.
#[tokio::test]
async fn a_connection_that_died_silently_is_replaced() {
    let settings = Settings { idle_timeout_ms: 600_000, ..Settings::default() };
    let mut memory = MemoryPop::with(std::slice::from_ref(&settings));
    let client = memory.client(&[1]).await;
    client.recommend(home(&visitor("ada"))).await.unwrap();
    memory.network.kill("node-1");
    memory.start(1, settings);
    let brief = home(&visitor("ada")).deadline(Duration::from_millis(100));
    assert!(matches!(client.recommend(brief).await, Err(SdkError::Deadline { .. })));
    client.recommend(home(&visitor("ada")).deadline(Duration::from_secs(5))).await.unwrap();
    client.track(&visitor("ada"), custom("arrives")).await.unwrap();
    client.flush(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_partition_from_one_node_goes_unnoticed_by_the_app() {
    let memory = MemoryPop::new(2);
    let client = memory.client(&[1, 2]).await;
    let cut_off = format!("node-{}", preferred(&client));
    memory.network.isolate(&cut_off, &["app"]);
    for n in 0..20 {
        client.track(&visitor("ada"), custom(&format!("event {n}"))).await.unwrap();
        client.recommend(home(&visitor("ada")).deadline(Duration::from_secs(4))).await.unwrap();
    }
    client.flush(PATIENCE).await.unwrap();
    assert_eq!(memory.pop.events().len(), 20);
    assert_eq!(client.stats().failures, 0);
}
