mod crashes;
mod model;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use openraft::EntryPayload;
use openraft::storage::RaftLogStorageExt;
use proto::command::Command;
use proto::{NodeId, Offset, PopId};

use super::*;
use crate::types::{Batch, Membership};

const CHUNK_BYTES: usize = 16 << 20;
const BOOT: &str = "this boot";

struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> LogStore {
        open(self.dir.path()).unwrap()
    }
}

fn open(dir: &Path) -> Result<LogStore, StoreError> {
    open_after_boot(dir, BOOT)
}

fn open_after_boot(dir: &Path, boot: &str) -> Result<LogStore, StoreError> {
    let folder = Folder::open(dir, &PopId::new("pop").unwrap(), NodeId(1)).unwrap();
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    LogStore::open(&folder, CHUNK_BYTES, boot, Arc::new(AtomicU64::new(u64::MAX)), metrics)
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// An entry of each kind in turn; batches are incompressible enough to be told apart.
fn entry(term: u64, index: u64) -> Entry {
    let payload = match index % 7 {
        0 => EntryPayload::Blank,
        1 => EntryPayload::Membership(Membership::new_with_defaults(vec![[1, index].into()], [])),
        _ => {
            let commands: Vec<_> =
                (0..index % 50).map(|n| Command::Acknowledge { upto: Offset(n << 40) }).collect();
            EntryPayload::Normal(Batch::of(&commands.iter().collect::<Vec<_>>()))
        }
    };
    Entry { log_id: id(term, index), payload }
}

fn entries(term: u64, range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(|index| entry(term, index)).collect()
}

async fn all(log: &mut LogStore) -> Vec<Entry> {
    log.try_get_log_entries(..).await.unwrap()
}

#[tokio::test]
async fn it_is_all_there_after_reopening() {
    let disk = Disk::new();
    let mut log = disk.open();
    let vote = Vote::new_committed(3, 2);
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    log.save_vote(&vote).await.unwrap();
    log.blocking_append(entries(3, 0..100)).await.unwrap();
    log.save_committed(Some(id(3, 80))).await.unwrap();
    log.truncate_after(Some(id(3, 89))).await.unwrap();
    log.blocking_append(entries(4, 90..120)).await.unwrap();
    log.purge(id(3, 19)).await.unwrap();
    let expected = [entries(3, 20..90), entries(4, 90..120)].concat();
    assert_eq!(all(&mut log).await, expected);
    log.stop().await.unwrap();
    drop(log);
    let mut log = disk.open();
    assert_eq!(all(&mut log).await, expected);
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(id(3, 80)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(3, 19)), Some(id(4, 119))));
    assert_eq!(log.last_index(), 119);
}

/// What a kill −9 leaves is what the files hold at that moment, as they are copied here while the log still runs.
#[tokio::test]
async fn what_was_called_durable_is_in_the_files() {
    let disk = Disk::new();
    let mut log = disk.open();
    for index in 0..40 {
        log.blocking_append([entry(1, index)]).await.unwrap();
        log.save_vote(&Vote::new(2 + index, 1)).await.unwrap();
        if index % 8 == 0 {
            let copy = copy(disk.dir.path());
            let mut copied = open(copy.path()).unwrap();
            assert_eq!(all(&mut copied).await, entries(1, 0..index + 1));
            assert_eq!(copied.read_vote().await.unwrap(), Some(Vote::new(2 + index, 1)));
        }
    }
}

#[tokio::test]
async fn a_record_cut_off_at_the_end_is_dropped() {
    let disk = Disk::new();
    let mut log = disk.open();
    log.blocking_append(entries(1, 0..50)).await.unwrap();
    log.stop().await.unwrap();
    let whole = newest_chunk(disk.dir.path());
    let len = fs::metadata(&whole).unwrap().len();
    for cut in [1, 7, 30, 200] {
        let copy = copy(disk.dir.path());
        let file = OpenOptions::new().write(true).open(newest_chunk(copy.path())).unwrap();
        file.set_len(len - cut).unwrap();
        let mut log = open(copy.path()).unwrap();
        let left = all(&mut log).await;
        assert!(
            left.len() < 50 && left == entries(1, 0..left.len() as u64),
            "{cut} bytes cut: {} left",
            left.len()
        );
        // And it goes on from there.
        let next = left.len() as u64;
        log.blocking_append(entries(2, next..next + 3)).await.unwrap();
        log.stop().await.unwrap();
        let mut log = open(copy.path()).unwrap();
        assert_eq!(all(&mut log).await, [left, entries(2, next..next + 3)].concat());
    }
}

#[tokio::test]
async fn zeros_at_the_end_are_dropped_and_noise_is_refused() {
    let disk = Disk::new();
    let mut log = disk.open();
    log.blocking_append(entries(1, 0..50)).await.unwrap();
    log.stop().await.unwrap();
    let append = |bytes: &[u8]| {
        let copy = copy(disk.dir.path());
        OpenOptions::new().append(true).open(newest_chunk(copy.path())).unwrap().write_all(bytes).unwrap();
        copy
    };
    let zeros = append(&[0; 5_000]);
    assert_eq!(all(&mut open(zeros.path()).unwrap()).await, entries(1, 0..50));
    // What is not zero was written, perhaps acknowledged, and is damaged now: the node must not go on as if it were not.
    let noise = append(&[0xa5; 5_000]);
    assert!(matches!(open(noise.path()), Err(StoreError::LogDamaged(_))));
}

#[tokio::test]
async fn a_flipped_bit_in_the_middle_is_refused() {
    let disk = Disk::new();
    let mut log = disk.open();
    log.blocking_append(entries(1, 0..50)).await.unwrap();
    log.stop().await.unwrap();
    let copy = copy(disk.dir.path());
    let chunk = newest_chunk(copy.path());
    let mut bytes = fs::read(&chunk).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&chunk, bytes).unwrap();
    assert!(matches!(open(copy.path()), Err(StoreError::LogDamaged(_))));
}

#[tokio::test]
async fn old_entries_are_read_from_disk_and_chunks_go_with_purging() {
    let disk = Disk::new();
    let mut log = disk.open();
    let large = |index: u64| {
        let commands: Vec<_> =
            (0..4_000_u64).map(|n| Command::Acknowledge { upto: Offset(index << 50 | n << 33) }).collect();
        let batch = Batch::of(&commands.iter().collect::<Vec<_>>());
        assert!(batch.len() > 30_000);
        Entry { log_id: id(1, index), payload: EntryPayload::Normal(batch) }
    };
    // More than memory keeps, and several chunks.
    for start in (1..1_601).step_by(100) {
        log.blocking_append((start..start + 100).map(large)).await.unwrap();
    }
    assert!(log.tail().entries(1, 2, usize::MAX).is_none(), "the first is not in memory any more");
    assert_eq!(log.try_get_log_entries(1..4).await.unwrap(), [1, 2, 3].map(large));
    let limited = log.limited_get_log_entries(1, 1_500).await.unwrap();
    let bytes: usize = limited.iter().map(tail::size).sum();
    assert!(limited.len() > 50 && bytes <= READ_BYTES_MAX, "{} entries, {bytes} bytes", limited.len());
    assert_eq!(limited[0], large(1));
    let before = disk_bytes(disk.dir.path());
    log.purge(id(1, 1_590)).await.unwrap();
    log.stop().await.unwrap();
    let after = disk_bytes(disk.dir.path());
    assert!(after < before / 2, "{before} bytes before purging, {after} after");
    let mut log = disk.open();
    assert_eq!(all(&mut log).await, (1_591..1_601).map(large).collect::<Vec<_>>());
}

#[tokio::test]
async fn holes_are_refused() {
    let disk = Disk::new();
    let mut log = disk.open();
    log.blocking_append(entries(1, 0..5)).await.unwrap();
    assert!(log.blocking_append(entries(1, 6..7)).await.is_err());
}

#[tokio::test]
async fn nothing_is_purged_beyond_the_durable_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path(), &PopId::new("pop").unwrap(), NodeId(1)).unwrap();
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let mut log = LogStore::open(&folder, CHUNK_BYTES, BOOT, Arc::new(AtomicU64::new(3)), metrics).unwrap();
    log.blocking_append(entries(1, 0..10)).await.unwrap();
    assert!(log.purge(id(1, 4)).await.is_err());
    log.purge(id(1, 3)).await.unwrap();
    assert_eq!(all(&mut log).await, entries(1, 4..10));
}

#[tokio::test]
async fn one_process_at_a_time() {
    let disk = Disk::new();
    let _log = disk.open();
    assert!(matches!(open(disk.dir.path()), Err(StoreError::Io { operation: "lock", .. })));
}

fn newest_chunk(dir: &Path) -> PathBuf {
    let mut chunks: Vec<_> =
        fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    chunks.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    chunks.sort();
    chunks.pop().unwrap()
}

fn disk_bytes(dir: &Path) -> u64 {
    fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn copy(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("log")).unwrap();
    fs::copy(dir.join("identity"), copy.path().join("identity")).unwrap();
    for entry in fs::read_dir(dir.join("log")).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, copy.path().join("log").join(from.file_name().unwrap())).unwrap();
    }
    copy
}
