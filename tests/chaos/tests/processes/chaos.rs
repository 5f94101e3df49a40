//! One short chaos run; `rockpool-chaos processes` is the long one.

use ::chaos::processes::{Gear, Options, run};

use crate::support::turn;

#[tokio::test(flavor = "multi_thread")]
async fn a_pop_of_processes_keeps_its_promises_under_faults() {
    let _turn = turn().await;
    let report =
        run(Options { seed: 1, runs: 1, seconds: 8, at_once: 1, gear: Gear::default() }).await.unwrap();
    assert!(report.passed(), "{report}");
    for kind in ["acknowledged", "linearizable reads", "digests", "taken by the cloud", "healings"] {
        assert!(report.checked.contains_key(kind), "no {kind} was checked: {report}");
    }
    assert!(report.faults.len() >= 3, "{report}");
}
