//! Whether a stored response was made for such a request (RFC 9111, 4.1).

use http::header::VARY;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::directives::members;

/// The request's fields that a response depends on, as they were: what a later request must have, too.
pub type Selecting = Vec<(HeaderName, Option<Vec<u8>>)>;

/// `Vary: *`, or a `Vary` that cannot be read: whatever it meant, no other request is known to be alike.
pub fn fits_nothing(response: &HeaderMap) -> bool {
    let unreadable = |line: &HeaderValue| std::str::from_utf8(line.as_bytes()).is_err();
    response.get_all(VARY).iter().any(unreadable)
        || nominated(response).any(|name| name == "*" || HeaderName::from_bytes(name.as_bytes()).is_err())
}

/// What of this request decides which response it gets.
pub fn selecting(request: &HeaderMap, response: &HeaderMap) -> Selecting {
    let mut names: Vec<HeaderName> =
        nominated(response).filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect();
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    names.into_iter().map(|name| (name.clone(), normal(request, &name))).collect()
}

/// Whether a request has the same.
pub fn fits(request: &HeaderMap, selecting: &Selecting) -> bool {
    selecting.iter().all(|(name, value)| normal(request, name) == *value)
}

fn nominated(response: &HeaderMap) -> impl Iterator<Item = &str> {
    let text = |line: &HeaderValue| std::str::from_utf8(line.as_bytes()).is_ok();
    let lines = response.get_all(VARY).iter().filter(move |line| text(line));
    lines.flat_map(|line| members(std::str::from_utf8(line.as_bytes()).unwrap_or_default()))
}

/// A field's lines as one list without the white space that means nothing.
fn normal(request: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut lines = request.get_all(name).iter().peekable();
    lines.peek()?;
    let mut value = Vec::new();
    for line in lines {
        for member in line.as_bytes().split(|byte| *byte == b',') {
            if !value.is_empty() {
                value.push(b',');
            }
            value.extend_from_slice(member.trim_ascii());
        }
    }
    Some(value)
}
