//! Any request and any response: what the rules of the content cache say of them never contradicts itself. The first two bytes say
//! what is no field; then come the request's, an empty line, the response's.

#![no_main]

use std::time::{Duration, SystemTime};

use edge_cache::cut;
use edge_cache::key::{TAGS_LEN_MAX, tags};
use edge_cache::rules::conditional::{Part, part};
use edge_cache::rules::directives::{Directives, members};
use edge_cache::rules::freshness::{self, Exchange};
use edge_cache::rules::reuse::{Habits, Reuse, Terms, asked, judge};
use edge_cache::rules::store::may_store;
use edge_cache::rules::settle::{Settled, Stored, settle};
use edge_cache::rules::{forward, framing, hops, validate, vary};
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, ETAG, EXPIRES, IF_NONE_MATCH, RANGE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HABITS: Habits = Habits { offline: DAY, negative: Duration::from_secs(10) };
const LENGTHS: [Option<u64>; 6] = [None, Some(0), Some(1), Some(1_000), Some(u64::MAX - 1), Some(u64::MAX)];
const STATUSES: [u16; 5] = [200, 404, 206, 304, 500];

fuzz_target!(|bytes: &[u8]| {
    let [how, which, fields @ ..] = bytes else { return };
    let (request, response) = messages(fields);
    let method = if how & 1 == 0 { Method::GET } else { Method::HEAD };
    let status = StatusCode::from_u16(STATUSES[usize::from(how >> 1) % STATUSES.len()]).expect("they are");
    said(&request, &CACHE_CONTROL);
    said(&response, &CACHE_CONTROL);
    fresh(&request, &response, status, *which);
    stored(&method, &request, &response, status);
    varied(&request, &response);
    validated(&request, &response);
    settled(&request, &response, status);
    forwarded(&request, how & 1 == 0);
    framed(&method, status, response.clone(), LENGTHS[usize::from(*which) % LENGTHS.len()]);
    sent(&method, &request, &response, status, LENGTHS[usize::from(*which) % LENGTHS.len()]);
    passed_on(response);
});

fn messages(fields: &[u8]) -> (HeaderMap, HeaderMap) {
    let (mut request, mut response) = (HeaderMap::new(), HeaderMap::new());
    let mut of = &mut request;
    for line in fields.split(|byte| *byte == b'\n') {
        if line.is_empty() {
            of = &mut response;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            of.append(name, value);
        }
    }
    (request, response)
}

/// Letters may be large or small; and a member of a list is a list of one.
fn said(headers: &HeaderMap, field: &HeaderName) {
    let mut large = HeaderMap::new();
    for line in headers.get_all(field) {
        let line = line.as_bytes().to_ascii_uppercase();
        large.append(field, HeaderValue::try_from(line).expect("as before"));
    }
    assert_eq!(Directives::of(headers, field), Directives::of(&large, field));
    for line in headers.values().filter_map(|line| line.to_str().ok()) {
        for member in members(line) {
            assert_eq!(members(member).collect::<Vec<_>>(), [member]);
        }
    }
}

fn fresh(request: &HeaderMap, response: &HeaderMap, status: StatusCode, which: u8) {
    let came = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let waited = Duration::from_secs(u64::from(which));
    let (exchange, now) = (Exchange { asked: came - waited, came }, came + waited);
    let said = freshness::directives(response);
    let age = freshness::age(response, exchange, now);
    assert!(age >= waited + waited);
    let lifetime = freshness::lifetime(status, response, &said, came);
    if freshness::explicit_lifetime(response, &said).is_none()
        && (said.targeted || !response.contains_key(EXPIRES))
    {
        assert!(lifetime.is_none_or(|guessed| guessed <= DAY));
    }
    let judged = judge(request, &Terms::of(status, response, exchange), now, HABITS);
    assert_eq!(judged.age, age);
    let strict = said.no_cache || said.must_revalidate;
    match judged.reuse {
        Reuse::Fresh => {
            assert!(judged.ttl_s >= 0 && judged.if_error && !said.no_cache && !asked(request).no_cache)
        }
        Reuse::Stale | Reuse::WhileRevalidating => assert!(judged.ttl_s <= 0 && !strict),
        Reuse::Revalidate => {}
    }
    assert!(judged.if_gone || !judged.if_error);
    if let Some(targeted) = Directives::targeted(response) {
        assert!(targeted.targeted && targeted.any && targeted == said);
    }
}

fn stored(method: &Method, request: &HeaderMap, response: &HeaderMap, status: StatusCode) {
    let said = freshness::directives(response);
    if may_store(method, request, status, response).is_ok() {
        assert!(!said.private && (!said.no_store || said.must_understand));
        assert!(*method == Method::GET && !vary::fits_nothing(response));
    }
    if let Some(tags) = tags(response) {
        assert!(tags.len() <= TAGS_LEN_MAX && tags.is_sorted());
    }
}

/// What a response depends on is known, and the request that it was made for is one of those that it fits.
fn varied(request: &HeaderMap, response: &HeaderMap) {
    let selecting = vary::selecting(request, response);
    assert!(vary::fits(request, &selecting));
    if !selecting.is_empty() && selecting.iter().any(|(_, value)| value.is_some()) {
        assert!(!vary::fits(&HeaderMap::new(), &selecting));
    }
}

fn validated(request: &HeaderMap, response: &HeaderMap) {
    assert!(validate::is_about(response, response));
    let mut same = response.clone();
    validate::refresh(&mut same, response);
    assert_eq!(&same, response);
    validate::refresh(&mut same, request);
    assert_eq!(same.get(CONTENT_LENGTH), response.get(CONTENT_LENGTH));
    let mut asks = request.clone();
    let named = validate::ask_if_changed(&mut asks, response);
    assert!(!asks.contains_key(RANGE) && (named || !asks.contains_key(IF_NONE_MATCH)));
}

/// A part is inside the length, and nobody gets a part, or nothing, who did not ask for it.
fn sent(method: &Method, request: &HeaderMap, response: &HeaderMap, status: StatusCode, len: Option<u64>) {
    let plain = status == StatusCode::OK;
    let mut headers = response.clone();
    let cut = cut(method, request, status, &mut headers, len);
    match part(method, request, status, response, len) {
        Part::All => assert_eq!(headers, *response),
        Part::Some(range) => {
            assert!(range.start < range.end && len.is_some_and(|len| range.end <= len));
            assert!(plain && *method == Method::GET && request.contains_key(RANGE));
            let said = format!("{}", range.end - range.start);
            assert!(headers[CONTENT_LENGTH] == said && cut.range == Some(range));
        }
        Part::NotModified => assert!(plain && cut.range.is_none() && !headers.contains_key(CONTENT_LENGTH)),
        Part::Unsatisfiable => {
            assert!(plain && *method == Method::GET && request.contains_key(RANGE) && cut.range.is_none());
        }
    }
    // Who has just this is told so.
    let Some(tag) = response.get(ETAG).filter(|_| plain) else { return };
    let quoted = tag.as_bytes().strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\""));
    if quoted.is_some_and(|tag| tag.iter().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(byte))) {
        let has = HeaderMap::from_iter([(IF_NONE_MATCH, tag.clone())]);
        assert_eq!(part(method, &has, status, response, len), Part::NotModified);
    }
}

/// What a 304 confirms is stored only if the same response might be stored as a new one.
fn settled(request: &HeaderMap, response: &HeaderMap, status: StatusCode) {
    let stored = response.clone();
    let selecting = vary::selecting(request, &stored);
    let about = Stored { status, headers: &stored, selecting: &selecting };
    let Settled::Confirmed { headers, stored, .. } =
        settle(request, Some(about), StatusCode::NOT_MODIFIED, request)
    else {
        return;
    };
    if stored.is_ok() {
        assert_eq!(may_store(&Method::GET, request, status, &headers), Ok(()));
    }
}

/// No length, and no name that a server may read as another.
fn forwarded(request: &HeaderMap, with_body: bool) {
    let sent = forward::request(request, None, with_body);
    for name in sent.keys() {
        assert!(name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    }
    assert!(!sent.contains_key(CONTENT_LENGTH) && !sent.contains_key(TRANSFER_ENCODING));
    assert_eq!(forward::request(&sent, None, with_body), sent);
}

fn framed(method: &Method, status: StatusCode, mut headers: HeaderMap, len: Option<u64>) {
    if framing::settle(method, status, &mut headers, len).is_ok() {
        assert!(headers.get_all(CONTENT_LENGTH).iter().count() <= 1);
    }
}

fn passed_on(mut headers: HeaderMap) {
    hops::remove(&mut headers);
    assert!(!headers.contains_key(CONNECTION) && !headers.contains_key(TRANSFER_ENCODING));
    let once = headers.clone();
    hops::remove(&mut headers);
    assert_eq!(headers, once);
}
