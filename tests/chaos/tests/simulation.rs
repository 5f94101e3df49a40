//! The fast part of the simulation. The long one: `make chaos`.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::path::Path;
use std::process::Command;

use chaos::{fuzz, sim};

const PROGRAM: &str = env!("CARGO_BIN_EXE_rockpool-chaos");

fn rockpool_chaos(args: &[&str]) -> (bool, String) {
    let output = Command::new(PROGRAM).args(args).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn every_promise_holds_through_300_seeds() {
    let (passed, report) = rockpool_chaos(&["fuzz", "--seed", "1", "--count", "300"]);
    assert!(passed, "{report}");
}

/// Six hours here; `make chaos` has the 72.
#[test]
fn a_pop_goes_on_for_hours_without_the_cloud_and_loses_nothing() {
    let (ended, outcome) = rockpool_chaos(&["simulate", "--seed", "1", "--away", "6"]);
    assert!(ended, "{outcome}");
    let outcome: sim::Outcome = serde_json::from_str(&outcome).unwrap();
    assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
    assert!(outcome.checked["acknowledged"] > 500, "{:?}", outcome.checked);
    for kind in ["power cut of all", "kill of a quorum", "clock step"] {
        assert!(outcome.faults.contains_key(kind), "no {kind} in {:?}", outcome.faults);
    }
}

#[test]
fn a_thousand_edges_come_back_without_a_stampede() {
    let (passed, report) = rockpool_chaos(&["edges", "--edges", "1000"]);
    assert!(passed, "{report}");
}

#[test]
fn the_same_seed_gives_the_same_event_log_in_a_fresh_process() {
    for seed in [3, 1_000_003] {
        let once = fuzz::simulate(Path::new(PROGRAM), seed, None);
        let again = fuzz::simulate(Path::new(PROGRAM), seed, None);
        assert_eq!(once, again);
        assert_ne!(once.log, fuzz::simulate(Path::new(PROGRAM), seed + 1, None).log);
    }
}

/// A failing seed fails again, in the same way and at the same moment.
#[test]
fn twenty_failing_seeds_replay() {
    let mut failed = 0;
    for seed in 1_u64.. {
        let once = fuzz::simulate(Path::new(PROGRAM), seed, Some("vote_not_persisted"));
        if !once.violations.is_empty() {
            assert_eq!(once, fuzz::simulate(Path::new(PROGRAM), seed, Some("vote_not_persisted")));
            failed += 1;
        }
        if failed == 20 {
            return;
        }
        assert!(seed < 200, "only {failed} of {seed} seeds failed, although a bug is planted");
    }
}

#[test]
fn planted_bugs_are_caught() {
    let (passed, report) = rockpool_chaos(&["planted"]);
    assert!(passed, "{report}");
}
