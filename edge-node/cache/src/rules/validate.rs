//! Asking the origin whether a stored response still holds, and what its answer changes (RFC 9111, 4.3).

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What gets one client another answer than the others: preconditions, parts, differences (RFC 3229, 10.5.3). They are answered here
/// (RFC 9111, 4.3.2), or by the origin to who asked alone ([`is_for_origin`]): a fetch that others may share has none of them.
const OF_CLIENTS: [HeaderName; 7] = [
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    IF_MATCH,
    IF_UNMODIFIED_SINCE,
    IF_RANGE,
    RANGE,
    HeaderName::from_static("a-im"),
];
/// What is stored depends on these, so they stay as they were (RFC 9111, 3.2): the digests, too, since the content is the same.
const OF_CONTENT: [HeaderName; 6] = [
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Whether only the origin can say if a request's preconditions hold (RFC 9110, 13.1.1 and 13.1.4; RFC 9111, 4.3.2).
pub fn is_for_origin(request: &HeaderMap) -> bool {
    request.contains_key(IF_MATCH) || request.contains_key(IF_UNMODIFIED_SINCE)
}

/// Takes out what would get a part of the response, or none.
pub fn ask_for_all(request: &mut HeaderMap) {
    for name in OF_CLIENTS {
        request.remove(name);
    }
}

/// Asks for the response only if it is not the one that is stored. False: that one cannot be named.
pub fn ask_if_changed(request: &mut HeaderMap, stored: &HeaderMap) -> bool {
    ask_for_all(request);
    let validators = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
    for (validator, condition) in validators {
        if let Some(value) = stored.get(validator) {
            request.insert(condition, value.clone());
        }
    }
    stored.contains_key(ETAG) || stored.contains_key(LAST_MODIFIED)
}

/// Whether a 304 is about the stored response: it may name another (RFC 9111, 4.3.4).
pub fn is_about(not_modified: &HeaderMap, stored: &HeaderMap) -> bool {
    match (not_modified.get(ETAG), stored.get(ETAG)) {
        (Some(theirs), Some(ours)) => weakly_equal(theirs, ours),
        (Some(_), None) => false,
        (None, _) => match (not_modified.get(LAST_MODIFIED), stored.get(LAST_MODIFIED)) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => true,
        },
    }
}

/// Brings the stored header up to date. Of `not_modified` no field may be left that is for one connection only. A weak entity tag stays:
/// origins that compress on the way out weaken it in a 200 and not in a 304, which makes the stored bytes no others.
pub fn refresh(stored: &mut HeaderMap, not_modified: &HeaderMap) {
    let weak = stored.get(ETAG).is_some_and(|tag| tag.as_bytes().starts_with(b"W/"));
    let stays = |name: &HeaderName| OF_CONTENT.contains(name) || (weak && name == ETAG);
    for name in not_modified.keys().filter(|name| !stays(name)) {
        stored.remove(name);
        for value in not_modified.get_all(name) {
            stored.append(name, value.clone());
        }
    }
}

/// Weak comparison of entity tags (RFC 9110, 8.8.3.2).
pub fn weakly_equal(a: &HeaderValue, b: &HeaderValue) -> bool {
    opaque(a.as_bytes()) == opaque(b.as_bytes())
}

/// An entity tag without its mark of weakness.
pub fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}
