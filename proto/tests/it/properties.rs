//! Properties of the codec: every message comes back as it went, and no bytes at all make it panic.

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proto::bundle::{Manifest, SignedManifest};
use proto::client::{
    Answer, Ask, ClientReply, ClientRequest, OpenSession, Ranked, Reason, Recommend, ServedBy, SessionOpened,
    Track, Tracked,
};
use proto::codec::{self, CodecError, FrameKind, HEADER_BYTES, Message};
use proto::command::{Command, Effect};
use proto::control::{Membership, Standing};
use proto::enrol::{EnrolReply, EnrolRequest, Token};
use proto::peer::{MemberChange, PeerReply, PeerRequest, Promise, RaftCall};
use proto::profile::Profile;
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{
    AnswerId, Code, DeviceId, Digest, ErrorReply, Event, EventId, EventKind, ItemId, ModelVersion, NodeId,
    Offset, PopId, Revision, SessionToken, SlotId, TraceId, UserId, VisitorId,
};
use uuid::Uuid;

use crate::samples;

/// Text that an id may have: any length from the shortest to the longest.
fn id_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9-]{1,12}", "[äπ漢🦀]{1,32}", "[a-z]{128}"]
}

fn item() -> impl Strategy<Value = ItemId> {
    id_text().prop_map(|text| ItemId::new(text).unwrap())
}

fn visitor() -> impl Strategy<Value = VisitorId> {
    prop_oneof![
        id_text().prop_map(|text| VisitorId::User(UserId::new(text).unwrap())),
        id_text().prop_map(|text| VisitorId::Device(DeviceId::new(text).unwrap())),
    ]
}

fn slot() -> impl Strategy<Value = SlotId> {
    id_text().prop_map(|text| SlotId::new(text).unwrap())
}

fn pop() -> impl Strategy<Value = PopId> {
    "[a-z0-9]{1,20}".prop_map(|text| PopId::new(text).unwrap())
}

fn answer_id() -> impl Strategy<Value = AnswerId> {
    any::<u128>().prop_map(|id| AnswerId(Uuid::from_u128(id)))
}

fn number() -> impl Strategy<Value = f32> {
    // No NaN: it is equal to nothing.
    prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL | prop::num::f32::INFINITE
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((".{0,8}", ".{0,20}"), 0..6)
}

fn event_kind() -> impl Strategy<Value = EventKind> {
    prop_oneof![
        (item(), slot(), any::<u16>(), option::of(answer_id())).prop_map(|(item, slot, position, answer)| {
            EventKind::Impression { item, slot, position, answer }
        }),
        (item(), slot(), option::of(answer_id())).prop_map(|(item, slot, answer)| EventKind::Click {
            item,
            slot,
            answer
        }),
        (item(), any::<i64>(), any::<[u8; 3]>(), option::of(answer_id())).prop_map(
            |(item, value_micros, currency, answer)| EventKind::Conversion {
                item,
                value_micros,
                currency,
                answer
            }
        ),
        (item(), number()).prop_map(|(item, stars)| EventKind::Rating { item, stars }),
        (".{0,12}", pairs()).prop_map(|(name, attributes)| EventKind::Custom { name, attributes }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    (any::<u128>(), visitor(), any::<u64>(), any::<u128>(), event_kind()).prop_map(
        |(id, visitor, at_ms, trace, kind)| Event {
            id: EventId(Uuid::from_u128(id)),
            visitor,
            at_ms,
            trace: TraceId(trace),
            kind,
        },
    )
}

fn token() -> impl Strategy<Value = SessionToken> {
    (pop(), any::<u64>()).prop_map(|(pop, index)| SessionToken { pop, index })
}

fn error() -> impl Strategy<Value = ErrorReply> {
    (prop::sample::select(Code::ALL), ".{0,40}", option::of(any::<u32>()))
        .prop_map(|(code, message, retry_after_ms)| ErrorReply { code, message, retry_after_ms })
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

fn signed() -> impl Strategy<Value = SignedManifest> {
    (bytes(), bytes()).prop_map(|(manifest, signature)| SignedManifest { manifest, signature })
}

fn recommend() -> impl Strategy<Value = Recommend> {
    (visitor(), slot(), any::<u16>(), option::of(token()), pairs(), vec(item(), 0..20)).prop_map(
        |(visitor, slot, count, token, context, exclude)| Recommend {
            visitor,
            slot,
            count,
            token,
            context,
            exclude,
        },
    )
}

fn client_request() -> impl Strategy<Value = ClientRequest> {
    let ask = prop_oneof![
        (".{0,20}", ".{0,20}").prop_map(|(app_key, agent)| Ask::Session(OpenSession { app_key, agent })),
        recommend().prop_map(Ask::Recommend),
        vec(event(), 0..8).prop_map(|events| Ask::Track(Track { events })),
        Just(Ask::Ping),
    ];
    (any::<u128>(), any::<u32>(), ask).prop_map(|(trace, deadline_ms, ask)| ClientRequest {
        trace: TraceId(trace),
        deadline_ms,
        ask,
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    let reason = prop::sample::select(vec![Reason::Taste, Reason::Segment, Reason::Popular]);
    let ranked = (item(), number(), reason).prop_map(|(item, score, reason)| Ranked { item, score, reason });
    let served_by = prop::sample::select(vec![ServedBy::Ranked, ServedBy::Retrieved, ServedBy::Nothing]);
    let model = || option::of(".{0,16}".prop_map(|text: String| ModelVersion(text.into())));
    (answer_id(), vec(ranked, 0..30), served_by, model(), model(), any::<(u64, u64, bool, Option<u64>)>())
        .prop_map(|(id, items, served_by, retrieval, ranker, (revision, applied, fresh, age_ms))| Answer {
            id,
            items,
            served_by,
            retrieval,
            ranker,
            revision: Revision(revision),
            applied,
            fresh,
            age_ms,
        })
}

fn client_reply() -> impl Strategy<Value = ClientReply> {
    prop_oneof![
        (pop(), any::<u64>(), vec(".{0,20}", 0..4)).prop_map(|(pop, node, nodes)| {
            ClientReply::Session(SessionOpened { pop, node: NodeId(node), nodes })
        }),
        answer().prop_map(ClientReply::Answer),
        (token(), any::<(u32, u32)>()).prop_map(|(token, (accepted, duplicates))| {
            ClientReply::Tracked(Tracked { token, accepted, duplicates })
        }),
        Just(ClientReply::Pong),
        error().prop_map(ClientReply::Error),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (vec(event(), 0..6), any::<u64>())
            .prop_map(|(events, received_at_ms)| Command::Track { events, received_at_ms }),
        (visitor(), vec(item(), 0..20), any::<u64>()).prop_map(|(visitor, items, at_ms)| Command::Served {
            visitor,
            items,
            at_ms
        }),
        signed().prop_map(|manifest| Command::Activate { manifest }),
        any::<u64>().prop_map(|upto| Command::Acknowledge { upto: Offset(upto) }),
    ]
}

fn peer_request() -> impl Strategy<Value = PeerRequest> {
    let call =
        prop::sample::select(vec![RaftCall::Append, RaftCall::Vote, RaftCall::Snapshot, RaftCall::Transfer]);
    let member =
        (any::<u64>(), ".{0,20}", 0..3).prop_map(|(node, address, kind)| match (NodeId(node), kind) {
            (node, 0) => MemberChange::Join { node, address },
            (node, 1) => MemberChange::Move { node, address },
            (node, _) => MemberChange::Leave { node },
        });
    prop_oneof![
        (call, bytes()).prop_map(|(call, body)| PeerRequest::Raft { call, body }),
        vec(command(), 0..5).prop_map(PeerRequest::Propose),
        Just(PeerRequest::ReadIndex),
        member.prop_map(PeerRequest::Member),
        (digest(), any::<u64>()).prop_map(|(digest, offset)| PeerRequest::Artifact { digest, offset }),
        Just(PeerRequest::Standing),
        Just(PeerRequest::Promised),
    ]
}

fn peer_reply() -> impl Strategy<Value = PeerReply> {
    let effect = prop_oneof![
        any::<(u32, u32)>().prop_map(|(accepted, duplicates)| Effect::Tracked { accepted, duplicates }),
        Just(Effect::Done),
        any::<u64>().prop_map(|revision| Effect::Activated { revision: Revision(revision) }),
        error().prop_map(Effect::Refused),
    ];
    prop_oneof![
        bytes().prop_map(PeerReply::Raft),
        (any::<u64>(), vec(effect, 0..8)).prop_map(|(index, effects)| PeerReply::Proposed { index, effects }),
        any::<u64>().prop_map(PeerReply::ReadIndex),
        Just(PeerReply::Done),
        (any::<u64>(), bytes()).prop_map(|(size, part)| PeerReply::Artifact { size, part }),
        option::of(any::<u64>()).prop_map(|node| PeerReply::NotLeader(node.map(NodeId))),
        error().prop_map(PeerReply::Error),
        any::<(u64, bool)>().prop_map(|(last_log, removed)| PeerReply::Standing { last_log, removed }),
        any::<(u64, u64, u64)>().prop_map(|(term, matched, committed)| {
            PeerReply::Promised(Promise { term, matched, committed })
        }),
        Just(PeerReply::NoMember),
    ]
}

fn uplink_request() -> impl Strategy<Value = UplinkRequest> {
    prop_oneof![
        Just(UplinkRequest::Position),
        (any::<u64>(), vec(event(), 0..10))
            .prop_map(|(first, events)| UplinkRequest::Append { first: Offset(first), events }),
        Just(UplinkRequest::Subscribe),
        Just(UplinkRequest::Manifest),
        (digest(), any::<u64>()).prop_map(|(digest, offset)| UplinkRequest::Artifact { digest, offset }),
        bytes().prop_map(UplinkRequest::Renew),
        any::<u64>().prop_map(|known| UplinkRequest::Revoked { known }),
        (any::<(bool, u64, u64, u64)>(), vec(any::<u64>(), 0..5), option::of(".{0,20}")).prop_map(
            |((leads, active, acknowledged, last), members, diverged)| {
                UplinkRequest::Standing(Standing {
                    membership: Membership::Learner,
                    term: last,
                    leads,
                    members: members.into_iter().map(NodeId).collect(),
                    serves: None,
                    active: Revision(active),
                    active_manifest: Some(Digest([7; 32])),
                    acknowledged: Offset(acknowledged),
                    last_offset: Offset(last),
                    diverged,
                })
            }
        ),
    ]
}

fn uplink_reply() -> impl Strategy<Value = UplinkReply> {
    prop_oneof![
        any::<(u64, u64)>().prop_map(|(upto, revision)| UplinkReply::Ack {
            upto: Offset(upto),
            control_revision: Revision(revision)
        }),
        any::<u64>().prop_map(|revision| UplinkReply::Newer(Revision(revision))),
        option::of(signed()).prop_map(UplinkReply::Manifest),
        (any::<u64>(), bytes()).prop_map(|(size, part)| UplinkReply::Artifact { size, part }),
        Just(UplinkReply::Noted),
        error().prop_map(UplinkReply::Error),
        ".{0,200}".prop_map(UplinkReply::Issued),
        vec(any::<u64>().prop_map(NodeId), 0..9).prop_map(UplinkReply::Revoked),
    ]
}

fn enrol_request() -> impl Strategy<Value = EnrolRequest> {
    (pop(), any::<u64>(), ".{0,64}", bytes()).prop_map(|(pop, node, token, request)| EnrolRequest {
        pop,
        node: NodeId(node),
        token: Token(token),
        request,
    })
}

/// Reads bytes as the body of every kind and of everything stored. The results do not matter, only that there are some.
fn read_as_everything(bytes: &[u8]) {
    fn read<M: Message>(bytes: &[u8]) {
        let _ = codec::unframe::<M>(M::KIND, bytes);
    }
    read::<ClientRequest>(bytes);
    read::<ClientReply>(bytes);
    read::<PeerRequest>(bytes);
    read::<PeerReply>(bytes);
    read::<UplinkRequest>(bytes);
    read::<UplinkReply>(bytes);
    read::<EnrolRequest>(bytes);
    read::<EnrolReply>(bytes);
    let _ = codec::decode::<Manifest>(bytes);
    let _ = codec::decode::<SignedManifest>(bytes);
    let _ = codec::decode::<Profile>(bytes);
    let _ = codec::decode::<Command>(bytes);
    let _ = codec::decode::<Vec<Command>>(bytes);
    let _ = codec::decode::<Event>(bytes);
}

/// There and back; no strict prefix and nothing longer is taken for it; and what others' kinds make of it is an error.
fn check<M: Message + PartialEq + Debug>(message: &M) -> Result<(), TestCaseError> {
    let frame = codec::frame(message).unwrap();
    let (kind, len) = codec::header(*frame.first_chunk::<HEADER_BYTES>().unwrap()).unwrap();
    let body = &frame[HEADER_BYTES..];
    prop_assert_eq!((kind, len), (M::KIND, body.len()));
    prop_assert_eq!(&codec::unframe::<M>(kind, body).unwrap(), message);
    for cut in 0..body.len() {
        prop_assert!(codec::unframe::<M>(kind, &body[..cut]).is_err(), "{} of {} bytes", cut, body.len());
    }
    let longer = [body, &[0, 0, 0]].concat();
    prop_assert_eq!(codec::unframe::<M>(kind, &longer).unwrap_err(), CodecError::Trailing(3));
    for other in FrameKind::ALL.into_iter().filter(|other| *other != kind) {
        let wrong = CodecError::WrongKind { wanted: kind, got: other };
        prop_assert_eq!(codec::unframe::<M>(other, body).unwrap_err(), wrong);
    }
    Ok(())
}

proptest! {
    #[test]
    fn client_requests_come_back(message in client_request()) { check(&message)?; }

    #[test]
    fn client_replies_come_back(message in client_reply()) { check(&message)?; }

    #[test]
    fn peer_requests_come_back(message in peer_request()) { check(&message)?; }

    #[test]
    fn peer_replies_come_back(message in peer_reply()) { check(&message)?; }

    #[test]
    fn uplink_requests_come_back(message in uplink_request()) { check(&message)?; }

    #[test]
    fn uplink_replies_come_back(message in uplink_reply()) { check(&message)?; }

    #[test]
    fn enrol_requests_come_back(message in enrol_request()) { check(&message)?; }

    #[test]
    fn enrol_replies_come_back(
        message in prop_oneof![".{0,200}".prop_map(EnrolReply::Issued), error().prop_map(EnrolReply::Error)]
    ) { check(&message)?; }

    #[test]
    fn commands_come_back(commands in vec(command(), 0..5)) {
        prop_assert_eq!(codec::decode::<Vec<Command>>(&codec::encode(&commands)).unwrap(), commands);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..2000)) { read_as_everything(&bytes); }

    #[test]
    fn any_header_is_read_or_refused(bytes in any::<[u8; HEADER_BYTES]>()) {
        match codec::header(bytes) {
            Ok((kind, len)) => {
                prop_assert!(len <= kind.body_bytes_max());
                prop_assert_eq!(bytes[4], kind as u8);
            }
            Err(CodecError::UnknownKind(kind)) => {
                prop_assert!(FrameKind::ALL.into_iter().all(|known| known as u8 != kind));
            }
            Err(CodecError::TooLarge { len, max }) => prop_assert!(len > max),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

/// Every sample with every single bit turned over: near misses reach deeper into the decoder than random bytes do.
#[test]
fn turned_bits_are_read_or_refused() {
    for sample in samples::all() {
        for bit in 0..sample.bytes.len() * 8 {
            let mut bytes = sample.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            read_as_everything(&bytes);
            read_as_everything(bytes.get(HEADER_BYTES..).unwrap_or_default());
        }
    }
}

/// The largest request that the limits allow, of the smallest parts: bincode's own limit must not get in its way.
#[test]
fn many_small_parts_come_back() {
    let event = Event {
        id: EventId(Uuid::from_u128(1)),
        visitor: VisitorId::User(UserId::new("u").unwrap()),
        at_ms: 0,
        trace: TraceId(0),
        kind: EventKind::Custom { name: "n".into(), attributes: vec![(String::new(), String::new()); 32] },
    };
    for count in [1, 100, 500] {
        let ask = Ask::Track(Track { events: vec![event.clone(); count] });
        let message = ClientRequest { trace: TraceId(0), deadline_ms: 0, ask };
        let frame = codec::frame(&message).unwrap();
        assert_eq!(
            codec::unframe(FrameKind::ClientRequest, &frame[HEADER_BYTES..]),
            Ok(message),
            "{count} events"
        );
    }
    let items = vec![ItemId::new("1").unwrap(); 100];
    let served = Command::Served { visitor: event.visitor, items, at_ms: 0 };
    for count in [1, 250, 4_000, 30_000] {
        let message = PeerRequest::Propose(vec![served.clone(); count]);
        let frame = codec::frame(&message).unwrap();
        assert_eq!(
            codec::unframe(FrameKind::PeerRequest, &frame[HEADER_BYTES..]),
            Ok(message),
            "{count} commands"
        );
    }
}

/// What a body says about its own parts is not believed: neither of these lengths can be allocated.
#[test]
fn lying_lengths_inside_a_body_are_refused() {
    let lies = [
        // PeerRequest::Raft { call: Append, body: 2^64 - 1 bytes }.
        vec![0, 0, 253, 255, 255, 255, 255, 255, 255, 255, 255],
        // PeerRequest::Propose of 2^40 commands.
        vec![1, 253, 0, 0, 0, 0, 0, 1, 0, 0],
        // PeerReply::Proposed { index: 0, effects: 2^32 - 1 }.
        vec![1, 0, 252, 255, 255, 255, 255],
        // UplinkRequest::Append { first: 0, events: 2^40 }.
        vec![1, 0, 253, 0, 0, 0, 0, 0, 1, 0, 0],
    ];
    for lie in lies {
        assert!(codec::unframe::<PeerRequest>(FrameKind::PeerRequest, &lie).is_err(), "{lie:?}");
        assert!(codec::unframe::<PeerReply>(FrameKind::PeerReply, &lie).is_err(), "{lie:?}");
        assert!(codec::unframe::<UplinkRequest>(FrameKind::UplinkRequest, &lie).is_err(), "{lie:?}");
    }
}

#[test]
fn every_kind_has_its_maximum() {
    for kind in FrameKind::ALL {
        let max = kind.body_bytes_max();
        let header = |len: usize| {
            let [a, b, c, d] = (len as u32).to_be_bytes();
            codec::header([a, b, c, d, kind as u8])
        };
        assert_eq!(header(max), Ok((kind, max)));
        assert_eq!(header(max + 1), Err(CodecError::TooLarge { len: max + 1, max }));
    }
    let max = FrameKind::PeerReply.body_bytes_max();
    // A variant's number and a length of five bytes come before the bytes themselves.
    let fits = PeerReply::Raft(vec![7; max - 6]);
    let frame = codec::frame(&fits).unwrap();
    assert_eq!(frame.len(), HEADER_BYTES + max);
    assert_eq!(codec::unframe(FrameKind::PeerReply, &frame[HEADER_BYTES..]), Ok(fits));
    let refused = codec::frame(&PeerReply::Raft(vec![7; max - 5])).unwrap_err();
    assert_eq!(refused, CodecError::TooLarge { len: max + 1, max });
    let over = vec![0; max + 1];
    assert!(matches!(
        codec::unframe::<PeerReply>(FrameKind::PeerReply, &over),
        Err(CodecError::TooLarge { .. })
    ));
}

/// Ids are checked when they are read, not only when they are made.
#[test]
fn ids_are_checked_in_the_decoder() {
    let good = Command::Served {
        visitor: VisitorId::User(UserId::new("u").unwrap()),
        items: vec![ItemId::new("x").unwrap()],
        at_ms: 0,
    };
    let bytes = codec::encode(&good);
    assert_eq!(codec::decode::<Command>(&bytes), Ok(good));
    let at = bytes.iter().position(|byte| *byte == b'x').unwrap();
    for bad in [b'\n', 0, 0x7f, 0xff] {
        let mut bytes = bytes.clone();
        bytes[at] = bad;
        assert!(codec::decode::<Command>(&bytes).is_err(), "{bad:#x} in an id");
    }
    let empty = [&bytes[..at - 1], &[0], &bytes[at + 1..]].concat();
    assert!(codec::decode::<Command>(&empty).is_err(), "an empty id");
    let long = [&bytes[..at - 1], &[129], &[b'x'; 129], &bytes[at + 1..]].concat();
    assert!(codec::decode::<Command>(&long).is_err(), "an id of 129 bytes");
}
