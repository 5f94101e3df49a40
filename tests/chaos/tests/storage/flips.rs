//! Bits that flip on the disk of a closed store: an error or a repair, never wrong data, never a panic.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chaos::driver::{Driver, Orders, Place};
use chaos::pop::{Pop, Settings};
use futures::{StreamExt, stream};
use proto::Digest;
use tokio::time::Instant;

use crate::{number, scratch};

const PATIENCE: Duration = Duration::from_secs(20);
/// Stores that are opened at a time.
const AT_ONCE: usize = 4;

/// A folder, opened in the same boot or after another one, and after its node was elected: what its keyspace comes to; or why it was refused.
async fn opened(dir: &Path, rebooted: bool) -> Result<(u64, Digest), String> {
    let rebooted = (1..=u64::from(rebooted)).collect();
    let settings = Settings { election_ms: 50, rebooted, ..Settings::busy(1, 1, Arc::new(|_| {})) };
    let mut pop = Pop::new(dir, settings);
    pop.boot(1).await.unwrap();
    if let Some(error) = pop.refused().get(&1) {
        return Err(error.to_string());
    }
    let served = async {
        pop.form().await?;
        let (_, leader) = pop.leader(PATIENCE).await?;
        let read = leader.read_index(Instant::now() + PATIENCE).await?;
        anyhow::ensure!(leader.wait_applied(read, PATIENCE).await, "not applied");
        Ok(leader.digest().await?)
    };
    let served = served.await;
    pop.stop_all().await;
    served.map_err(|error: anyhow::Error| format!("it opens, but: {error:#}"))
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Bytes of a file that are flipped: its beginning, its end, and one of each of many equal parts between.
fn sites(len: u64, parts: u64, random: &mut fastrand::Rng) -> Vec<u64> {
    let mut sites: Vec<u64> = (0..len.min(6)).chain(len.saturating_sub(6)..len).collect();
    let parts = parts.min(len);
    sites.extend((0..parts).map(|part| random.u64(len * part / parts..len * (part + 1) / parts)));
    sites.sort_unstable();
    sites.dedup();
    sites
}

/// Panics outside of sled, whose own are caught where it is opened.
fn count_panics() -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let (counted, before) = (Arc::clone(&count), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|at| at.file().contains("sled-")) {
            counted.fetch_add(1, Ordering::Relaxed);
            before(panic);
        }
    }));
    count
}

/// One bit of one file, and whether the machine was started anew since: then sled's pages are not looked at.
struct Flip {
    inside: PathBuf,
    at: u64,
    bit: u8,
    rebooted: bool,
}

impl Flip {
    /// Flips of all files of a node.
    fn all(node: &Path, parts: u64, random: &mut fastrand::Rng) -> Vec<Flip> {
        let mut found = Vec::new();
        files(node, &mut found);
        let mut flips = Vec::new();
        for path in &found {
            let inside = path.strip_prefix(node).unwrap();
            for at in sites(fs::metadata(path).unwrap().len(), parts, random) {
                let bit = random.u8(0..8);
                flips.extend([true, false].map(|rebooted| Flip { inside: inside.into(), at, bit, rebooted }));
            }
        }
        flips
    }

    async fn opened(&self, node: &Path) -> Result<(u64, Digest), String> {
        let copied = scratch();
        let target = copied.path().join("node-1");
        copy(node, &target);
        let mut bytes = fs::read(target.join(&self.inside)).unwrap();
        bytes[usize::try_from(self.at).unwrap()] ^= 1 << self.bit;
        fs::write(target.join(&self.inside), bytes).unwrap();
        opened(copied.path(), self.rebooted).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_an_error_or_repaired() {
    let seed = number("SEED", 3);
    println!("SEED={seed}");
    let dir = scratch();
    let place = Place::new(dir.path()).unwrap();
    let orders = Orders { writes: 100, ..Orders::busy(1, seed) };
    assert!(Driver::start(&place, &orders).unwrap().ended().unwrap().success());
    let node = place.root().join("node-1");
    let whole = scratch();
    copy(&node, &whole.path().join("node-1"));
    let right = opened(whole.path(), false).await.unwrap();
    let panics = count_panics();
    let flips = Flip::all(&node, number("FLIPS", 12), &mut fastrand::Rng::with_seed(seed));
    let count = flips.len();
    // By part of the folder: right, and refused.
    let (mut outcomes, mut wrong) = (BTreeMap::<_, [u64; 2]>::new(), Vec::new());
    let each = flips.into_iter().map(|flip| {
        let node = node.clone();
        async move { (flip.opened(&node).await, flip) }
    });
    let mut opened = stream::iter(each).buffer_unordered(AT_ONCE);
    while let Some((opened, flip)) = opened.next().await {
        let Flip { inside, at, bit, rebooted } = flip;
        let part = inside.components().next().unwrap().as_os_str().to_owned();
        let counts = outcomes.entry(part).or_default();
        match opened {
            Ok(digest) if digest == right => counts[0] += 1,
            Err(reason) if !reason.starts_with("it opens") => counts[1] += 1,
            other => wrong.push(format!("{}, byte {at}, bit {bit}, {rebooted}: {other:?}", inside.display())),
        }
    }
    println!("{count} flips; by file, right in spite of it, and refused: {outcomes:?}");
    assert_eq!(wrong, Vec::<String>::new(), "of {count} flips; right would be {right:?}");
    assert_eq!(panics.load(Ordering::Relaxed), 0, "panics");
}
