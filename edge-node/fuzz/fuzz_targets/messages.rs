//! Any text as the JSON of the doors, the first letter saying which: what is understood is within the limits, and is the same when it
//! is stored or said again.

#![no_main]

use edge_node::gateway::http::fuzzing;
use http::{HeaderMap, HeaderValue, Method, header};
use libfuzzer_sys::fuzz_target;
use proto::codec;
use proto::event::check_attributes;
use proto::limits::ATTRIBUTES_MAX;
use proto::{Event, EventKind};
use serde_json::Value;

const NOW_MS: u64 = 1_800_000_000_000;

fuzz_target!(|bytes: &[u8]| {
    let Some((door, body)) = bytes.split_first() else { return };
    match door {
        b'r' => recommend(body),
        b'e' => events(body),
        b'i' => segment("/v1/identify", body),
        b't' => segment("/v1/track", body),
        b'p' => segment("/v1/page", body),
        b'g' => segment("/v1/group", body),
        b'a' => segment("/v1/alias", body),
        b'b' => segment("", body),
        b'w' => webtransport(body),
        _ => flat(body),
    }
});

fn recommend(body: &[u8]) {
    let Ok(asked) = fuzzing::recommend(body) else { return };
    if let Some(token) = asked.token {
        assert_eq!(fuzzing::token(&fuzzing::token_text(&token)).as_ref(), Ok(&token));
    }
}

fn events(body: &[u8]) {
    let Ok(events) = fuzzing::events(body, NOW_MS) else { return };
    events.iter().filter(|event| event.check(NOW_MS).is_ok()).for_each(stored);
}

fn segment(path: &str, body: &[u8]) {
    let (text, _) = fuzzing::mended(body);
    if serde_json::from_slice::<Value>(body).is_ok() {
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "what is sound stays so");
    }
    assert_eq!(fuzzing::mended(text.as_bytes()).1, 0, "once is enough");
    let Ok(read) = fuzzing::segment(path, body, NOW_MS) else { return };
    let (events, _, skipped) = &read;
    assert!(!events.is_empty() || path.is_empty() || *skipped > 0, "what is not kept is said");
    told(events);
    assert_eq!(fuzzing::segment(path, body, NOW_MS).as_ref(), Ok(&read), "nothing else is looked at");
}

fn told(events: &[Event]) {
    for event in events {
        event.check(NOW_MS).expect("nobody else checks it");
        assert!(event.at_ms <= NOW_MS, "what has come has happened");
        stored(event);
    }
}

fn stored(event: &Event) {
    assert_eq!(codec::decode::<Event>(&codec::encode(event)).as_ref(), Ok(event));
    if let EventKind::Custom { attributes, .. } = &event.kind {
        assert!(attributes.len() <= ATTRIBUTES_MAX);
    }
}

fn webtransport(asked: &[u8]) {
    let key = HeaderValue::from_static("Bearer key");
    let ours = HeaderMap::from_iter([(header::AUTHORIZATION, key.clone())]);
    let Ok(request) = fuzzing::webtransport(asked, ours) else { return };
    assert_eq!(request.method(), Method::POST);
    assert!(request.headers().len() <= 2 && request.headers()[header::AUTHORIZATION] == key);
}

fn flat(body: &[u8]) {
    let Ok(Value::Object(object)) = serde_json::from_slice(body) else { return };
    check_attributes(&fuzzing::flat(&object).0).expect("what does not fit is left out");
}
