//! The description of the API against what is served and what is said.

use std::collections::{BTreeMap, BTreeSet};

use proto::bundle::{ArtifactKind, ArtifactRef};
use proto::control::*;
use proto::{Code, Digest, EventId, ItemId, NodeId, Offset, PopId, Revision};
use serde_json::Value;

use super::*;

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

#[test]
fn every_route_is_described_and_every_description_is_served() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let described: BTreeSet<&str> =
        document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let served: BTreeSet<&str> = routes().into_iter().map(|(path, ..)| path).collect();
    assert_eq!(described, served);
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn closed_routes_and_only_those_ask_for_the_token() {
    let document = document();
    for (path, class, _) in routes() {
        for (method, operation) in document["paths"][path].as_object().unwrap() {
            let open = operation["security"].as_array().is_some_and(Vec::is_empty);
            assert_eq!(open, class == Class::Open, "{method} {path}");
        }
    }
}

/// What is said has exactly the fields that are described: a field that was added or renamed fails here.
#[test]
fn every_type_is_as_described() {
    let document = document();
    for (name, value) in samples() {
        let schema = &document["components"]["schemas"][name];
        let described: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
        let said: BTreeSet<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(said, described, "{name}");
        let required: Vec<&str> =
            schema["required"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        assert!(required.iter().all(|field| value.get(*field).is_some()), "{name}");
    }
}

#[test]
fn every_word_of_an_enum_is_described() {
    let document = document();
    let words = |name: &str| -> BTreeSet<String> {
        let list = document["components"]["schemas"][name]["enum"].as_array().unwrap();
        list.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let said = |value: Value| value.as_str().unwrap().to_owned();
    let codes = Code::ALL.iter().map(|code| said(serde_json::to_value(code).unwrap())).collect();
    assert_eq!(words("Code"), codes);
    let kinds = ArtifactKind::ALL.iter().map(|kind| said(serde_json::to_value(kind).unwrap())).collect();
    assert_eq!(words("ArtifactKind"), kinds);
    let stages = RolloutStage::ALL.iter().map(|stage| said(serde_json::to_value(stage).unwrap())).collect();
    assert_eq!(words("RolloutStage"), stages);
    let roles = [Role::Leader, Role::Follower, Role::Candidate, Role::Learner];
    let roles = roles.iter().map(|role| said(serde_json::to_value(role).unwrap())).collect();
    assert_eq!(words("Role"), roles);
    let places = [
        Membership::Unknown,
        Membership::Voter,
        Membership::Learner,
        Membership::Waiting,
        Membership::Left,
        Membership::Revoked,
    ];
    assert_eq!(
        words("Membership"),
        places.iter().map(|place| said(serde_json::to_value(place).unwrap())).collect()
    );
}

fn samples() -> Vec<(&'static str, Value)> {
    let json = |value: Result<Value, serde_json::Error>| value.unwrap();
    let pop = PopId::new("fra").unwrap();
    let artifact = ArtifactRef { kind: ArtifactKind::Rules, digest: Digest::of(b""), size: 0 };
    let report = NodeReport {
        role: Role::Leader,
        term: 1,
        applied: 1,
        last_log: 1,
        outbox: 0,
        revision: Revision(1),
        retrieval: None,
        ranker: None,
        engine: "tract".into(),
        in_flight: 0,
        bundle_error: None,
        client_address: "127.0.0.1:1".into(),
        unfit: Revision(0),
        answers: AnswerCounts::default(),
    };
    let node =
        NodeView { node: NodeId(1), seen_at_ms: 1, report: report.clone(), membership: Membership::Voter };
    let ahead = Ahead { upto: Offset(1), acknowledged: Offset(2), bundle: None };
    let loss = LossAccepted { pop: pop.clone(), events: 0, first: None, last: None, published: None };
    let bundle = BundleView {
        revision: Revision(1),
        published_at_ms: 1,
        rollback_of: None,
        note: String::new(),
        artifacts: vec![artifact.clone()],
    };
    let event = EventView {
        seq: 1,
        id: EventId(uuid::Uuid::nil()),
        pop: pop.clone(),
        offset: Offset(1),
        visitor: "u:1".into(),
        kind: "click".into(),
        item: Some(ItemId::new("1").unwrap()),
        at_ms: 1,
        received_at_ms: 1,
        trace: "0".repeat(32),
        slot: Some("home".parse().unwrap()),
        position: Some(0),
        answer: Some(proto::AnswerId(uuid::Uuid::nil())),
        value_micros: Some(1),
        currency: Some("EUR".into()),
        stars: Some(5.0),
        name: Some("a".into()),
        attributes: Some(vec![("b".into(), "c".into())]),
    };
    let erasure = ErasureView { number: 1, erased_at_ms: 1, events: 1, waiting: vec![pop.clone()] };
    let page = EventPage { events: vec![event.clone()], next: 1, last: 1 };
    let audit = AuditView { seq: 1, at_ms: 1, who: "a".into(), what: "b".into(), detail: "c".into() };
    let publish = PublishBundle { artifacts: vec![artifact.clone()], note: String::new() };
    let stored = ArtifactStored { digest: artifact.digest, size: 0 };
    let counts = EventCounts { total: 0, by_kind: BTreeMap::new(), by_pop: BTreeMap::new() };
    let problem = Problem { code: Code::Invalid, status: 422, detail: String::new() };
    let enrol = EnrolNode { pop: pop.clone(), node: NodeId(1), names: vec![], lifetime_s: None };
    let token = EnrolmentToken {
        token: "t".into(),
        pop: pop.clone(),
        node: NodeId(1),
        expires_at_ms: 1,
        new_pop: false,
    };
    let rollout = RolloutView {
        revision: Revision(1),
        stage: RolloutStage::Canary,
        canaries: vec![pop.clone()],
        began_at_ms: 1,
        ended_at_ms: None,
        reason: String::new(),
        before: AnswerCounts::default(),
        during: AnswerCounts::default(),
        new_catalog: false,
    };
    let revoked = RevokedNode { pop: pop.clone(), node: NodeId(1), revoked_at_ms: 1, reason: String::new() };
    vec![
        ("EnrolNode", json(serde_json::to_value(enrol))),
        ("EnrolmentToken", json(serde_json::to_value(token))),
        ("RevokeNode", json(serde_json::to_value(RevokeNode { reason: String::new(), unheard: true }))),
        ("RevokedNode", json(serde_json::to_value(revoked))),
        ("AnswerCounts", json(serde_json::to_value(AnswerCounts::default()))),
        ("RolloutView", json(serde_json::to_value(rollout))),
        ("EndRollout", json(serde_json::to_value(EndRollout::default()))),
        ("ArtifactRef", json(serde_json::to_value(artifact))),
        ("NodeReport", json(serde_json::to_value(report))),
        ("NodeView", json(serde_json::to_value(&node))),
        (
            "PopView",
            json(serde_json::to_value(PopView {
                pop,
                upto: Offset(1),
                nodes: vec![node],
                ahead: Some(ahead.clone()),
                diverged: None,
                lost: 0,
            })),
        ),
        ("Ahead", json(serde_json::to_value(&ahead))),
        ("AcceptLoss", json(serde_json::to_value(AcceptLoss { ahead, reason: String::new() }))),
        ("LossAccepted", json(serde_json::to_value(loss))),
        ("BundleView", json(serde_json::to_value(bundle))),
        ("RuleSettings", json(serde_json::to_value(proto::bundle::RuleSettings::default()))),
        ("EraseVisitor", json(serde_json::to_value(EraseVisitor { visitor: "u:1".into() }))),
        ("ErasureView", json(serde_json::to_value(erasure))),
        ("EventPage", json(serde_json::to_value(page))),
        ("EventView", json(serde_json::to_value(event))),
        ("AuditView", json(serde_json::to_value(audit))),
        ("PublishBundle", json(serde_json::to_value(publish))),
        ("ArtifactStored", json(serde_json::to_value(stored))),
        ("EventCounts", json(serde_json::to_value(counts))),
        ("Problem", json(serde_json::to_value(problem))),
        ("SigningKey", json(serde_json::to_value(SigningKey { ed25519: "0".repeat(64) }))),
    ]
}
