use std::fs;

use openraft::BasicNode;
use proto::Digest;

use super::reader::Record;
use super::*;
use crate::types::{LogId, Membership, StoredMembership};

fn meta(index: u64) -> SnapshotMeta {
    let nodes = [(1, BasicNode::new("a:1")), (2, BasicNode::new("b:1"))];
    let membership =
        Membership::new(vec![[1, 2].into()], nodes.into_iter().collect::<std::collections::BTreeMap<_, _>>());
    let at = LogId::new_term_index(3, index);
    SnapshotMeta {
        last_log_id: Some(at),
        last_membership: StoredMembership::new(Some(at), membership.unwrap()),
    }
}

fn records() -> Vec<(Vec<u8>, Vec<u8>)> {
    (0..300_u32).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; (n % 97) as usize])).collect()
}

fn write(snapshots: &Snapshots, index: u64) -> Saved {
    let mut writer = snapshots.create(&meta(index)).unwrap();
    for (key, value) in records() {
        writer.record(&key, &value).unwrap();
    }
    writer.finish(snapshots, meta(index)).unwrap()
}

fn read(file: &SnapshotFile) -> Result<Vec<Record>, StoreError> {
    let mut reader = Reader::verified(file)?;
    let mut records = Vec::new();
    while let Some(record) = reader.next()? {
        records.push(record);
    }
    Ok(records)
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, none) = Snapshots::open(dir.path()).unwrap();
    assert!(none.is_none());
    write(&snapshots, 7);
    let saved = write(&snapshots, 10);
    assert_eq!(read(&saved.file).unwrap(), records());
    assert_eq!(files(dir.path()).len(), 1, "the older one is gone");
    let (_, newest) = Snapshots::open(dir.path()).unwrap();
    let newest = newest.unwrap();
    assert_eq!((newest.index(), &newest.meta), (10, &meta(10)));
    assert_eq!(read(&newest.file).unwrap(), records());
}

/// The node's own, begun before a peer's newer one was installed: the log may be purged up to the newer one already.
#[test]
fn an_older_one_that_is_finished_late_does_not_take_a_newer_ones_place() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, _) = Snapshots::open(dir.path()).unwrap();
    write(&snapshots, 200);
    let late = write(&snapshots, 100);
    assert_eq!((late.index(), read(&late.file).unwrap()), (100, records()));
    assert_eq!(files(dir.path()).len(), 1);
    let (_, newest) = Snapshots::open(dir.path()).unwrap();
    assert_eq!(newest.map(|saved| saved.index()), Some(200));
}

#[test]
fn any_flipped_bit_and_any_cut_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, _) = Snapshots::open(dir.path()).unwrap();
    write(&snapshots, 7);
    let name = dir.path().join(&files(dir.path())[0]);
    let whole = fs::read(&name).unwrap();
    let spots = (0..whole.len()).step_by(211).chain([0, whole.len() - 1, whole.len() - 40]);
    for spot in spots {
        let mut flipped = whole.clone();
        flipped[spot] ^= 1;
        fs::write(&name, &flipped).unwrap();
        assert!(read(&SnapshotFile::open(&name).unwrap()).is_err(), "bit at {spot}");
        fs::write(&name, &whole[..spot]).unwrap();
        assert!(read(&SnapshotFile::open(&name).unwrap()).is_err(), "cut at {spot}");
    }
    let longer = [&whole[..], &[0; 5]].concat();
    fs::write(&name, longer).unwrap();
    let (_, none) = Snapshots::open(dir.path()).unwrap();
    assert!(none.is_none(), "a corrupt snapshot is not offered");
    assert!(
        files(dir.path())[0].ends_with(".corrupt"),
        "it is set aside for people: {:?}",
        files(dir.path())
    );
}

/// The checksum only says that the bytes are what was written; lengths are checked all the same.
#[test]
fn lying_lengths_with_a_right_checksum_are_refused() {
    use sha2::{Digest as _, Sha256};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lie.snapshot");
    let encoded = encode_meta(&meta(1));
    let head = [&MAGIC[..], &(encoded.len() as u32).to_be_bytes(), &encoded].concat();
    let record = |key: u32, value: u32| [key.to_be_bytes(), value.to_be_bytes()].concat();
    let bodies = [
        record(1 << 20, 4),
        record(4, u32::MAX - 1),
        record(4, 4),
        vec![0xff; 4],
        [vec![0xff; 4], 9_u64.to_be_bytes().to_vec()].concat(),
        // Keys that do not ascend.
        [
            record(1, 0),
            b"b".to_vec(),
            record(1, 0),
            b"a".to_vec(),
            vec![0xff; 4],
            2_u64.to_be_bytes().to_vec(),
        ]
        .concat(),
    ];
    for body in bodies {
        let mut bytes = [head.clone(), body.clone()].concat();
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        fs::write(&path, bytes).unwrap();
        assert!(read(&SnapshotFile::open(&path).unwrap()).is_err(), "{body:?}");
    }
}

#[test]
fn an_unfinished_snapshot_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, _) = Snapshots::open(dir.path()).unwrap();
    let writer = snapshots.create(&meta(1)).unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    drop(writer);
    assert_eq!(files(dir.path()), Vec::<String>::new());
    // As a crash would leave it.
    fs::write(dir.path().join("own.tmp"), b"half").unwrap();
    Snapshots::open(dir.path()).unwrap();
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

#[test]
fn it_travels_in_parts() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let saved = write(&Snapshots::open(here.path()).unwrap().0, 7);
    let (snapshots, _) = Snapshots::open(there.path()).unwrap();
    let send = |digest: Digest| {
        let mut incoming = snapshots.receive(2, saved.file.len()).unwrap();
        while incoming.received() < incoming.len() {
            let part = saved.file.part(incoming.received(), 1_000).unwrap();
            incoming.push(&part).unwrap();
        }
        assert!(incoming.push(b"x").is_err(), "longer than announced");
        incoming.finish(digest)
    };
    assert!(send(Digest([0; 32])).is_err());
    assert_eq!(files(there.path()), Vec::<String>::new(), "what is refused is removed");
    let received = send(saved.file.digest().unwrap()).unwrap();
    assert_eq!(read(&received).unwrap(), records());
    let adopted = snapshots.adopt(received.received().unwrap(), meta(7)).unwrap();
    drop(received);
    assert_eq!(read(&adopted.file).unwrap(), records());
    assert_eq!(files(there.path()).len(), 1);
}

#[test]
fn one_that_was_replaced_can_be_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, _) = Snapshots::open(dir.path()).unwrap();
    let older = write(&snapshots, 7);
    write(&snapshots, 10);
    assert_eq!(read(&older.file).unwrap(), records());
}
