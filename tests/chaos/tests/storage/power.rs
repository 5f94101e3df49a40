//! Power cuts.

use chaos::power::{self, CutAt};

use crate::number;

/// `POWER_CUTS` and `SEED` say how many, and which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_in_a_power_cut() {
    let (seed, count) = (number("SEED", 1), number("POWER_CUTS", 100));
    println!("SEED={seed} POWER_CUTS={count}");
    let report = power::run(seed, count, |report| println!("{report}")).await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.missing(), Vec::<&str>::new(), "a run that did not lose that shows nothing");
}

/// One of them again, as a report names it: `TRACE`, `RECORD`, `SEED`, `NODE` (0: all).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "to look closer at a failure"]
async fn replay() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init();
    let trace = std::env::var_os("TRACE").expect("TRACE: the file that a report names");
    let only = Some(number("NODE", 0)).filter(|node| *node > 0);
    let at = CutAt { record: usize::try_from(number("RECORD", 0)).unwrap(), only, seed: number("SEED", 0) };
    let report = power::replay(trace.as_ref(), at).await.unwrap();
    assert!(report.is_clean(), "{report}");
}
