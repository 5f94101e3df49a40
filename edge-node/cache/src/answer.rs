//! Answers: what is sent of a response, with its age, and what the cache did (Cache-Status, RFC 9211).

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::body::CacheBody;
use crate::entry::Entry;
use crate::flow::Reader;
use crate::metrics::HIT;
use crate::rules::conditional::{Part, part};
use crate::rules::reuse::Judged;

/// RFC 9211.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// Our name in it.
const NAME: &str = "Rockpool";

/// Why a request went to the origin (RFC 9211, 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// Nothing is stored of the resource.
    UriMiss,
    /// Nothing that was made for such a request.
    VaryMiss,
    /// What is stored was stale.
    Stale,
    /// The request wants what is newer.
    Request,
    /// The method is none that is answered from here.
    Method,
    /// It is not looked up: it was not for others the last time.
    Bypass,
}

impl Forwarded {
    fn as_str(self) -> &'static str {
        match self {
            Forwarded::UriMiss => "uri-miss",
            Forwarded::VaryMiss => "vary-miss",
            Forwarded::Stale => "stale",
            Forwarded::Request => "request",
            Forwarded::Method => "method",
            Forwarded::Bypass => "bypass",
        }
    }
}

/// What the cache did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Did {
    /// Answered from what is stored.
    Hit {
        /// How long it is still fresh, in seconds; below 0: since when it is not.
        ttl_s: i64,
        /// Why it did though it is stale, if it is.
        detail: Option<&'static str>,
    },
    /// Asked the origin.
    Forwarded {
        /// Why.
        why: Forwarded,
        /// What it said.
        status: Option<StatusCode>,
        /// Whether that is stored.
        stored: bool,
        /// Whether it was asked for another request, too.
        collapsed: bool,
        /// Anything else.
        detail: Option<&'static str>,
    },
}

impl Did {
    /// For metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Did::Hit { detail: None, .. } => HIT,
            Did::Hit { .. } => "stale",
            Did::Forwarded { why: Forwarded::Method | Forwarded::Bypass, .. } => "pass",
            Did::Forwarded { .. } => "miss",
        }
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        match self {
            Did::Hit { ttl_s, detail } => {
                write!(f, "; hit; ttl={ttl_s}")?;
                detail.map_or(Ok(()), |detail| write!(f, "; detail={detail}"))
            }
            Did::Forwarded { why, status, stored, collapsed, detail } => {
                write!(f, "; fwd={}", why.as_str())?;
                if let Some(status) = status {
                    write!(f, "; fwd-status={}", status.as_u16())?;
                }
                f.write_str(if *stored { "; stored" } else { "" })?;
                f.write_str(if *collapsed { "; collapsed" } else { "" })?;
                detail.map_or(Ok(()), |detail| write!(f, "; detail={detail}"))
            }
        }
    }
}

/// Adds what the cache did to what caches before it say.
pub fn sign(headers: &mut HeaderMap, did: Did) {
    if let Ok(value) = HeaderValue::try_from(did.to_string()) {
        headers.append(CACHE_STATUS, value);
    }
}

/// What a client gets of a response: its status, its length where that is known, and which part of the body.
pub struct Cut {
    /// The status.
    pub status: StatusCode,
    /// Which bytes; none: not one.
    pub range: Option<Range<u64>>,
}

/// Cuts what the client asked for out of a response of `len` bytes, and changes its header accordingly.
pub fn cut(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    headers: &mut HeaderMap,
    len: Option<u64>,
) -> Cut {
    let whole = 0..len.unwrap_or(u64::MAX);
    match part(method, request, status, headers, len) {
        Part::All if *method == Method::HEAD => Cut { status, range: None },
        Part::All => Cut { status, range: Some(whole) },
        Part::NotModified => {
            headers.remove(CONTENT_LENGTH);
            Cut { status: StatusCode::NOT_MODIFIED, range: None }
        }
        Part::Some(range) => {
            let len = len.map_or_else(|| "*".to_owned(), |len| len.to_string());
            let said = format!("bytes {}-{}/{len}", range.start, range.end.saturating_sub(1));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
            say_range(headers, &said);
            Cut { status: StatusCode::PARTIAL_CONTENT, range: Some(range) }
        }
        Part::Unsatisfiable => {
            let said = format!("bytes */{}", whole.end);
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            say_range(headers, &said);
            Cut { status: StatusCode::RANGE_NOT_SATISFIABLE, range: None }
        }
    }
}

/// In the place of what an origin may have written beside 200.
fn say_range(headers: &mut HeaderMap, said: &str) {
    headers.remove(CONTENT_RANGE);
    headers.extend(HeaderValue::try_from(said).ok().map(|said| (CONTENT_RANGE, said)));
}

fn finish(status: StatusCode, mut headers: HeaderMap, did: Did, body: CacheBody) -> Response<CacheBody> {
    sign(&mut headers, did);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Answers with what is stored.
pub fn stored(
    method: &Method,
    request: &HeaderMap,
    entry: &Entry,
    judged: &Judged,
    did: Did,
) -> Response<CacheBody> {
    let mut headers = entry.headers.clone();
    headers.insert(AGE, HeaderValue::from(judged.age.as_secs()));
    let len = entry.body.len();
    let cut = cut(method, request, entry.status, &mut headers, Some(len as u64));
    let body = cut.range.map_or_else(Bytes::new, |range| {
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(len);
        entry.body.slice(place(range.start)..place(range.end))
    });
    finish(cut.status, headers, did, CacheBody::Whole(Some(body).filter(|body| !body.is_empty())))
}

/// Answers with what is on its way.
pub fn coming(
    method: &Method,
    request: &HeaderMap,
    head: &Entry,
    reader: Reader,
    did: Did,
) -> Response<CacheBody> {
    let mut headers = head.headers.clone();
    let len = content_length(&headers);
    let cut = cut(method, request, head.status, &mut headers, len);
    let body = match (cut.range, len) {
        (None, _) => CacheBody::empty(),
        (Some(range), Some(_)) => CacheBody::coming(reader, range.start, Some(range.end - range.start)),
        (Some(_), None) => CacheBody::coming(reader, 0, None),
    };
    finish(cut.status, headers, did, body)
}

/// Passes on what is not stored.
pub fn passed(status: StatusCode, headers: HeaderMap, body: CacheBody, did: Did) -> Response<CacheBody> {
    finish(status, headers, did, body)
}

/// The length that a header says.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
