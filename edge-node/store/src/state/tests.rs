use std::fs;
use std::path::Path;

use futures::stream;
use openraft::EntryPayload;
use openraft::testing::log::{StoreBuilder, Suite};
use proto::command::Command;
use proto::event::EventKind;
use proto::profile::Signal;
use proto::{Event, EventId, ItemId, NodeId, Offset, PopId, TraceId, UserId, VisitorId};

use super::*;
use crate::log::LogStore;
use crate::machine::{Memory, Position, State};
use crate::types::{Batch, Entry, Membership};

struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn open(&self, boot: &str) -> Machine {
        open(self.dir.path(), boot, u64::MAX)
    }
}

fn open(dir: &Path, boot: &str, proven: u64) -> Machine {
    let folder = Folder::open(dir, &PopId::new("pop").unwrap(), NodeId(1)).unwrap();
    let (cache_bytes, boot, durable) = (16 << 20, boot.to_owned(), Arc::default());
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    Machine::open(StateConfig { folder, cache_bytes, proven, boot, durable }, metrics).unwrap()
}

fn visitor(number: u64) -> VisitorId {
    VisitorId::User(UserId::new(format!("user-{number}")).unwrap())
}

/// A different entry for each index; the same for the same.
fn entry(index: u64) -> Entry {
    let log_id = LogId::new_term_index(1, index);
    if index == 1 {
        let membership = Membership::new_with_defaults(vec![[1, 2, 3].into()], []);
        return Entry { log_id, payload: EntryPayload::Membership(membership) };
    }
    let event = |n: u64| Event {
        id: EventId(uuid::Uuid::from_u128((u128::from(index) << 64) | u128::from(n))),
        visitor: visitor((index + n) % 17),
        at_ms: index,
        trace: TraceId::default(),
        kind: EventKind::Rating {
            item: ItemId::new(format!("item-{}", index * n % 100)).unwrap(),
            stars: 3.0,
        },
    };
    let track = Command::Track { events: (0..index % 9).map(event).collect(), received_at_ms: index * 1_000 };
    let items = (0..index % 5).map(|n| ItemId::new(format!("item-{n}")).unwrap()).collect();
    let served = Command::Served { visitor: visitor(index % 17), items, at_ms: index };
    let acknowledge = Command::Acknowledge { upto: Offset(index.saturating_sub(40)) };
    Entry { log_id, payload: EntryPayload::Normal(Batch::of(&[&track, &served, &acknowledge])) }
}

async fn apply(machine: &mut Machine, range: std::ops::Range<u64>) {
    let entries = range.map(|index| Ok((entry(index), None)));
    machine.apply(stream::iter(entries)).await.unwrap();
}

/// The same entries on the plain model.
fn model(range: std::ops::Range<u64>) -> State<Memory> {
    let mut state = State::load(Memory::default()).unwrap();
    for entry in range.map(entry) {
        match entry.payload {
            EntryPayload::Normal(batch) => {
                for command in batch.commands().unwrap() {
                    machine_apply(&mut state, command);
                }
            }
            EntryPayload::Membership(membership) => {
                let nodes = membership.nodes().map(|(node, _)| NodeId(*node)).collect();
                let stored = StoredMembership::new(Some(entry.log_id), membership);
                state.change_members(codec::encode_any(&stored), nodes);
            }
            EntryPayload::Blank => {}
        }
        state.applied(Position { term: 1, index: entry.log_id.index });
    }
    state.settle();
    state
}

fn machine_apply(state: &mut State<Memory>, command: Command) {
    crate::machine::apply(state, command).unwrap();
}

/// openraft's own suite of what a storage must do.
#[test]
fn openrafts_suite() {
    struct Builder;
    impl StoreBuilder<Types, LogStore, Machine, tempfile::TempDir> for Builder {
        async fn build(
            &self,
        ) -> Result<(tempfile::TempDir, LogStore, Machine), openraft::StorageError<Types>> {
            let dir = tempfile::tempdir().unwrap();
            let folder = Folder::open(dir.path(), &PopId::new("pop").unwrap(), NodeId(1)).unwrap();
            let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
            let log =
                LogStore::open(&folder, 16 << 20, "this boot", Arc::new(AtomicU64::new(u64::MAX)), metrics)
                    .unwrap();
            let machine = open(dir.path(), "boot", u64::MAX);
            Ok((dir, log, machine))
        }
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(Suite::test_all(Builder))
        .unwrap();
}

#[tokio::test]
async fn it_holds_what_the_model_holds() {
    let disk = Disk::new();
    let mut machine = disk.open("boot");
    apply(&mut machine, 1..700).await;
    let model = model(1..700);
    for number in 0..18 {
        let expected = model.base().profile_of(&visitor(number));
        let view = machine.hot().view(&visitor(number)).unwrap();
        assert_eq!((view.profile, view.applied), (expected, 699), "visitor {number}");
    }
    let waiting = machine.hot().events(Offset(0), 10_000, usize::MAX).unwrap();
    assert_eq!(waiting.first().map(|(offset, _)| *offset), Some(Offset(660)));
    assert_eq!(waiting.len() as u64, model.heads().offsets.len());
    assert_eq!(machine.digest().await.unwrap(), (699, model.base().digest()));
    // The same from sled as from memory.
    let from_sled = machine.hot().events(Offset(0), 10_000, usize::MAX).unwrap();
    assert_eq!(from_sled, waiting);
    let few = machine.hot().events(Offset(700), 3, usize::MAX).unwrap();
    assert_eq!(few, waiting[41..44]);
    let one = machine.hot().events(Offset(700), 3, 1).unwrap();
    assert_eq!(one, waiting[41..42], "one at least");
    machine.stop().await.unwrap();
}

impl Memory {
    fn profile_of(&self, visitor: &VisitorId) -> proto::profile::Profile {
        crate::machine::Base::profile(self, visitor)
            .unwrap()
            .map(|profile| (*profile).clone())
            .unwrap_or_default()
    }
}

#[tokio::test]
async fn it_goes_on_after_a_restart() {
    let disk = Disk::new();
    let mut machine = disk.open("boot");
    apply(&mut machine, 1..300).await;
    machine.stop().await.unwrap();
    drop(machine);
    let mut machine = disk.open("boot");
    let (applied, membership) = machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(LogId::new_term_index(1, 299)));
    assert_eq!(membership.membership().voter_ids().collect::<Vec<_>>(), [1, 2, 3]);
    apply(&mut machine, 300..400).await;
    assert_eq!(machine.digest().await.unwrap(), (399, model(1..400).base().digest()));
}

/// What a kill −9 leaves in the files is a state at some index; what follows it comes from the log.
#[tokio::test]
async fn what_a_crash_leaves_is_a_prefix() {
    let disk = Disk::new();
    let mut machine = disk.open("boot");
    for start in (1..1_000).step_by(37) {
        apply(&mut machine, start..start + 37).await;
        if start % 5 == 0 {
            machine.flush().await.unwrap();
        }
    }
    let copy = copy(disk.dir.path());
    let mut crashed = open(copy.path(), "boot", u64::MAX);
    let from = crashed.applied_state().await.unwrap().0.map_or(0, |id| id.index);
    assert!(from <= 999);
    apply(&mut crashed, from + 1..1_000).await;
    assert_eq!(
        crashed.digest().await.unwrap(),
        (999, model(1..1_000).base().digest()),
        "replayed from {from}"
    );
}

#[tokio::test]
async fn another_boot_throws_the_state_away_and_the_snapshot_brings_it_back() {
    let disk = Disk::new();
    let mut machine = disk.open("boot 1");
    apply(&mut machine, 1..300).await;
    machine.build_snapshot().await.unwrap();
    apply(&mut machine, 300..400).await;
    let digest = machine.digest().await.unwrap();
    machine.stop().await.unwrap();
    drop(machine);
    let mut machine = disk.open("boot 2");
    assert_eq!(machine.applied_state().await.unwrap().0, None, "thrown away");
    // What Raft does at start.
    let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
    machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    assert_eq!(machine.applied_state().await.unwrap().0, Some(LogId::new_term_index(1, 299)));
    apply(&mut machine, 300..400).await;
    assert_eq!(machine.digest().await.unwrap(), digest);
    machine.stop().await.unwrap();
    drop(machine);
    let mut machine = disk.open("boot 2");
    assert_eq!(
        machine.applied_state().await.unwrap().0,
        Some(LogId::new_term_index(1, 399)),
        "the same boot again"
    );
}

#[tokio::test]
async fn a_state_beyond_what_the_log_proves_is_thrown_away() {
    let disk = Disk::new();
    let mut machine = disk.open("boot");
    apply(&mut machine, 1..300).await;
    machine.stop().await.unwrap();
    drop(machine);
    let mut machine = open(disk.dir.path(), "boot", 298);
    assert_eq!(machine.applied_state().await.unwrap().0, None);
}

#[tokio::test]
async fn a_damaged_sled_is_thrown_away() {
    let disk = Disk::new();
    let mut machine = disk.open("boot");
    apply(&mut machine, 1..300).await;
    machine.stop().await.unwrap();
    drop(machine);
    for file in fs::read_dir(disk.dir.path().join("state")).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let len = fs::metadata(&path).unwrap().len();
            fs::write(&path, vec![0x5a; usize::try_from(len).unwrap()]).unwrap();
        }
    }
    let mut machine = disk.open("boot");
    assert_eq!(machine.applied_state().await.unwrap().0, None);
    apply(&mut machine, 1..400).await;
    assert_eq!(machine.digest().await.unwrap(), (399, model(1..400).base().digest()));
}

/// sled opens without some of its records where a part of its file is damaged.
#[tokio::test]
async fn a_state_that_lacks_a_record_is_thrown_away() {
    let disk = Disk::new();
    let mut machine = disk.open("boot");
    apply(&mut machine, 1..300).await;
    machine.stop().await.unwrap();
    drop(machine);
    {
        let db = sled::open(disk.dir.path().join("state")).unwrap();
        let tree = db.open_tree("state-0").unwrap();
        assert!(tree.remove(crate::machine::keys::profile(&visitor(1))).unwrap().is_some());
        db.flush().unwrap();
    }
    let mut machine = disk.open("boot");
    assert_eq!(machine.applied_state().await.unwrap().0, None);
    apply(&mut machine, 1..300).await;
    assert_eq!(machine.digest().await.unwrap(), (299, model(1..300).base().digest()));
}

#[tokio::test]
async fn a_snapshot_is_of_one_index_while_applying_goes_on() {
    let disk = Disk::new();
    let mut machine = disk.open("boot");
    apply(&mut machine, 1..300).await;
    let mut builder = machine.get_snapshot_builder().await;
    let building = tokio::spawn(async move { builder.build_snapshot().await.unwrap() });
    for start in (300..2_000).step_by(10) {
        apply(&mut machine, start..start + 10).await;
    }
    let snapshot = building.await.unwrap();
    let index = snapshot.meta.last_log_id.unwrap().index;
    let other = Disk::new();
    let mut copy = other.open("boot");
    copy.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    assert_eq!(copy.digest().await.unwrap(), (index, model(1..index + 1).base().digest()));
    // And the copy counts no event twice.
    apply(&mut copy, index + 1..2_000).await;
    assert_eq!(copy.digest().await.unwrap(), machine.digest().await.unwrap());
}

#[tokio::test]
async fn installing_takes_the_place_of_everything() {
    let (from, to) = (Disk::new(), Disk::new());
    let mut source = from.open("boot");
    apply(&mut source, 1..500).await;
    let snapshot = source.build_snapshot().await.unwrap();
    let mut target = to.open("boot");
    apply(&mut target, 1..50).await;
    let before = target.hot().view(&visitor(3)).unwrap();
    target.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    let after = target.hot().view(&visitor(3)).unwrap();
    assert!(after.profile.events > before.profile.events && after.applied == 499);
    assert_eq!(target.changes().borrow().index, 499);
    assert!(after.profile.interactions.iter().all(|seen| seen.signal == Signal::Rating));
    assert_eq!(target.digest().await.unwrap(), source.digest().await.unwrap());
    target.stop().await.unwrap();
    drop(target);
    let mut target = to.open("boot");
    assert_eq!(target.applied_state().await.unwrap().0, Some(LogId::new_term_index(1, 499)));
    assert_eq!(target.current_snapshot().map(|saved| saved.index()), Some(499), "with a file of its own");
}

#[tokio::test]
async fn a_corrupt_snapshot_is_not_installed() {
    let (from, to) = (Disk::new(), Disk::new());
    let mut source = from.open("boot");
    apply(&mut source, 1..100).await;
    let snapshot = source.build_snapshot().await.unwrap();
    let path = fs::read_dir(from.dir.path().join("snapshots")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut target = to.open("boot");
    apply(&mut target, 1..50).await;
    let before = target.digest().await.unwrap();
    assert!(target.install_snapshot(&snapshot.meta, snapshot.snapshot).await.is_err());
    assert_eq!(target.digest().await.unwrap(), before, "nothing was changed");
}

fn copy(dir: &Path) -> tempfile::TempDir {
    fn walk(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                walk(&path, &target);
            } else {
                fs::copy(&path, &target).unwrap();
            }
        }
    }
    let copy = tempfile::tempdir().unwrap();
    walk(dir, copy.path());
    copy
}
