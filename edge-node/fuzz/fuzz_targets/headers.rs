//! Any text as what stands in a header or a member of its own, the first letter saying which: traceparent, app keys, moments, tokens.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_node::gateway::http::fuzzing::{at_ms, key_of, token, token_text, trace_id};
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;

/// One day beyond the year 9999: an offset may lead there.
const MOMENT_MAX_MS: u64 = 253_402_387_200_000;

fuzz_target!(|bytes: &[u8]| {
    let Some((what, bytes)) = bytes.split_first() else { return };
    if *what == b'k' {
        return key(bytes);
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    match what {
        b'b' => basic(text),
        b't' => trace(text),
        b'm' => assert!(at_ms(text).is_ok_and(|ms| ms < MOMENT_MAX_MS) || at_ms(text).is_err()),
        _ => {
            if let Ok(read) = token(text) {
                assert_eq!(token(&token_text(&read)), Ok(read));
            }
        }
    }
});

fn with(value: &[u8]) -> Option<String> {
    let value = HeaderValue::from_bytes(value).ok()?;
    key_of(&HeaderMap::from_iter([(header::AUTHORIZATION, value)]))
}

fn key(value: &[u8]) {
    let Some(key) = with(value) else { return };
    // As a session of WebTransport brings it to each of its requests.
    if key.bytes().all(|byte| byte.is_ascii_graphic()) {
        assert_eq!(with(format!("Bearer {key}").as_bytes()), Some(key));
    }
}

fn basic(user: &str) {
    let said = format!("Basic {}", STANDARD.encode(user));
    assert_eq!(with(said.as_bytes()).as_deref(), user.split(':').next());
}

fn trace(parent: &str) {
    let Some(id) = trace_id(parent) else { return };
    assert!(id.0 != 0 && parent[3..].starts_with(&id.to_string()));
    assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), Some(id));
}
