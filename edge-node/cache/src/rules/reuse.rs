//! Whether a stored response may answer a request (RFC 9111, 4; RFC 5861).

use std::time::{Duration, SystemTime};

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, StatusCode};

use super::directives::Directives;
use super::freshness::{self, Exchange};

/// What is known of a stored response: all that does not depend on who asks, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    said: Directives,
    /// None: nothing is said, and nothing can be guessed.
    lifetime: Option<Duration>,
    /// How old it was when it came.
    age: Duration,
    came: SystemTime,
    /// It says that there is nothing.
    negative: bool,
}

impl Terms {
    /// Of a response.
    pub fn of(status: StatusCode, headers: &HeaderMap, exchange: Exchange) -> Self {
        let said = freshness::directives(headers);
        let lifetime = freshness::lifetime(status, headers, &said, exchange.came);
        let age = freshness::age(headers, exchange, exchange.came);
        let negative = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
        Self { said, lifetime, age, came: exchange.came, negative }
    }
}

/// What may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It is the answer.
    Fresh,
    /// The client takes it though it is stale.
    Stale,
    /// It is the answer while the origin is asked.
    WhileRevalidating,
    /// The origin is asked first.
    Revalidate,
}

/// A stored response in view of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// What may be done.
    pub reuse: Reuse,
    /// How old it is.
    pub age: Duration,
    /// For how long it is still fresh, in seconds; less than 0: since when it is not.
    pub ttl_s: i64,
    /// Whether it may be the answer if the origin gives an error.
    pub if_error: bool,
    /// Whether it may be the answer if the origin cannot be reached.
    pub if_gone: bool,
    /// The request, not the response's age, asks the origin.
    pub asked: bool,
}

/// What counts where nobody says.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// For how long after its end a response may be served though the origin is gone.
    pub offline: Duration,
    /// For how long it is kept that there is nothing.
    pub negative: Duration,
}

/// Judges.
pub fn judge(request: &HeaderMap, terms: &Terms, now: SystemTime, habits: Habits) -> Judged {
    let Terms { said, .. } = terms;
    let asked = asked(request);
    let age = terms.age + now.duration_since(terms.came).unwrap_or_default();
    let lifetime = match terms.lifetime {
        _ if said.no_cache => Duration::ZERO,
        Some(lifetime) => lifetime,
        None if terms.negative => habits.negative,
        None => Duration::ZERO,
    };
    let (left, stale_for) = (lifetime.saturating_sub(age), age.saturating_sub(lifetime));
    // What must be validated once it is stale is not served stale, whoever would take it (RFC 9111, 4.2.4).
    let strict = said.must_revalidate || said.proxy_revalidate || said.s_maxage.is_some() || said.no_cache;
    let wants_newer = asked.no_cache
        || asked.max_age.is_some_and(|max| age > max && asked.max_stale.is_none())
        || asked.min_fresh.is_some_and(|min| left < min);
    let within = |window: Option<Duration>| window.is_some_and(|window| stale_for <= window);
    let fresh = age < lifetime;
    let reuse = match () {
        () if wants_newer => Reuse::Revalidate,
        () if fresh => Reuse::Fresh,
        () if !strict && within(asked.max_stale) => Reuse::Stale,
        () if !said.no_cache && !said.must_revalidate && within(said.stale_while_revalidate) => {
            Reuse::WhileRevalidating
        }
        () => Reuse::Revalidate,
    };
    // RFC 5861, 4: an origin that allows it says so beside s-maxage, too.
    let allowed = said.stale_if_error.or(asked.stale_if_error);
    let if_error = fresh || (!said.no_cache && !said.must_revalidate && within(allowed));
    let if_gone = if_error || (!strict && allowed.is_none() && stale_for <= habits.offline);
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let ttl_s = if fresh { seconds(left) } else { -seconds(stale_for) };
    Judged { reuse, age, ttl_s, if_error, if_gone, asked: wants_newer }
}

/// What the request says about storage (RFC 9111, 5.2.1 and 5.4).
pub fn asked(request: &HeaderMap) -> Directives {
    let mut asked = Directives::of(request, &CACHE_CONTROL);
    if !asked.any {
        let pragma = request.get(PRAGMA).and_then(|value| value.to_str().ok());
        asked.no_cache = pragma.is_some_and(|text| text.to_ascii_lowercase().contains("no-cache"));
    }
    asked
}
