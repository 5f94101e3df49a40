//! The fast part of the simulation. The long one: `make chaos`.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::path::Path;
use std::process::Command;

use chaos::fuzz;

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
