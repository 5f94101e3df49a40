//! Whether a stored response was made for such a request (RFC 9111, 4.1).

use http::header::{ACCEPT_LANGUAGE, CONTENT_LANGUAGE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::directives::members;

/// Most languages of a request that are put in order.
const LANGUAGES_LEN_MAX: usize = 32;

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

/// Whether a response that was made for another list of languages is in just the one that this request likes best.
pub fn fits_by_language(request: &HeaderMap, selecting: &Selecting, response: &HeaderMap) -> bool {
    let (languages, others): (Vec<_>, Vec<_>) =
        selecting.iter().partition(|(name, _)| *name == ACCEPT_LANGUAGE);
    let fits = others.iter().all(|(name, value)| normal(request, name) == *value);
    if languages.is_empty() || !fits {
        return false;
    }
    let mut is_in = response.get_all(CONTENT_LANGUAGE).iter().filter_map(|line| line.to_str().ok());
    let (Some(is_in), None) = (is_in.next(), is_in.next()) else { return false };
    let likes = languages_of(request).unwrap_or_default();
    let best = match likes.as_slice() {
        [(best, tag), (second, _), ..] if best > second => tag,
        [(_, tag)] => tag,
        _ => return false,
    };
    best != "*" && is_in.trim().eq_ignore_ascii_case(best)
}

/// The languages that a request likes, best first, in thousandths; those that it likes alike by name, since their order means nothing (RFC
/// 9110, 12.5.4). `None`: it says none, too many, or what cannot be read.
fn languages_of(request: &HeaderMap) -> Option<Vec<(u16, String)>> {
    let mut likes = Vec::new();
    for line in request.get_all(ACCEPT_LANGUAGE) {
        for member in members(line.to_str().ok()?) {
            let (tag, weight) = member.split_once(';').unwrap_or((member, "q=1"));
            let weight = weight.trim().strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('=')?.trim();
            let weight: f32 = weight.parse().ok().filter(|weight| (0.0..=1.0).contains(weight))?;
            likes.push(((weight * 1_000.0).round() as u16, tag.trim().to_ascii_lowercase()));
        }
    }
    likes.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    likes.dedup();
    Some(likes).filter(|likes| (1..=LANGUAGES_LEN_MAX).contains(&likes.len()))
}

fn nominated(response: &HeaderMap) -> impl Iterator<Item = &str> {
    let text = |line: &HeaderValue| std::str::from_utf8(line.as_bytes()).is_ok();
    let lines = response.get_all(VARY).iter().filter(move |line| text(line));
    lines.flat_map(|line| members(std::str::from_utf8(line.as_bytes()).unwrap_or_default()))
}

/// A field's lines as one list without the white space that means nothing.
fn normal(request: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    if *name == ACCEPT_LANGUAGE
        && let Some(likes) = languages_of(request)
    {
        let likes = likes.iter().map(|(weight, tag)| format!("{tag};q={weight}"));
        return Some(likes.collect::<Vec<_>>().join(",").into_bytes());
    }
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
