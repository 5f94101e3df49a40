//! Cache-Control (RFC 9111, 5.2), and what stands in its place for caches such as this one: CDN-Cache-Control (RFC 9213), and before
//! there was that, Surrogate-Control (W3C, Edge Architecture Specification, 2.1).

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

/// RFC 9213, 3.1.
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// Of the time before RFC 9213.
pub const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");
/// Our name as a target of its directives.
const TARGET: &str = "rockpool";
/// A delta-seconds value that is larger counts as this (RFC 9111, 1.2.2).
const SECONDS_MAX: u64 = 1 << 31;

/// What a message says about its storage. A directive that stands more than once counts by its first value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// Whether there was any.
    pub any: bool,
    /// Whether they are for caches such as this one: then nothing that is for all counts, `Expires` neither.
    pub targeted: bool,
    /// `max-age`; what cannot be read counts as 0.
    pub max_age: Option<Duration>,
    /// `s-maxage`.
    pub s_maxage: Option<Duration>,
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, of the whole response or of some fields: the whole is revalidated then, too.
    pub no_cache: bool,
    /// `private`, likewise.
    pub private: bool,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// `only-if-cached`, of a request.
    pub only_if_cached: bool,
    /// `min-fresh`, of a request.
    pub min_fresh: Option<Duration>,
    /// `max-stale`, of a request; without a value: however stale.
    pub max_stale: Option<Duration>,
    /// `stale-while-revalidate` (RFC 5861).
    pub stale_while_revalidate: Option<Duration>,
    /// `stale-if-error` (RFC 5861).
    pub stale_if_error: Option<Duration>,
}

impl Directives {
    /// Those of a field, however many lines it has.
    pub fn of(headers: &HeaderMap, field: &HeaderName) -> Self {
        let mut directives = Self::default();
        for line in headers.get_all(field) {
            // What is no text has no directive that we know.
            let text = line.as_bytes().iter().map(|byte| char::from(*byte)).collect::<String>();
            for member in members(&text) {
                directives.add(member);
            }
        }
        directives
    }

    /// Those for caches such as this one, where a response has some.
    pub fn targeted(response: &HeaderMap) -> Option<Self> {
        let said = Self::structured(response).or_else(|| Self::surrogate(response))?;
        Some(Self { targeted: true, ..said })
    }

    /// RFC 9213, 2.1: a field that is no Dictionary is ignored, and so is a directive whose value is of another type.
    fn structured(response: &HeaderMap) -> Option<Self> {
        let lines: Vec<&[u8]> =
            response.get_all(CDN_CACHE_CONTROL).iter().map(|line| line.as_bytes()).collect();
        let dictionary: Dictionary = Parser::new(&lines.join(&b","[..])).parse().ok()?;
        let mut directives = Self { any: !dictionary.is_empty(), ..Self::default() };
        for (name, entry) in &dictionary {
            let ListEntry::Item(item) = entry else { continue };
            match &item.bare_item {
                BareItem::Boolean(true) => directives.add(name.as_str()),
                BareItem::Integer(seconds) => directives.add(&format!("{name}={seconds}")),
                _ => {}
            }
        }
        Some(directives).filter(|directives| directives.any)
    }

    /// A directive may have a target, and is for nobody else then.
    fn surrogate(response: &HeaderMap) -> Option<Self> {
        let lines = response.get_all(SURROGATE_CONTROL).iter().filter_map(|line| line.to_str().ok());
        let mut directives = Self::default();
        for member in lines.flat_map(members) {
            let (member, target) = member.split_once(';').unwrap_or((member, TARGET));
            if target.trim().eq_ignore_ascii_case(TARGET) {
                directives.add(member);
            }
        }
        Some(directives).filter(|directives| directives.any)
    }

    fn add(&mut self, member: &str) {
        let (name, value) = match member.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (member, None),
        };
        let name = name.to_ascii_lowercase();
        self.any = true;
        let seconds = || Some(value.and_then(seconds).unwrap_or(Duration::ZERO));
        let first = |slot: &mut Option<Duration>| *slot = slot.take().or_else(seconds);
        match name.as_str() {
            "max-age" => first(&mut self.max_age),
            "s-maxage" => first(&mut self.s_maxage),
            "min-fresh" => first(&mut self.min_fresh),
            "stale-while-revalidate" => first(&mut self.stale_while_revalidate),
            "stale-if-error" => first(&mut self.stale_if_error),
            "max-stale" => {
                let allowed = value.map_or(Some(Duration::MAX), self::seconds);
                self.max_stale = self.max_stale.take().or(allowed);
            }
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "private" => self.private = true,
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "only-if-cached" => self.only_if_cached = true,
            _ => {}
        }
    }
}

/// delta-seconds (RFC 9111, 1.2.2), as a token or a quoted string.
pub fn seconds(value: &str) -> Option<Duration> {
    let digits = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Only too many digits fail.
    let seconds = digits.parse().unwrap_or(SECONDS_MAX);
    Some(Duration::from_secs(seconds.min(SECONDS_MAX)))
}

/// The members of a list, split at commas that stand in no quoted string (RFC 9110, 5.6.1 and 5.6.4).
pub fn members(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let comma = line.bytes().position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => return true,
                _ => {}
            }
            false
        });
        let (member, after) = match comma {
            Some(at) => (&line[..at], Some(&line[at + 1..])),
            None => (line, None),
        };
        rest = after;
        Some(member.trim_matches([' ', '\t']))
    })
    .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use http::header::CACHE_CONTROL;

    use super::*;

    fn of(lines: &[&str]) -> Directives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, line.parse().unwrap());
        }
        Directives::of(&headers, &CACHE_CONTROL)
    }

    #[test]
    fn lines_are_one_list_and_names_know_no_case() {
        let said = of(&["Max-Age=60, NO-CACHE", "s-maxage=\"30\",public"]);
        assert_eq!(
            (said.max_age, said.s_maxage),
            (Some(Duration::from_secs(60)), Some(Duration::from_secs(30)))
        );
        assert!(said.no_cache && said.public && !said.no_store);
        assert!(!of(&[]).any && !of(&[" , ,"]).any);
    }

    #[test]
    fn what_stands_in_quotes_is_no_directive() {
        let said = of(&[r#"ext="a, max-age=3600, \" no-store", max-age=1"#]);
        assert_eq!(said.max_age, Some(Duration::from_secs(1)));
        assert!(!said.no_store);
    }

    #[test]
    fn the_first_counts_and_what_cannot_be_read_is_nothing() {
        assert_eq!(of(&["max-age=5, max-age=6"]).max_age, Some(Duration::from_secs(5)));
        for wrong in ["max-age=-5", "max-age=5.5", "max-age=a5", "max-age", "max-age=", "max-age= 5"] {
            assert_eq!(of(&[wrong]).max_age, Some(Duration::ZERO), "{wrong}");
        }
        let much = Some(Duration::from_secs(SECONDS_MAX));
        assert_eq!(of(&["max-age=99999999999999999999999"]).max_age, much);
        assert_eq!(of(&["max-age=2147483649"]).max_age, much);
    }

    #[test]
    fn max_stale_needs_no_value() {
        assert_eq!(of(&["max-stale"]).max_stale, Some(Duration::MAX));
        assert_eq!(of(&["max-stale=7"]).max_stale, Some(Duration::from_secs(7)));
        assert_eq!(of(&["max-stale=x"]).max_stale, None);
    }
}
