//! What a request says: path, query, JSON body, its id.

use std::time::SystemTime;

use axum::extract::{FromRequest, FromRequestParts};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::Refusal;

/// The header of a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that a caller may choose, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// A JSON body.
#[derive(Debug, FromRequest)]
#[from_request(via(axum::Json), rejection(Refusal))]
pub struct Body<T>(pub T);

/// A query string.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Refusal))]
pub struct Query<T>(pub T);

/// Parts of the path.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Refusal))]
pub struct Path<T>(pub T);

/// The caller's id, if it is a sound one; else a new one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sound = |id: &&HeaderValue| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(sound).cloned().unwrap_or_else(|| {
        // Unique, and no secret: no system call is worth it.
        let (since, noise) =
            (SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(), fastrand::u128(..).to_be_bytes());
        let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let noise = noise.first_chunk().copied().unwrap_or_default();
        let id = uuid::Builder::from_unix_timestamp_millis(ms, &noise).into_uuid().to_string();
        HeaderValue::from_str(&id).expect("a UUID's text is ASCII")
    })
}

/// A caller can invent methods, and each would be a metric of its own.
pub fn known_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_request_id_is_kept_and_another_replaced() {
        let with = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            request_id(&headers)
        };
        assert_eq!(with(b"abc-1"), "abc-1");
        for wrong in [&b""[..], b"a b", &[b'x'; REQUEST_ID_BYTES_MAX + 1]] {
            assert_eq!(with(wrong).len(), 36, "{wrong:?}");
        }
    }

    #[test]
    fn invented_methods_share_a_metric() {
        assert_eq!(known_method(&Method::from_bytes(b"BREW").unwrap()), "other");
        assert_eq!(known_method(&Method::GET), "GET");
    }
}
