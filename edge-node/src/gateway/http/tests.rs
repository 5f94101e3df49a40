//! The description of the API against what is served and what is said.

use std::collections::BTreeSet;

use proto::client::{Answer, Degraded, DetailedAnswer, ItemDetails, Ranked, Reason, ServedBy};
use proto::control::{ContentPurged, PurgeContent};
use proto::{AnswerId, Code, ItemId, Revision, SlotId, TraceId};
use serde_json::Value;

use super::events::{Counted, Happened};
use super::recommend::{Offered, Wanted};
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
    let served: BTreeSet<&str> =
        routes().into_iter().map(|(path, _)| path).chain(["/c/{origin}/{path}"]).collect();
    assert_eq!(content::ROUTE, "/c/{origin}/{*path}", "OpenAPI has no word for the rest of a path");
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

/// What is said, and what is understood, has exactly the fields that are described.
#[test]
fn every_type_is_as_described() {
    let document = document();
    for (name, value) in samples() {
        let schema = &document["components"]["schemas"][name];
        let described: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
        let said: BTreeSet<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(said, described, "{name}");
    }
}

#[test]
fn every_code_is_described() {
    let document = document();
    let words = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
        .as_array()
        .unwrap()
        .clone();
    let codes: Vec<Value> = Code::ALL.iter().map(|code| code.as_str().into()).collect();
    assert_eq!(words, codes);
}

#[test]
fn every_reason_is_described() {
    let document = document();
    let words = &document["components"]["schemas"]["Note"]["properties"]["reason"]["enum"];
    let reasons = segment::notes::Reason::ALL.map(|reason| serde_json::to_value(reason).unwrap());
    assert_eq!(words.as_array().unwrap(), &reasons);
}

fn samples() -> Vec<(&'static str, Value)> {
    let answer = Answer {
        id: AnswerId(uuid::Uuid::now_v7()),
        items: vec![Ranked { item: ItemId::new("a").unwrap(), score: 1.0, reason: Reason::Taste }],
        served_by: ServedBy::Ranked,
        retrieval: None,
        ranker: None,
        revision: Revision(1),
        applied: 1,
        fresh: true,
        age_ms: Some(3),
    };
    let details = ItemDetails {
        title: Some("A".into()),
        categories: Some(vec!["B".into()]),
        image: Some("/c/shop/a.jpg".into()),
        attributes: vec![("year".into(), "1995".into())],
    };
    let answer = DetailedAnswer { answer, degraded: vec![Degraded::Shed], details: vec![details] };
    let offered = serde_json::to_value(Offered::of(answer, TraceId(1))).unwrap();
    let wanted = Wanted {
        user_id: None,
        device_id: None,
        slot: SlotId::new("home").unwrap(),
        count: 1,
        session: None,
        context: Default::default(),
        exclude: Vec::new(),
        fields: Vec::new(),
        deadline_ms: 0,
    };
    let counted = Counted { session: "pop-a:1".into(), accepted: 1, duplicates: 0 };
    vec![
        ("Item", offered["items"][0].clone()),
        ("Answer", offered),
        ("Recommend", serde_json::to_value(wanted).unwrap()),
        ("Event", serde_json::to_value(Happened::default()).unwrap()),
        ("PurgeContent", serde_json::to_value(PurgeContent::default()).unwrap()),
        ("ContentPurged", serde_json::to_value(ContentPurged { index: 1, unheard: vec![] }).unwrap()),
        ("Counted", serde_json::to_value(counted).unwrap()),
        ("Done", segment::tests::done()),
        ("Note", segment::tests::done()["changed"][0].clone()),
    ]
}

#[tokio::test]
async fn who_has_the_document_hears_so() {
    let first = openapi(Method::GET, HeaderMap::new()).await;
    let tag = first.headers()[header::ETAG].clone();
    assert_eq!(first.status(), StatusCode::OK);
    assert_eq!(first.headers()[header::CACHE_CONTROL], "max-age=3600");
    let again = openapi(Method::GET, HeaderMap::from_iter([(header::IF_NONE_MATCH, tag.clone())])).await;
    assert_eq!((again.status(), &again.headers()[header::ETAG]), (StatusCode::NOT_MODIFIED, &tag));
}

#[test]
fn the_words_for_a_degraded_answer_and_for_reasons_are_described() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let words = |value: &Value| value["enum"].as_array().unwrap().clone();
    let degraded = [
        Degraded::Shed,
        Degraded::ModelTimeout,
        Degraded::ModelFailed,
        Degraded::NoModel,
        Degraded::NoBundle,
        Degraded::Stale,
        Degraded::Behind,
    ];
    let said: Vec<Value> = degraded.iter().map(|why| serde_json::to_value(why).unwrap()).collect();
    assert_eq!(words(&schemas["Answer"]["properties"]["degraded"]["items"]), said);
    let reasons = [Reason::Taste, Reason::Segment, Reason::Popular, Reason::New, Reason::Again];
    let said: Vec<Value> = reasons.iter().map(|why| serde_json::to_value(why).unwrap()).collect();
    assert_eq!(words(&schemas["Item"]["properties"]["reason"]), said);
}
