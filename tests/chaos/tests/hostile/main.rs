//! Five hundred hostile bundles for a real node: its store, its uplink and its bundles are those of `edge-node`; the cloud behind the
//! uplink protocol is one that lies. None is activated, nothing panics, and the last known good is served all the time.
//!
//! `SEED=7 BUNDLES=5000 cargo test -p chaos --test hostile -- --nocapture`
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

mod cloud;
mod kinds;
mod node;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kinds::{Kind, Mint};
use node::Node;

/// From the moment a hostile bundle is announced until it was refused and the last known good has answered.
const SERVED_WITHIN: Duration = Duration::from_secs(2);
/// After so many hostile bundles comes a good one: a node that refused everything would be no use.
const GOOD_EVERY: u64 = 20;
/// The largest that this process may become: sizes that are claimed are no reason to take memory. KiB.
const RSS_MAX_KIB: u64 = 600 * 1024;

static PANICS: AtomicU64 = AtomicU64::new(0);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn rss_peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bundles_are_never_activated() {
    let (seed, count) = (setting("SEED", 1), setting("BUNDLES", 500));
    println!("SEED={seed} BUNDLES={count}");
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        report(panic);
    }));
    let mut mint = Mint::new(seed);
    let mut node = Node::start(mint.trusted(), seed).await;
    let (mut good, mut seen, mut slowest) = (0, BTreeMap::new(), Duration::ZERO);
    for number in 0..count {
        if number % GOOD_EVERY == 0 {
            let (revision, published) = mint.good();
            node.cloud.publish(published);
            node.serves(revision, SERVED_WITHIN).await;
            good = revision;
        }
        let kind = mint.draw();
        *seen.entry(kind).or_insert(0_u64) += 1;
        let (announced, began) = (mint.next_revision(), Instant::now());
        let hostile = mint.hostile(kind, announced);
        node.cloud.publish(hostile);
        let reason = node.refuses(announced, SERVED_WITHIN).await;
        assert!(!reason.contains("panicked"), "{kind:?}: {reason}");
        node.answers_from(good);
        let took = began.elapsed();
        assert!(took < SERVED_WITHIN, "{kind:?} kept the node for {took:?}");
        slowest = slowest.max(took);
    }
    let missing: Vec<_> = Kind::ALL.iter().filter(|kind| !seen.contains_key(kind)).collect();
    println!("{count} hostile bundles, the slowest took {slowest:?}: {seen:?}");
    assert!(missing.is_empty(), "a kind did not occur: {missing:?}");
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "panics, see above");
    let peak = rss_peak_kib();
    assert!(peak < RSS_MAX_KIB, "this process took {peak} KiB");
    let (kept, wanted) = (node.files(), mint.files_of_good());
    let max = wanted + kinds::FILES_MAX;
    assert!(kept <= max, "{kept} files are kept: those of two bundles are at most {max}");
}
