//! Any sequence of commands, applied on three replicas with restarts and snapshots anywhere, gives one keyspace.

use edge_store::machine::{self, Memory, Position, State, dedupe};
use proptest::prelude::*;
use proto::bundle::{Manifest, SignedManifest};
use proto::command::Command;
use proto::event::{Event, EventKind};
use proto::limits::PROFILE_RING_LEN;
use proto::profile::Profile;
use proto::purge::PurgeKey;
use proto::{
    AnswerId, DeviceId, EventId, ItemId, NodeId, Offset, Revision, SlotId, TraceId, UserId, VisitorId, codec,
};

/// What happens to one replica.
#[derive(Debug, Clone)]
enum Step {
    Apply(Command),
    Members(Vec<u64>),
}

/// What a replica does between two steps, besides nothing.
#[derive(Debug, Clone, Copy)]
enum Break {
    /// Moves its writes into its base.
    Settle,
    /// Settles, and begins anew from what is stored.
    Restart,
    /// Another replica's keyspace takes the place of its own.
    Restore,
}

fn item() -> impl Strategy<Value = ItemId> {
    (0..20_u32).prop_map(|n| ItemId::new(format!("item-{n}")).unwrap())
}

fn visitor() -> impl Strategy<Value = VisitorId> {
    (0..6_u32, any::<bool>()).prop_map(|(n, user)| match user {
        true => VisitorId::User(UserId::new(format!("{n}")).unwrap()),
        false => VisitorId::Device(DeviceId::new(format!("{n}")).unwrap()),
    })
}

fn kind() -> impl Strategy<Value = EventKind> {
    let slot = SlotId::new("home").unwrap();
    let other = slot.clone();
    let answer = proptest::option::of(any::<u128>().prop_map(|id| AnswerId(uuid::Uuid::from_u128(id))));
    prop_oneof![
        (item(), any::<u16>(), answer.clone()).prop_map(move |(item, position, answer)| {
            EventKind::Impression { item, slot: slot.clone(), position, answer }
        }),
        (item(), answer.clone()).prop_map(move |(item, answer)| EventKind::Click {
            item,
            slot: other.clone(),
            answer
        }),
        (item(), any::<i64>(), answer).prop_map(|(item, value_micros, answer)| {
            EventKind::Conversion { item, value_micros, currency: *b"EUR", answer }
        }),
        (item(), 0.0..5.0_f32).prop_map(|(item, stars)| EventKind::Rating { item, stars }),
        proptest::collection::vec(("[a-c]", "[a-z]{0,8}"), 0..4)
            .prop_map(|attributes| EventKind::Custom { name: "identify".into(), attributes }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    // Few ids, so that many events come twice.
    (0..400_u128, visitor(), any::<u64>(), kind()).prop_map(|(id, visitor, at_ms, kind)| {
        let id = EventId(uuid::Uuid::from_u128(id));
        Event { id, visitor, at_ms, trace: TraceId(1), kind }
    })
}

fn manifest() -> impl Strategy<Value = SignedManifest> {
    let good = (0..9_u64).prop_map(|revision| {
        let revision = Revision(revision);
        let manifest = Manifest { revision, published_at_ms: 1, expires_at_ms: 2, artifacts: Vec::new() };
        SignedManifest { manifest: codec::encode(&manifest), signature: vec![7; 64] }
    });
    let bad = proptest::collection::vec(any::<u8>(), 0..20)
        .prop_map(|manifest| SignedManifest { manifest, signature: Vec::new() });
    prop_oneof![4 => good, 1 => bad]
}

fn step() -> impl Strategy<Value = Step> {
    let day = 24 * 3600 * 1000_u64;
    let track = (proptest::collection::vec(event(), 0..60), 0..30_u64)
        .prop_map(move |(events, days)| Command::Track { events, received_at_ms: days * day });
    let served = (visitor(), proptest::collection::vec(item(), 0..12), any::<u64>())
        .prop_map(|(visitor, items, at_ms)| Command::Served { visitor, items, at_ms });
    let command = prop_oneof![
        6 => track,
        4 => served,
        1 => manifest().prop_map(|manifest| Command::Activate { manifest }),
        2 => (0..300_u64).prop_map(|upto| Command::Acknowledge { upto: Offset(upto) }),
        1 => (proptest::collection::vec((0..40_u64).prop_map(PurgeKey), 0..9), any::<bool>())
            .prop_map(|(keys, all)| Command::Purge { keys, all }),
        1 => (visitor(), any::<u64>(), 0..20_u64)
            .prop_map(|(visitor, at_ms, number)| Command::Erase { visitor, at_ms, number }),
    ];
    let members = proptest::collection::vec(1..9_u64, 1..5);
    prop_oneof![12 => command.prop_map(Step::Apply), 1 => members.prop_map(Step::Members)]
}

fn pause() -> impl Strategy<Value = Option<Break>> {
    prop_oneof![
        4 => Just(None),
        2 => Just(Some(Break::Settle)),
        1 => Just(Some(Break::Restart)),
        1 => Just(Some(Break::Restore)),
    ]
}

fn empty() -> State<Memory> {
    State::load(Memory::default()).unwrap()
}

fn apply(state: &mut State<Memory>, index: u64, step: &Step) -> Option<proto::command::Effect> {
    let effect = match step {
        Step::Apply(command) => Some(machine::apply(state, command.clone()).unwrap()),
        Step::Members(nodes) => {
            state.change_members(codec::encode_any(nodes), nodes.iter().copied().map(NodeId).collect());
            None
        }
    };
    state.applied(Position { term: 1, index });
    effect
}

/// The keyspace as a snapshot carries it: keys and values, nothing else.
fn restored(from: &State<Memory>) -> State<Memory> {
    let records = from.base().records().map(|(key, value)| (key.to_vec(), value.to_vec()));
    State::load(Memory::of(records)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn replicas_agree(
        steps in proptest::collection::vec((step(), [pause(), pause()]), 1..60),
    ) {
        // The first replica never stops; the others do, each at places of its own.
        let mut steady = empty();
        let mut others = [empty(), empty()];
        for (index, (step, pauses)) in (1..).zip(&steps) {
            let effect = apply(&mut steady, index, step);
            for (other, pause) in others.iter_mut().zip(pauses) {
                prop_assert_eq!(apply(other, index, step), effect.clone());
                match pause {
                    None => {}
                    Some(Break::Settle) => other.settle(),
                    Some(Break::Restart) => {
                        other.settle();
                        *other = restored(other);
                    }
                    Some(Break::Restore) => {
                        let mut source = restored_through(&steps[..index as usize]);
                        source.settle();
                        *other = restored(&source);
                    }
                }
            }
        }
        steady.settle();
        for other in &mut others {
            other.settle();
            prop_assert_eq!(other.base(), steady.base());
            prop_assert_eq!(other.base().digest(), steady.base().digest());
        }
        invariants(&steady)?;
    }
}

/// A replica that took the same steps, as the sender of a snapshot.
fn restored_through(steps: &[(Step, [Option<Break>; 2])]) -> State<Memory> {
    let mut state = empty();
    for (index, (step, _)) in (1..).zip(steps) {
        apply(&mut state, index, step);
    }
    state
}

/// What holds of every state.
fn invariants(state: &State<Memory>) -> Result<(), TestCaseError> {
    let offsets = state.heads().offsets;
    prop_assert!(offsets.acknowledged <= offsets.last);
    let waiting: Vec<u64> =
        state.base().records().filter_map(|(key, _)| machine::keys::event_offset(key)).collect();
    prop_assert_eq!(waiting, (offsets.acknowledged + 1..=offsets.last).collect::<Vec<_>>(), "no holes");
    let window = state.heads().dedupe;
    prop_assert!(window.first <= window.next);
    prop_assert!((window.next - window.first) * dedupe::CHUNK_LEN as u64 <= dedupe::IDS_MAX as u64);
    prop_assert!(state.heads().members.nodes.len() <= 9);
    for (key, value) in state.base().records().filter(|(key, _)| key[0] == b'p') {
        let profile: Profile = machine::stored::decode_at(key, value).unwrap();
        prop_assert!(profile.interactions.is_sorted_by_key(|met| met.at_ms));
        prop_assert!(profile.interactions.len() <= PROFILE_RING_LEN);
        prop_assert!(profile.interactions.iter().all(|met| met.at_ms > profile.erased_at_ms));
        prop_assert_eq!(profile.traits.len(), profile.trait_times.len());
    }
    Ok(())
}
