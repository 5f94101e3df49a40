//! What should Raft's log stand on? Appends entries of about 4 KiB, makes each group durable, and prints what that costs;
//! then cuts the newest file off, as a power cut would, and prints what is left.
//!
//! ```text
//! cargo run --manifest-path edge-node/store/log-choice/Cargo.toml -- DIR [SYNCS]
//! cargo run --manifest-path edge-node/store/log-choice/Cargo.toml -- DIR SYNCS raft-log     # one of them, for strace
//! ```

mod stores;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stores::{LogStore, Open};

const ENTRY_BYTES: usize = 4 * 1024;
const GROUPS: [usize; 3] = [1, 8, 64];
/// Entries of the run whose newest file is cut.
const TORN_ENTRIES: u64 = 200;
/// Bytes cut off.
const CUT: u64 = 1_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().context("usage: log-choice DIR [SYNCS] [STORE]")?);
    let syncs: u32 = arguments.next().map_or(Ok(200), |syncs| syncs.parse()).context("SYNCS is a number")?;
    let only = arguments.next();
    let chosen = stores::all().into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name));
    println!("{:<12} {:>6} {:>9} {:>9} {:>10} {:>9}", "store", "group", "p50 ms", "p99 ms", "entries/s", "bytes/B");
    let chosen: Vec<_> = chosen.collect();
    for (name, open) in &chosen {
        for group in GROUPS {
            measure(&dir, name, *open, group, syncs)?;
        }
    }
    if only.is_none() {
        println!("\nThe newest file loses its last {CUT} bytes, or they become zeros or noise; {TORN_ENTRIES} entries were durable.");
        for (name, open) in &chosen {
            for damage in [Damage::Cut, Damage::Zeros, Damage::Noise] {
                torn(&dir, name, *open, damage)?;
            }
        }
    }
    Ok(())
}

/// A fresh folder on the disk that is to be measured.
fn folder(dir: &Path) -> Result<tempfile::TempDir> {
    tempfile::tempdir_in(dir).with_context(|| format!("no folder in {}", dir.display()))
}

fn entry(index: u64) -> Vec<u8> {
    // No store may compress this away: xorshift64 (Marsaglia 2003).
    let mut word = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(ENTRY_BYTES);
    while bytes.len() < ENTRY_BYTES {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn measure(dir: &Path, name: &str, open: Open, group: usize, syncs: u32) -> Result<()> {
    let folder = folder(dir)?;
    let mut store = open(folder.path())?;
    let mut times = Vec::new();
    let mut next = 1;
    let begun = Instant::now();
    for _ in 0..syncs {
        let entries: Vec<_> = (next..next + group as u64).map(entry).collect();
        let since = Instant::now();
        store.append(next, &entries)?;
        times.push(since.elapsed());
        next += group as u64;
    }
    let took = begun.elapsed();
    let written = (next - 1) * ENTRY_BYTES as u64;
    let disk = disk_bytes(folder.path())?;
    // A log that cannot let go of its beginning is of no use.
    store.purge(next / 2)?;
    times.sort();
    println!(
        "{name:<12} {group:>6} {:>9.2} {:>9.2} {:>10.0} {:>9.2}",
        millis(times[times.len() / 2]),
        millis(times[times.len() * 99 / 100]),
        (next - 1) as f64 / took.as_secs_f64(),
        disk as f64 / written as f64,
    );
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn disk_bytes(dir: &Path) -> Result<u64> {
    Ok(files(dir)?.into_iter().map(|(_, len)| len).sum())
}

fn files(dir: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata()? {
            folder if folder.is_dir() => files.extend(self::files(&entry.path())?),
            file => files.push((entry.path(), file.len())),
        }
    }
    Ok(files)
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Cut,
    Zeros,
    Noise,
}

/// What a store makes of the end of its newest file missing, or being something else.
fn torn(dir: &Path, name: &str, open: Open, damage: Damage) -> Result<()> {
    let folder = folder(dir)?;
    let mut store = open(folder.path())?;
    for index in 1..=TORN_ENTRIES {
        store.append(index, &[entry(index)])?;
    }
    // As a crash would leave the files: copied while the store still runs.
    let copy = self::folder(dir)?;
    copy_all(folder.path(), copy.path())?;
    drop(store);
    let (newest, len) = newest_file(copy.path())?;
    damage_end(&newest, len, damage)?;
    let opened = std::panic::catch_unwind(|| open(copy.path()).and_then(|mut store| store.len()));
    let left = match opened {
        Ok(Ok(left)) => format!("opens, {left} entries left"),
        Ok(Err(error)) => format!("refuses to open: {error}"),
        Err(_) => "panics".to_owned(),
    };
    println!("{name:<12} {damage:<6?} {left}");
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    for (path, _) in files(from)? {
        let target = to.join(path.strip_prefix(from)?);
        fs::create_dir_all(target.parent().context("a file lies in a folder")?)?;
        fs::copy(&path, &target)?;
    }
    Ok(())
}

/// The file that was written last, and where its data ends: some stores make their files larger beforehand.
fn newest_file(dir: &Path) -> Result<(PathBuf, u64)> {
    let mut ends = Vec::new();
    for (path, _) in files(dir)? {
        let bytes = fs::read(&path)?;
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        ends.push((end, path));
    }
    ends.sort();
    ends.pop().map(|(end, path)| (path, end)).context("the store has no file")
}

fn damage_end(path: &Path, end: u64, damage: Damage) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let from = end.saturating_sub(CUT) as usize;
    match damage {
        Damage::Cut => bytes.truncate(from),
        Damage::Zeros => bytes[from..].fill(0),
        Damage::Noise => bytes[from..].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 131 + 7) as u8),
    }
    Ok(fs::write(path, bytes)?)
}
