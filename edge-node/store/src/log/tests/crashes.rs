//! What is made of a log after a crash: of the process, of the machine, of the disk.

use super::*;

/// The folder of a log with 50 entries and a vote, that was ended in order; with where each entry's record ends.
async fn ended() -> (Disk, u64) {
    let disk = Disk::new();
    let mut log = disk.open();
    log.save_vote(&Vote::new(7, 2)).await.unwrap();
    log.blocking_append(entries(7, 0..50)).await.unwrap();
    log.stop().await.unwrap();
    let len = fs::metadata(newest_chunk(disk.dir.path())).unwrap().len();
    (disk, len)
}

/// Says that the log was on the disk only up to some byte, as a mark may after a power cut.
fn mark(dir: &Path, synced: u64) {
    mark::Mark::begin(&dir.join("log.mark"), BOOT, synced).unwrap();
}

fn change(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let chunk = newest_chunk(dir);
    let mut bytes = fs::read(&chunk).unwrap();
    change(&mut bytes);
    fs::write(&chunk, bytes).unwrap();
}

fn is_damaged(opened: Result<LogStore, StoreError>) -> bool {
    matches!(opened, Err(StoreError::LogDamaged(_)))
}

#[tokio::test]
async fn what_was_promised_and_cannot_be_read_is_damage_whatever_it_looks_like() {
    // A kind of record, a length, a byte of data, of the first record and of the last; a file that is cut; zeros.
    let (_, len) = ended().await;
    let len = usize::try_from(len).unwrap();
    for boot in [BOOT, "another boot"] {
        for at in [0, 3, 5, 40, len / 2, len - 9, len - 1] {
            for bit in [0, 2, 7] {
                let (disk, _) = ended().await;
                change(disk.dir.path(), |bytes| bytes[at] ^= 1 << bit);
                assert!(is_damaged(open_after_boot(disk.dir.path(), boot)), "{boot}: byte {at}, bit {bit}");
            }
        }
        let (disk, _) = ended().await;
        change(disk.dir.path(), |bytes| bytes.truncate(len - 1));
        assert!(is_damaged(open_after_boot(disk.dir.path(), boot)), "{boot}: cut off");
        let (disk, _) = ended().await;
        change(disk.dir.path(), |bytes| bytes[len / 2..].fill(0));
        assert!(is_damaged(open_after_boot(disk.dir.path(), boot)), "{boot}: zeros");
        let (disk, _) = ended().await;
        fs::remove_file(newest_chunk(disk.dir.path())).unwrap();
        assert!(is_damaged(open_after_boot(disk.dir.path(), boot)), "{boot}: gone");
    }
}

#[tokio::test]
async fn what_was_on_its_way_when_the_power_went_is_dropped() {
    let (_, len) = ended().await;
    let half = usize::try_from(len).unwrap() / 2;
    let torn = || async {
        let (disk, _) = ended().await;
        mark(disk.dir.path(), 60);
        change(disk.dir.path(), |bytes| bytes[half..half + 20].fill(0xa5));
        disk
    };
    // In the same boot nothing can be torn: noise is damage.
    assert!(is_damaged(open(torn().await.dir.path())));
    let disk = torn().await;
    let mut log = open_after_boot(disk.dir.path(), "another boot").unwrap();
    let left = all(&mut log).await;
    assert!((1..50).contains(&left.len()) && left == entries(7, 0..left.len() as u64), "{} left", left.len());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(7, 2)));
    // It goes on from there, and what it then holds is promised again.
    let next = left.len() as u64;
    log.blocking_append(entries(8, next..next + 3)).await.unwrap();
    log.stop().await.unwrap();
    let mut log = open_after_boot(disk.dir.path(), "a third boot").unwrap();
    assert_eq!(all(&mut log).await, [left, entries(8, next..next + 3)].concat());
}

/// A mark that was cut off while it was written claims nothing, and is of no boot.
#[tokio::test]
async fn a_torn_mark_claims_nothing() {
    let (disk, len) = ended().await;
    let path = disk.dir.path().join("log.mark");
    let whole = fs::read(&path).unwrap();
    assert_eq!(mark::Known::read(&path).unwrap(), Some(mark::Known { boot: BOOT.into(), synced: len }));
    for at in 0..whole.len() {
        let mut torn = whole.clone();
        torn[at] ^= 1;
        fs::write(&path, &torn).unwrap();
        let known = mark::Known::read(&path).unwrap().unwrap();
        assert!(
            known == mark::Known { boot: String::new(), synced: 0 } || at + 1 == whole.len(),
            "byte {at}"
        );
    }
    let mut log = disk.open();
    assert_eq!(all(&mut log).await, entries(7, 0..50));
}

/// What a process wrote and did not sync before it died is a file of its own, synced, before anything rests on it.
#[tokio::test]
async fn what_was_not_synced_is_written_anew() {
    use std::os::unix::fs::MetadataExt;
    let (disk, len) = ended().await;
    let inode = |disk: &Disk| fs::metadata(newest_chunk(disk.dir.path())).unwrap().ino();
    let before = inode(&disk);
    disk.open().stop().await.unwrap();
    assert_eq!(inode(&disk), before, "all of it was synced");
    mark(disk.dir.path(), len - 1);
    let mut log = disk.open();
    assert_ne!(inode(&disk), before);
    assert_eq!(all(&mut log).await, entries(7, 0..50));
}
