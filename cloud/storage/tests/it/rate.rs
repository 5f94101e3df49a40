//! How fast events become durable. The bar is far below what the machine gives, so that only a lost index, transaction or
//! prepared statement fails it; the figure is printed.

use std::time::Instant;

use proto::Offset;

use crate::{NOW_MS, events, open, pop};

/// Events a second that this must never fall below, on a busy two-core machine.
const RATE_MIN: f64 = 2_000.0;

#[tokio::test]
async fn batches_of_500_are_durable_at_rate() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let storage = open(&folder).await;
    let batches: u64 = std::env::var("BATCHES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let mut times = Vec::new();
    for batch in 0..batches {
        let events = events(batch * 500..batch * 500 + 500);
        let begun = Instant::now();
        storage.append(&pop("fra"), Offset(batch * 500 + 1), &events, NOW_MS).await.unwrap();
        times.push(begun.elapsed());
    }
    let total: f64 = times.iter().map(std::time::Duration::as_secs_f64).sum();
    times.sort_unstable();
    let rate = batches as f64 * 500.0 / total;
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{rate:.0} events/s in batches of 500; a batch p50 {p50:.1?}, p99 {p99:.1?}");
    assert_eq!(storage.event_counts().await.unwrap().total, batches * 500);
    assert!(rate > RATE_MIN, "{rate:.0} events/s");
}
