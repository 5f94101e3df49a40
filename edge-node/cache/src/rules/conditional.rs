//! What a client has already, and which part it wants, of a response that is at hand in full (RFC 9110, 13 and 14).

use std::ops::Range;

use http::header::{DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderMap, Method, StatusCode};

use super::directives::members;
use super::freshness::moment;
use super::validate::opaque;

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    All,
    /// These bytes of it: 206.
    Some(Range<u64>),
    /// Nothing, for the client has it: 304.
    NotModified,
    /// Nothing, for there are no such bytes: 416.
    Unsatisfiable,
}

/// Decides, for a response of this status, header and length.
pub fn part(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    stored: &HeaderMap,
    len: Option<u64>,
) -> Part {
    if status != StatusCode::OK || !matches!(*method, Method::GET | Method::HEAD) {
        return Part::All;
    }
    if has_it(request, stored) {
        return Part::NotModified;
    }
    match (len, *method == Method::GET) {
        (Some(len), true) if range_holds(request, stored) => wanted(request, len),
        _ => Part::All,
    }
}

/// RFC 9110, 13.2.2: a date counts only where there is no tag.
fn has_it(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        let ours = stored.get(ETAG).map(|tag| opaque(tag.as_bytes()));
        let lines = request.get_all(IF_NONE_MATCH).iter();
        let mut theirs = lines.filter_map(|line| std::str::from_utf8(line.as_bytes()).ok()).flat_map(members);
        return theirs.any(|tag| tag == "*" || ours == Some(opaque(tag.as_bytes())));
    }
    if !request.contains_key(IF_MODIFIED_SINCE) {
        return false;
    }
    let since = moment(request, &IF_MODIFIED_SINCE);
    // RFC 9111, 4.3.2: what does not say when it was changed was not changed since it was made.
    let changed = moment(stored, &LAST_MODIFIED).or_else(|| moment(stored, &DATE));
    matches!((since, changed), (Some(since), Some(changed)) if changed <= since)
}

/// RFC 9110, 13.1.5: a part is of use only to who has the rest of just this response.
fn range_holds(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(condition) = request.get(IF_RANGE) else { return true };
    if condition.as_bytes().starts_with(b"\"") {
        return stored.get(ETAG) == Some(condition);
    }
    let dates = (moment(request, &IF_RANGE), moment(stored, &LAST_MODIFIED));
    matches!(dates, (Some(theirs), Some(ours)) if theirs == ours)
}

/// One range of bytes (RFC 9110, 14.1.2). Of several, or of what is no range, nothing is said: all is sent.
fn wanted(request: &HeaderMap, len: u64) -> Part {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Part::All };
    let text = line.to_str().unwrap_or_default().trim();
    let Some((unit, spec)) = text.split_once('=') else { return Part::All };
    let Some((first, last)) = spec.trim().split_once('-') else { return Part::All };
    if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return Part::All;
    }
    let number = |text: &str| {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // What is beyond counting is beyond the end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first), number(last), first.trim().is_empty(), last.trim().is_empty()) {
        (Some(first), Some(last), ..) if first > last => Part::All,
        (Some(first), ..) if first >= len && (number(last).is_some() || last.trim().is_empty()) => {
            Part::Unsatisfiable
        }
        (Some(first), Some(last), ..) => Part::Some(first..last.saturating_add(1).min(len)),
        (Some(first), None, _, true) => Part::Some(first..len),
        (None, Some(0), true, _) => Part::Unsatisfiable,
        (None, Some(_), true, _) if len == 0 => Part::Unsatisfiable,
        (None, Some(suffix), true, _) => Part::Some(len.saturating_sub(suffix)..len),
        _ => Part::All,
    }
}
