use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use prometheus::Registry;

use super::*;
use crate::rules::freshness::Exchange;
use crate::rules::reuse::Terms;

fn key(name: &str) -> Key {
    Key::new(&"http://origin".into(), &format!("/{name}")).unwrap()
}

fn entry(body: Vec<u8>) -> Arc<Entry> {
    let now = SystemTime::UNIX_EPOCH;
    let exchange = Exchange { asked: now, came: now };
    let (headers, body) = (HeaderMap::new(), Bytes::from(body));
    let terms = Terms::of(StatusCode::OK, &headers, exchange);
    Arc::new(Entry {
        status: StatusCode::OK,
        headers,
        exchange,
        terms,
        selecting: vec![],
        known_by: vec![],
        born: 1,
        body,
    })
}

fn open(dir: &Path, bytes_max: u64) -> Disk {
    Disk::open(dir, bytes_max, Metrics::new(&Registry::new()).unwrap()).unwrap()
}

fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|_| fastrand::u8(..)).collect()
}

fn bytes_in(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap());
    files
        .map(
            |file| if file.path().is_dir() { bytes_in(&file.path()) } else { file.metadata().unwrap().len() },
        )
        .sum()
}

#[test]
fn what_was_put_is_there_after_a_restart_and_what_was_removed_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path(), 1 << 26);
    let (kept, large) = (entry(b"kept".to_vec()), entry(noise(3 << 20)));
    disk.put(&key("a"), Arc::clone(&kept));
    disk.put(&key("large"), Arc::clone(&large));
    disk.put(&key("b"), entry(b"gone".to_vec()));
    disk.remove(&key("b"));
    disk.close();
    drop(disk);
    let disk = open(dir.path(), 1 << 26);
    assert_eq!(disk.find(&key("a")).newest(), Some(&kept));
    assert_eq!(disk.find(&key("large")).newest(), Some(&large));
    assert_eq!(disk.find(&key("b")).newest(), None);
    assert_eq!(disk.find(&key("")).newest(), None, "a key is not the beginning of another");
    disk.close();
}

/// The writer has much to do before: nobody finds what is to be removed meanwhile.
#[test]
fn what_is_to_be_removed_is_not_found_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path(), 1 << 26);
    for round in 0..50 {
        disk.put(&key("a"), entry(b"old".to_vec()));
        while disk.find(&key("a")).newest().is_none() {
            std::thread::yield_now();
        }
        disk.put(&key("large"), entry(noise(1 << 16)));
        disk.remove(&key("a"));
        assert_eq!(disk.find(&key("a")).newest(), None, "{round}");
    }
    disk.close();
    assert!(disk.shared.removals().waiting.is_empty());
}

#[test]
fn it_is_bounded_and_keeps_what_is_wanted() {
    let (dir, room) = (tempfile::tempdir().unwrap(), 16 << 20);
    let mut disk = open(dir.path(), room);
    let wanted = entry(noise(1_000));
    disk.put(&key("wanted"), Arc::clone(&wanted));
    for round in 0..12 {
        for number in 0..200 {
            disk.put(&key(&format!("{round}-{number}")), entry(noise(32 * 1024)));
            // Whatever waits is written in order: one that is found has been.
            while number % 50 == 49 && disk.find(&key(&format!("{round}-{number}"))).newest().is_none() {
                std::thread::yield_now();
            }
        }
        assert!(disk.find(&key("wanted")).newest() == Some(&wanted), "{round}");
        disk.close();
        drop(disk);
        let used = bytes_in(dir.path());
        assert!(used < 2 * room, "{used} bytes after round {round}");
        disk = open(dir.path(), room);
    }
    assert_eq!(disk.find(&key("0-0")).newest(), None);
    disk.close();
}

#[test]
fn a_damaged_database_is_removed_and_not_served_from() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path(), 1 << 26);
    for number in 0..100 {
        disk.put(&key(&number.to_string()), entry(noise(10_000)));
    }
    disk.close();
    drop(disk);
    for file in std::fs::read_dir(dir.path().join("1")).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.iter_mut().step_by(997).for_each(|byte| *byte ^= 0x5a);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let disk = open(dir.path(), 1 << 26);
    for number in 0..100 {
        // Whatever is found is what was written.
        let found = disk.find(&key(&number.to_string()));
        assert!(found.newest().is_none_or(|entry| entry.body.len() == 10_000));
    }
    disk.put(&key("new"), entry(b"new".to_vec()));
    disk.close();
}
