//! One value of everything that travels or is stored, with every variant, for the golden bytes.

use std::fmt::Debug;

use proto::bundle::{ArtifactKind, ArtifactRef, Manifest, SignedManifest};
use proto::client::{
    Answer, Ask, ClientReply, ClientRequest, Degraded, DetailedAnswer, DetailedRecommend, ItemDetails,
    OpenSession, Ranked, Reason, Recommend, ServedBy, SessionOpened, Track, Tracked,
};
use proto::codec::{self, HEADER_BYTES, Message, Stored};
use proto::command::{Command, Effect};
use proto::control::{AnswerCounts, Membership, NodeReport, Role, Standing};
use proto::enrol::{EnrolReply, EnrolRequest, Token};
use proto::peer::{MemberChange, PeerReply, PeerRequest, Promise, RaftCall};
use proto::profile::{Interaction, Profile, Profile1, Seen, Signal};
use proto::uplink::{Erasure, UplinkReply, UplinkRequest};
use proto::{
    AnswerId, Code, DeviceId, Digest, ErrorReply, Event, EventId, EventKind, ItemId, ModelVersion, NodeId,
    Offset, PopId, Revision, SessionToken, SlotId, TraceId, UserId, VisitorId,
};
use uuid::Uuid;

/// An error says what is read instead.
type ReadsBack = dyn Fn(&[u8]) -> Result<(), String>;

/// A named sample: its bytes, and whether bytes are read back to the same value.
pub struct Sample {
    pub name: String,
    pub bytes: Vec<u8>,
    pub reads_back: Box<ReadsBack>,
}

fn framed<M: Message + PartialEq + Debug + 'static>(name: &str, message: M) -> Sample {
    let bytes = codec::frame(&message).unwrap();
    let reads_back = move |bytes: &[u8]| {
        let header = *bytes.first_chunk::<HEADER_BYTES>().ok_or("shorter than a header")?;
        let (kind, len) = codec::header(header).map_err(|e| e.to_string())?;
        if len != bytes.len() - HEADER_BYTES {
            return Err(format!("{len} bytes announced"));
        }
        let got: M = codec::unframe(kind, &bytes[HEADER_BYTES..]).map_err(|e| e.to_string())?;
        if got == message { Ok(()) } else { Err(format!("got {got:?}, not {message:?}")) }
    };
    Sample { name: format!("{:?}.{name}", M::KIND), bytes, reads_back: Box::new(reads_back) }
}

fn stored<T: Stored + PartialEq + Debug + 'static>(name: &str, value: T) -> Sample {
    let bytes = codec::encode(&value);
    let reads_back = move |bytes: &[u8]| {
        let got: T = codec::decode(bytes).map_err(|e| e.to_string())?;
        if got == value { Ok(()) } else { Err(format!("got {got:?}, not {value:?}")) }
    };
    Sample { name: name.to_owned(), bytes, reads_back: Box::new(reads_back) }
}

/// Every sample, in the order of the golden file.
pub fn all() -> Vec<Sample> {
    [client_requests(), client_replies(), peer_requests(), peer_replies(), uplink(), enrol(), stored_forms()]
        .into_iter()
        .flatten()
        .collect()
}

fn item(name: &str) -> ItemId {
    ItemId::new(name).unwrap()
}

fn slot() -> SlotId {
    SlotId::new("home").unwrap()
}

fn user() -> VisitorId {
    VisitorId::User(UserId::new("ada").unwrap())
}

fn device() -> VisitorId {
    VisitorId::Device(DeviceId::new("phone-7").unwrap())
}

fn pop() -> PopId {
    PopId::new("pop-a").unwrap()
}

fn trace() -> TraceId {
    TraceId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)
}

fn answer_id() -> AnswerId {
    AnswerId(Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_00aa))
}

fn pairs() -> Vec<(String, String)> {
    vec![("device".into(), "phone".into()), ("größe".into(), String::new())]
}

fn event(kind: EventKind) -> Event {
    Event {
        id: EventId(Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0001)),
        visitor: user(),
        at_ms: 1_760_000_000_000,
        trace: trace(),
        kind,
    }
}

fn events() -> Vec<Event> {
    vec![
        event(EventKind::Impression {
            item: item("50"),
            slot: slot(),
            position: 3,
            answer: Some(answer_id()),
        }),
        event(EventKind::Click { item: item("50"), slot: slot(), answer: None }),
        event(EventKind::Conversion {
            item: item("50"),
            value_micros: -1_990_000,
            currency: *b"EUR",
            answer: Some(answer_id()),
        }),
        event(EventKind::Rating { item: item("181"), stars: 4.5 }),
        Event {
            visitor: device(),
            ..event(EventKind::Custom { name: "identify".into(), attributes: pairs() })
        },
    ]
}

fn token() -> SessionToken {
    SessionToken { pop: pop(), index: 70_000 }
}

fn model(version: &str) -> Option<ModelVersion> {
    Some(ModelVersion(version.into()))
}

fn error() -> ErrorReply {
    ErrorReply::new(Code::Overloaded, "come back").retry_after_ms(250)
}

fn manifest() -> Manifest {
    let artifacts = ArtifactKind::ALL
        .into_iter()
        .zip(0u8..)
        .map(|(kind, i)| ArtifactRef { kind, digest: Digest::of(&[i]), size: 1000 + u64::from(i) })
        .collect();
    Manifest {
        revision: Revision(12),
        published_at_ms: 1_760_000_000_000,
        expires_at_ms: 1_760_086_400_000,
        artifacts,
    }
}

fn signed() -> SignedManifest {
    SignedManifest { manifest: codec::encode(&manifest()), signature: (0..64).collect() }
}

fn client_requests() -> Vec<Sample> {
    let ask = |ask| ClientRequest { trace: trace(), deadline_ms: 50, ask };
    let open = OpenSession { app_key: "secret".into(), agent: "rockpool-rust/0.1.0".into() };
    let recommend = Recommend {
        visitor: user(),
        slot: slot(),
        count: 10,
        token: Some(token()),
        context: pairs(),
        exclude: vec![item("1"), item("2")],
    };
    let unknown =
        Recommend { visitor: device(), token: None, context: vec![], exclude: vec![], ..recommend.clone() };
    let fields = vec!["title".into(), "year".into()];
    let detailed = DetailedRecommend { recommend: unknown.clone(), fields };
    vec![
        framed("Session", ask(Ask::Session(open))),
        framed("Recommend", ask(Ask::Recommend(recommend))),
        framed("Recommend.unknown", ask(Ask::Recommend(unknown))),
        framed("Track", ask(Ask::Track(Track { events: events() }))),
        framed("Ping", ask(Ask::Ping)),
        framed("RecommendDetailed", ask(Ask::RecommendDetailed(detailed))),
    ]
}

fn client_replies() -> Vec<Sample> {
    let opened = SessionOpened {
        pop: pop(),
        node: NodeId(2),
        nodes: vec!["10.0.0.1:4433".into(), "[::1]:4433".into()],
    };
    let ranked = |name, score, reason| Ranked { item: item(name), score, reason };
    let answer = Answer {
        id: answer_id(),
        items: vec![
            ranked("50", 0.75, Reason::Taste),
            ranked("181", 0.5, Reason::Segment),
            ranked("1", -0.0, Reason::Popular),
        ],
        served_by: ServedBy::Ranked,
        retrieval: model("sasrec-1"),
        ranker: model("dcn-1"),
        revision: Revision(12),
        applied: 70_001,
        fresh: true,
        age_ms: Some(250),
    };
    let mut samples = vec![
        framed("Session", ClientReply::Session(opened)),
        framed("Answer", ClientReply::Answer(answer.clone())),
    ];
    for served_by in [ServedBy::Retrieved, ServedBy::Segment, ServedBy::Popular, ServedBy::Nothing] {
        let answer = Answer {
            served_by,
            items: vec![],
            retrieval: None,
            ranker: None,
            fresh: false,
            age_ms: None,
            ..answer.clone()
        };
        samples.push(framed(&format!("Answer.{served_by:?}"), ClientReply::Answer(answer)));
    }
    samples.push(framed(
        "Tracked",
        ClientReply::Tracked(Tracked { token: token(), accepted: 4, duplicates: 1 }),
    ));
    samples.push(framed("Pong", ClientReply::Pong));
    // Every code: their numbers are the wire's.
    for code in Code::ALL {
        samples.push(framed(&format!("Error.{code}"), ClientReply::Error(ErrorReply::new(*code, "why"))));
    }
    samples.push(framed("Error.retry", ClientReply::Error(error())));
    let details = ItemDetails {
        title: Some("Star Wars".into()),
        categories: Some(vec!["Sci-Fi".into()]),
        image: Some("/c/shop/50.jpg".into()),
        attributes: pairs(),
    };
    let degraded = vec![
        Degraded::Shed,
        Degraded::ModelTimeout,
        Degraded::ModelFailed,
        Degraded::NoModel,
        Degraded::NoBundle,
        Degraded::Stale,
        Degraded::Behind,
    ];
    let answer =
        Answer { items: vec![ranked("50", 1.0, Reason::New), ranked("1", 0.5, Reason::Again)], ..answer };
    let details = vec![details, ItemDetails::default()];
    samples.push(framed("Detailed", ClientReply::Detailed(DetailedAnswer { answer, degraded, details })));
    samples
}

fn commands() -> Vec<(&'static str, Command)> {
    vec![
        ("Track", Command::Track { events: events(), received_at_ms: 1_760_000_000_123 }),
        ("Served", Command::Served { visitor: device(), items: vec![item("50")], at_ms: 1_760_000_000_124 }),
        ("Activate", Command::Activate { manifest: signed() }),
        ("Acknowledge", Command::Acknowledge { upto: Offset(99) }),
    ]
}

/// Those that came later: `PeerRequest.Propose` has its own golden bytes.
fn later_commands() -> Vec<(&'static str, Command)> {
    let (keys, number) = (vec![proto::purge::PurgeKey(7)], 3);
    vec![
        ("Purge", Command::Purge { keys, all: false }),
        ("Erase", Command::Erase { visitor: user(), at_ms: 1_760_000_000_125, number }),
    ]
}

fn peer_requests() -> Vec<Sample> {
    let mut samples: Vec<_> = [RaftCall::Append, RaftCall::Vote, RaftCall::Snapshot, RaftCall::Transfer]
        .into_iter()
        .map(|call| framed(&format!("Raft.{call:?}"), PeerRequest::Raft { call, body: vec![1, 2, 255] }))
        .collect();
    let join = MemberChange::Join { node: NodeId(4), address: "10.0.0.4:4434".into() };
    samples.extend([
        framed("Propose", PeerRequest::Propose(commands().into_iter().map(|(_, command)| command).collect())),
        framed("ReadIndex", PeerRequest::ReadIndex),
        framed("Member.Join", PeerRequest::Member(join)),
        framed("Member.Leave", PeerRequest::Member(MemberChange::Leave { node: NodeId(4) })),
        framed("Artifact", PeerRequest::Artifact { digest: Digest::of(b"artifact"), offset: 524_288 }),
        framed("Standing", PeerRequest::Standing),
        framed("Promised", PeerRequest::Promised),
        framed(
            "Member.Move",
            PeerRequest::Member(MemberChange::Move { node: NodeId(4), address: "10.0.0.5:4434".into() }),
        ),
    ]);
    samples
}

fn peer_replies() -> Vec<Sample> {
    let effects = vec![
        Effect::Tracked { accepted: 4, duplicates: 1 },
        Effect::Done,
        Effect::Activated { revision: Revision(12) },
        Effect::Refused(error()),
    ];
    vec![
        framed("Raft", PeerReply::Raft(vec![0, 128])),
        framed("Proposed", PeerReply::Proposed { index: 70_002, effects }),
        framed("ReadIndex", PeerReply::ReadIndex(70_003)),
        framed("Done", PeerReply::Done),
        framed("Artifact", PeerReply::Artifact { size: 1_000_000, part: vec![8; 4] }),
        framed("NotLeader", PeerReply::NotLeader(Some(NodeId(3)))),
        framed("NotLeader.unknown", PeerReply::NotLeader(None)),
        framed("Error", PeerReply::Error(error())),
        framed("Standing", PeerReply::Standing { last_log: 70_004, removed: true }),
        framed("Promised", PeerReply::Promised(Promise { term: 5, matched: 70_004, committed: 70_003 })),
        framed("NoMember", PeerReply::NoMember),
    ]
}

fn standing() -> Standing {
    Standing {
        membership: Membership::Voter,
        term: 5,
        leads: true,
        members: vec![NodeId(1), NodeId(2), NodeId(300)],
        serves: Some(Digest::of(b"manifest")),
        active: Revision(12),
        active_manifest: Some(Digest::of(b"active")),
        acknowledged: Offset(99),
        last_offset: Offset(104),
        diverged: Some("it lost data".into()),
    }
}

fn uplink() -> Vec<Sample> {
    let report = |role| NodeReport {
        role,
        term: 5,
        applied: 70_004,
        last_log: 70_005,
        outbox: 17,
        revision: Revision(12),
        retrieval: Some("sasrec-1".into()),
        ranker: None,
        engine: "tract".into(),
        in_flight: 3,
        bundle_error: Some("unsigned".into()),
        client_address: "10.0.0.1:4433".into(),
        unfit: Revision(13),
        answers: AnswerCounts { answers: 1_000, failed: 1, fell_back: 300, took_us: 2_100_000 },
    };
    let erasure = Erasure { number: 3, visitor: device(), at_ms: 1_760_000_000_125 };
    let mut samples = vec![
        framed("Position", UplinkRequest::Position),
        framed("Append", UplinkRequest::Append { first: Offset(100), events: events() }),
        framed("Subscribe", UplinkRequest::Subscribe),
        framed("Manifest", UplinkRequest::Manifest),
        framed("Artifact", UplinkRequest::Artifact { digest: Digest::of(b"artifact"), offset: 0 }),
    ];
    for role in [Role::Leader, Role::Follower, Role::Candidate, Role::Learner] {
        samples.push(framed(&format!("Report.{role:?}"), UplinkRequest::Report(report(role))));
    }
    samples.extend([
        framed("Ack", UplinkReply::Ack { upto: Offset(104), control_revision: Revision(13) }),
        framed("Newer", UplinkReply::Newer(Revision(13))),
        framed("Manifest", UplinkReply::Manifest(Some(signed()))),
        framed("Manifest.none", UplinkReply::Manifest(None)),
        framed("Artifact", UplinkReply::Artifact { size: 4, part: vec![1, 2, 3, 4] }),
        framed("Noted", UplinkReply::Noted),
        framed("Error", UplinkReply::Error(error())),
        framed("Renew", UplinkRequest::Renew(vec![0x30, 0x82])),
        framed("Revoked", UplinkRequest::Revoked { known: 2 }),
        framed("Standing", UplinkRequest::Standing(standing())),
        framed("Issued", UplinkReply::Issued("-----BEGIN CERTIFICATE-----".into())),
        framed("Revoked", UplinkReply::Revoked(vec![NodeId(2), NodeId(300)])),
        framed("Erasures", UplinkRequest::Erasures { after: 2 }),
        framed("Erasures", UplinkReply::Erasures(vec![erasure])),
    ]);
    samples
}

fn enrol() -> Vec<Sample> {
    let request = EnrolRequest {
        pop: pop(),
        node: NodeId(4),
        token: Token("one time".into()),
        request: vec![0x30, 0x82],
    };
    vec![
        framed("Enrol", request),
        framed("Issued", EnrolReply::Issued("-----BEGIN CERTIFICATE-----".into())),
        framed("Error", EnrolReply::Error(error())),
    ]
}

fn stored_forms() -> Vec<Sample> {
    let interaction =
        |signal, stars| Interaction { item: item("50"), signal, stars, at_ms: 1_760_000_000_000 };
    let old = Profile1 {
        interactions: vec![
            interaction(Signal::Click, 0.0),
            interaction(Signal::Conversion, 0.0),
            interaction(Signal::Rating, 4.5),
        ],
        seen: vec![Seen { item: item("181"), served: 2, seen: 1 }],
        traits: pairs(),
        events: 300,
        version: 4,
    };
    let profile = Profile {
        trait_times: vec![0, 1_760_000_000_000],
        erased_at_ms: 1_750_000_000_000,
        ..Profile::from(old.clone())
    };
    let mut samples = vec![
        stored("Manifest", manifest()),
        stored("SignedManifest", signed()),
        stored("Profile", old),
        stored("Profile.empty", Profile1::default()),
        stored("Profile.2", profile),
        stored("Profile.2.empty", Profile::default()),
    ];
    samples.extend(events().into_iter().map(|event| stored(&format!("Event.{}", event.kind.name()), event)));
    let all = commands().into_iter().chain(later_commands());
    samples.extend(all.map(|(name, command)| stored(&format!("Command.{name}"), command)));
    samples
}
