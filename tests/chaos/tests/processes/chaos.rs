//! One short chaos run, and two bugs that one must find; `rockpool-chaos processes` is the long one.

use ::chaos::processes::{Gear, Options, Report, run};

use crate::support::turn;

async fn short(seed: u64, planted: Option<&str>) -> Report {
    let gear = Gear { planted: planted.map(str::to_owned), ..Gear::default() };
    run(Options { seed, runs: 1, seconds: 8, at_once: 1, gear }).await.unwrap()
}

/// Fails where the bug was not caught by one of the promises that it breaks.
async fn caught(planted: &str, by: &[&str]) {
    let _turn = turn().await;
    let report = short(1, Some(planted)).await;
    let broken = |by: &&str| report.violations.iter().any(|(_, violation)| violation.invariant == **by);
    assert!(by.iter().any(broken), "{planted} was not caught:\n{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pop_of_processes_keeps_its_promises_under_faults() {
    let _turn = turn().await;
    let report = short(1, None).await;
    assert!(report.passed(), "{report}");
    for kind in ["acknowledged", "linearizable reads", "digests", "taken by the cloud", "healings"] {
        assert!(report.checked.contains_key(kind), "no {kind} was checked: {report}");
    }
    assert!(report.faults.len() >= 3, "{report}");
    let (visitors, shared, operations) = report.histories;
    assert!(
        visitors > 0 && shared > 0 && operations > visitors,
        "nothing was searched for an order: {report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_do_not_wait_for_what_they_were_promised_are_caught() {
    caught("session_token_ignored", &["linearizable_histories"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_counted_twice_are_caught() {
    caught("retry_without_idempotency_key", &["event_reaches_cloud_exactly_once"]).await;
}
