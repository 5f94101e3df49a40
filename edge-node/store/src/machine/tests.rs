use std::sync::Arc;

use proto::bundle::{Manifest, SignedManifest};
use proto::command::{Command, Effect};
use proto::event::EventKind;
use proto::{Code, DeviceId, Event, EventId, ItemId, Offset, Revision, TraceId, UserId, VisitorId, codec};

use super::dedupe::{CHUNK_LEN, IDS_MAX, WINDOW_MS};
use super::*;

const NOON: u64 = 1_800_000_000_000;

fn visitor(number: u64) -> VisitorId {
    match number % 2 {
        0 => VisitorId::User(UserId::new(format!("user-{number}")).unwrap()),
        _ => VisitorId::Device(DeviceId::new(format!("device-{number}")).unwrap()),
    }
}

fn event(id: u128, who: u64) -> Event {
    let kind = EventKind::Rating { item: ItemId::new(format!("item-{id}")).unwrap(), stars: 4.5 };
    let id = EventId(uuid::Uuid::from_u128(id));
    Event { id, visitor: visitor(who), at_ms: NOON, trace: TraceId(7), kind }
}

fn track(ids: impl IntoIterator<Item = u128>, received_at_ms: u64) -> Command {
    Command::Track { events: ids.into_iter().map(|id| event(id, 1)).collect(), received_at_ms }
}

fn manifest(revision: u64) -> SignedManifest {
    let manifest = Manifest {
        revision: Revision(revision),
        published_at_ms: NOON,
        expires_at_ms: NOON + 1,
        artifacts: Vec::new(),
    };
    SignedManifest { manifest: codec::encode(&manifest), signature: vec![0; 64] }
}

fn empty() -> State<Memory> {
    State::load(Memory::default()).unwrap()
}

fn refused(effect: &Effect) -> Code {
    match effect {
        Effect::Refused(error) => error.code,
        other => panic!("{other:?} is no refusal"),
    }
}

#[test]
fn an_event_is_counted_once() {
    let mut state = empty();
    let effect = apply(&mut state, track([1, 2, 1], NOON)).unwrap();
    assert_eq!(effect, Effect::Tracked { accepted: 2, duplicates: 1 });
    state.settle();
    // Also across a restart.
    let mut state = State::load(state.base().clone()).unwrap();
    let effect = apply(&mut state, track([2, 3], NOON)).unwrap();
    assert_eq!(effect, Effect::Tracked { accepted: 1, duplicates: 1 });
    assert_eq!(state.heads().offsets, Offsets { last: 3, acknowledged: 0 });
    let profile = state.base().profile(&visitor(1)).unwrap().unwrap();
    assert_eq!(profile.events, 2, "settled before the last one");
    state.settle();
    assert_eq!(state.base().profile(&visitor(1)).unwrap().unwrap().events, 3);
}

#[test]
fn offsets_have_no_holes_and_keep_order() {
    let mut state = empty();
    apply(&mut state, track([5, 4, 5, 9], NOON)).unwrap();
    state.settle();
    let at = |offset| {
        read::<Event, _>(state.base(), &keys::event(offset)).unwrap().map(|event| event.id.0.as_u128())
    };
    assert_eq!([at(1), at(2), at(3), at(4)], [Some(5), Some(4), Some(9), None]);
}

#[test]
fn acknowledging_trims_and_never_goes_back() {
    let mut state = empty();
    apply(&mut state, track(1..=10, NOON)).unwrap();
    state.settle();
    assert_eq!(apply(&mut state, Command::Acknowledge { upto: Offset(4) }).unwrap(), Effect::Done);
    assert_eq!(apply(&mut state, Command::Acknowledge { upto: Offset(2) }).unwrap(), Effect::Done);
    assert_eq!(state.heads().offsets, Offsets { last: 10, acknowledged: 4 });
    let beyond = apply(&mut state, Command::Acknowledge { upto: Offset(11) }).unwrap();
    assert_eq!(refused(&beyond), Code::OutOfOrder);
    state.settle();
    let waiting: Vec<u64> = state.base().records().filter_map(|(key, _)| keys::event_offset(key)).collect();
    assert_eq!(waiting, (5..=10).collect::<Vec<_>>());
}

#[test]
fn a_full_outbox_refuses_and_changes_nothing() {
    let mut state = empty();
    state.heads.offsets = Offsets { last: OUTBOX_LEN_MAX - 1, acknowledged: 0 };
    let before = state.heads().clone();
    assert_eq!(refused(&apply(&mut state, track([1, 2], NOON)).unwrap()), Code::Overloaded);
    assert_eq!(*state.heads(), before);
    assert!(state.take_writes().is_empty());
    assert_eq!(
        apply(&mut state, track([1], NOON)).unwrap(),
        Effect::Tracked { accepted: 1, duplicates: 0 },
        "one more fits, and was not remembered as counted by the refusal"
    );
}

#[test]
fn only_a_newer_bundle_becomes_active() {
    let mut state = empty();
    let activate = |state: &mut State<Memory>, revision| {
        apply(state, Command::Activate { manifest: manifest(revision) }).unwrap()
    };
    assert_eq!(activate(&mut state, 3), Effect::Activated { revision: Revision(3) });
    assert_eq!(refused(&activate(&mut state, 3)), Code::Conflict);
    assert_eq!(refused(&activate(&mut state, 2)), Code::Conflict);
    assert_eq!(activate(&mut state, 5), Effect::Activated { revision: Revision(5) });
    assert_eq!(state.heads().bundles.active, Some(manifest(5)));
    assert_eq!(state.heads().bundles.previous, Some(manifest(3)));
    let garbage = SignedManifest { manifest: vec![255; 9], signature: Vec::new() };
    assert_eq!(
        refused(&apply(&mut state, Command::Activate { manifest: garbage }).unwrap()),
        Code::Malformed
    );
    assert_eq!(state.heads().bundles.revision, Revision(5));
}

#[test]
fn served_items_are_seen_in_the_profile() {
    let mut state = empty();
    let items = vec![ItemId::new("a").unwrap(), ItemId::new("b").unwrap()];
    for _ in 0..2 {
        let served = Command::Served { visitor: visitor(1), items: items.clone(), at_ms: NOON };
        assert_eq!(apply(&mut state, served).unwrap(), Effect::Done);
    }
    state.settle();
    let profile = state.base().profile(&visitor(1)).unwrap().unwrap();
    assert_eq!(profile.seen("b").map(|seen| (seen.served, seen.seen)), Some((2, 0)));
}

#[test]
fn the_window_forgets_by_age() {
    let mut state = empty();
    let chunk = CHUNK_LEN as u128;
    apply(&mut state, track(0..chunk, NOON)).unwrap();
    apply(&mut state, track(chunk..2 * chunk, NOON + WINDOW_MS)).unwrap();
    state.settle();
    let duplicates = |state: &mut State<Memory>, id, at| match apply(state, track([id], at)).unwrap() {
        Effect::Tracked { duplicates, .. } => duplicates,
        other => panic!("{other:?}"),
    };
    assert_eq!(duplicates(&mut state, 0, NOON + WINDOW_MS), 1, "exactly as old as the window");
    assert_eq!(duplicates(&mut state, 0, NOON + WINDOW_MS + 1), 0, "older");
    assert_eq!(duplicates(&mut state, chunk, NOON), 1, "time does not go back");
    assert_eq!(state.heads().dedupe.first, 1);
    state.settle();
    assert_eq!(state.base().chunk(0).unwrap(), None);
    assert!(state.base().chunk(1).unwrap().is_some());
}

#[test]
fn the_window_forgets_by_number() {
    let mut state = empty();
    let mut next = 0_u128;
    while next < (IDS_MAX + CHUNK_LEN) as u128 {
        for id in next..next + CHUNK_LEN as u128 {
            dedupe::insert(&mut state, EventId(uuid::Uuid::from_u128(id))).unwrap();
        }
        next += CHUNK_LEN as u128;
    }
    assert!(state.heads().dedupe.first >= 1);
    let chunks = state.heads().dedupe.next - state.heads().dedupe.first;
    assert!(chunks * CHUNK_LEN as u64 <= IDS_MAX as u64, "{chunks} chunks");
    assert!(dedupe::insert(&mut state, EventId(uuid::Uuid::from_u128(0))).unwrap(), "forgotten");
    assert!(!dedupe::insert(&mut state, EventId(uuid::Uuid::from_u128(next - 1))).unwrap(), "remembered");
}

#[test]
fn ids_of_nodes_that_left_are_remembered() {
    let mut state = empty();
    let ids = |ids: &[u64]| ids.iter().copied().map(proto::NodeId).collect();
    state.change_members(vec![1], ids(&[1, 2, 3]));
    state.change_members(vec![2], ids(&[1, 3, 4]));
    state.change_members(vec![3], ids(&[3, 4]));
    state.settle();
    let state = State::load(state.base().clone()).unwrap();
    assert_eq!(state.heads().members.removed, ids(&[1, 2]));
    assert_eq!(state.heads().members.nodes, ids(&[3, 4]));
}

#[test]
fn a_base_that_lacks_a_chunk_is_refused() {
    let mut state = empty();
    apply(&mut state, track(0..600, NOON)).unwrap();
    state.settle();
    let lacking = state.base().records().filter(|(key, _)| *key != keys::chunk(1));
    let lacking = Memory::of(lacking.map(|(key, value)| (key.to_vec(), value.to_vec())));
    assert!(matches!(State::load(lacking), Err(MachineError::Missing(_))));
    let corrupt = state.base().records().map(|(key, value)| match key == keys::OFFSETS {
        true => (key.to_vec(), vec![9, 9]),
        false => (key.to_vec(), value.to_vec()),
    });
    assert!(matches!(State::load(Memory::of(corrupt)), Err(MachineError::Corrupt { .. })));
}

#[test]
fn writes_absorb_in_order() {
    let profile = |events| Arc::new(Profile { events, ..Profile::default() });
    let mut older = Writes::default();
    older.profiles.insert(visitor(1), profile(1));
    older.chunks.insert(0, Some(Arc::default()));
    let mut newer = Writes::default();
    newer.profiles.insert(visitor(1), profile(2));
    newer.chunks.insert(0, None);
    older.absorb(newer);
    assert_eq!(older.profiles[&visitor(1)].events, 2);
    assert_eq!(older.chunks[&0], None);
    assert_eq!(older.len(), 2);
}

#[test]
fn a_purge_is_as_of_its_entry_and_survives() {
    use proto::purge::{PURGE_KEYS_MAX, PurgeKey};
    let (mut state, shop) = (empty(), PurgeKey::of_tag("shop"));
    state.applied(Position { term: 1, index: 6 });
    assert_eq!(apply(&mut state, Command::Purge { keys: vec![shop], all: false }).unwrap(), Effect::Done);
    state.applied(Position { term: 1, index: 7 });
    state.settle();
    let mut state = State::load(state.base().clone()).unwrap();
    assert!(state.heads().purges.void([shop], 7), "asked for before index 7 was applied");
    assert!(!state.heads().purges.void([shop], 8) && !state.heads().purges.void([PurgeKey(1)], 1));
    let many = Command::Purge { keys: vec![shop; PURGE_KEYS_MAX + 1], all: true };
    assert_eq!(refused(&apply(&mut state, many).unwrap()), Code::TooLarge);
    assert_eq!(apply(&mut state, Command::Purge { keys: vec![], all: true }).unwrap(), Effect::Done);
    assert!(state.heads().purges.void([], 8) && !state.heads().purges.void([shop], 9));
}

#[test]
fn an_erased_visitor_is_forgotten_and_stays_so() {
    let mut state = empty();
    let erase = |at_ms, number| Command::Erase { visitor: visitor(1), at_ms, number };
    apply(&mut state, track([1, 2], NOON)).unwrap();
    state.settle();
    assert_eq!(apply(&mut state, erase(NOON + 1, 4)).unwrap(), Effect::Done);
    // Late, under way when it was erased, and offered before.
    apply(&mut state, track([3], NOON)).unwrap();
    let items = vec![ItemId::new("a").unwrap()];
    apply(&mut state, Command::Served { visitor: visitor(1), items, at_ms: NOON }).unwrap();
    state.settle();
    let mut state = State::load(state.base().clone()).unwrap();
    let profile = |state: &State<Memory>| state.base().profile(&visitor(1)).unwrap().unwrap();
    let erased = profile(&state);
    assert_eq!((erased.interactions.len(), erased.seen.len(), erased.events), (0, 0, 0));
    assert_eq!(state.heads().erasures, Erasures(4));
    // Their events go up all the same: the cloud knows of the erasure, and offsets have no holes.
    assert_eq!(state.heads().offsets.last, 3);
    // Again, and an older one: nothing changes.
    for older in [erase(NOON + 1, 4), erase(NOON, 2)] {
        apply(&mut state, older).unwrap();
        state.settle();
        assert_eq!((profile(&state), state.heads().erasures), (erased.clone(), Erasures(4)));
    }
    // A visitor who was never here leaves a mark, too.
    apply(&mut state, Command::Erase { visitor: visitor(2), at_ms: NOON, number: 5 }).unwrap();
    let late = Event { visitor: visitor(2), ..event(9, 2) };
    apply(&mut state, Command::Track { events: vec![late], received_at_ms: NOON }).unwrap();
    state.settle();
    let profile = state.base().profile(&visitor(2)).unwrap().unwrap();
    assert_eq!((profile.interactions.len(), profile.erased_at_ms), (0, NOON));
}
