//! How long a response is fresh, and how old it is (RFC 9111, 4.2).

use std::time::{Duration, SystemTime};

use http::header::{AGE, CACHE_CONTROL, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, StatusCode};

use super::directives::{Directives, members, seconds};

/// Of the time since a response was last modified, for how much it is taken to be fresh (RFC 9111, 4.2.2).
const HEURISTIC_SHARE: u32 = 10;
/// Longest that is guessed.
const HEURISTIC_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// When a response was asked for and came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// When the request was sent.
    pub asked: SystemTime,
    /// When the response's head came.
    pub came: SystemTime,
}

/// What a response says about its storage: to caches such as this one, where it does, else to all.
pub fn directives(response: &HeaderMap) -> Directives {
    Directives::targeted(response).unwrap_or_else(|| Directives::of(response, &CACHE_CONTROL))
}

/// Where the response says how long it is fresh: that.
pub fn explicit_lifetime(response: &HeaderMap, said: &Directives) -> Option<Duration> {
    let lifetime = said.s_maxage.or(said.max_age);
    if lifetime.is_some() || said.targeted || !response.contains_key(EXPIRES) {
        return lifetime;
    }
    // A moment that cannot be read has passed (RFC 9111, 5.3).
    let expires = moment(response, &EXPIRES).unwrap_or(SystemTime::UNIX_EPOCH);
    let from = moment(response, &DATE)?;
    Some(expires.duration_since(from).unwrap_or_default())
}

/// How long a response is fresh, counted from when its origin made it. `None`: it says nothing, and nothing lets it be guessed.
pub fn lifetime(
    status: StatusCode,
    response: &HeaderMap,
    said: &Directives,
    came: SystemTime,
) -> Option<Duration> {
    if let Some(lifetime) = explicit_lifetime(response, said) {
        return Some(lifetime);
    }
    if let Some(expires) =
        (response.contains_key(EXPIRES) && !said.targeted).then(|| moment(response, &EXPIRES))
    {
        return Some(expires.and_then(|expires| expires.duration_since(came).ok()).unwrap_or_default());
    }
    if !(said.public || may_be_guessed(status)) {
        return None;
    }
    let made = moment(response, &DATE).unwrap_or(came);
    let unchanged = made.duration_since(moment(response, &LAST_MODIFIED)?).ok()?;
    Some((unchanged / HEURISTIC_SHARE).min(HEURISTIC_MAX))
}

/// Statuses that are heuristically cacheable (RFC 9110, 15.1), but 206, which is not stored.
pub fn may_be_guessed(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// How old a response is `now` (RFC 9111, 4.2.3).
pub fn age(response: &HeaderMap, exchange: Exchange, now: SystemTime) -> Duration {
    let since = |later: SystemTime, earlier: SystemTime| later.duration_since(earlier).unwrap_or_default();
    let apparent = moment(response, &DATE).map_or(Duration::ZERO, |made| since(exchange.came, made));
    let corrected = age_value(response) + since(exchange.came, exchange.asked);
    apparent.max(corrected) + since(now, exchange.came)
}

/// Of several values the first counts, and none that cannot be read (RFC 9111, 5.1). What stands behind its digits, `7200.0`, is left out:
/// to take such a response for new would be the larger mistake.
fn age_value(response: &HeaderMap) -> Duration {
    let text = response.get(AGE).and_then(|value| value.to_str().ok());
    let first = text.and_then(|text| members(text).next()).unwrap_or_default();
    let digits = first.bytes().take_while(u8::is_ascii_digit).count();
    seconds(&first[..digits]).unwrap_or_default()
}

/// A moment in any of the three forms (RFC 9110, 5.6.7).
pub fn moment(headers: &HeaderMap, field: &HeaderName) -> Option<SystemTime> {
    headers.get(field)?.to_str().ok().and_then(|text| httpdate::parse_http_date(text.trim()).ok())
}
