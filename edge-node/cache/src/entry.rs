//! A stored response.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proto::purge::{Moment, PurgeKey, Purges};

use crate::rules::freshness::{Exchange, moment};
use crate::rules::reuse::Terms;
use crate::rules::vary::{self, Selecting};

/// What a response takes beside its bytes: this program's books.
const BOOKS_BYTES: usize = 512;
/// Most responses of one resource: `Vary` on what differs from visitor to visitor would fill the cache with one resource.
const VARIANTS_MAX: usize = 16;

/// One response.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its status.
    pub status: StatusCode,
    /// Its header, without what was for one connection only.
    pub headers: HeaderMap,
    /// When it came, or was last validated.
    pub exchange: Exchange,
    /// What the rules ask about it.
    pub terms: Terms,
    /// For which requests it was made.
    pub selecting: Selecting,
    /// Under what it is purged, its URL among it.
    pub known_by: Vec<PurgeKey>,
    /// When it was asked for, in the numbers of purges.
    pub born: Moment,
    /// Its body; empty while that is on its way.
    pub body: Bytes,
}

impl Entry {
    /// Whether it was declared void. `now`: up to when purges are known; what was born later is of another log.
    pub fn is_void(&self, purges: &Purges, now: Moment) -> bool {
        self.born > now + 1 || purges.void(self.known_by.iter().copied(), self.born)
    }

    /// What it takes, in bytes.
    pub fn weight(&self) -> usize {
        let headers =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum::<usize>();
        BOOKS_BYTES + headers + self.body.len()
    }
}

/// The responses of one resource, the newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Variants(Vec<Arc<Entry>>);

impl Variants {
    /// The newest that was made for such a request.
    pub fn find(&self, request: &HeaderMap) -> Option<&Arc<Entry>> {
        let made_for = |entry: &&Arc<Entry>| vary::fits(request, &entry.selecting);
        let in_its_language =
            |entry: &&Arc<Entry>| vary::fits_by_language(request, &entry.selecting, &entry.headers);
        self.0.iter().find(made_for).or_else(|| self.0.iter().find(in_its_language))
    }

    /// The newest, for whatever request.
    pub fn newest(&self) -> Option<&Arc<Entry>> {
        self.0.first()
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.0.iter()
    }

    /// With one more, in the place of the one for the same requests.
    #[must_use]
    pub fn with(&self, entry: Arc<Entry>) -> Self {
        let mut all: Vec<_> =
            self.0.iter().filter(|other| other.selecting != entry.selecting).cloned().collect();
        all.push(entry);
        // A response without a date is as new as its coming.
        all.sort_by_key(|entry| {
            let made = moment(&entry.headers, &http::header::DATE).unwrap_or(entry.exchange.came);
            std::cmp::Reverse((made, entry.exchange.came))
        });
        all.truncate(VARIANTS_MAX);
        Self(all)
    }

    /// What they take, in bytes.
    pub fn weight(&self) -> usize {
        self.0.iter().map(|entry| entry.weight()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn entry(language: Option<&str>, came: u64) -> Arc<Entry> {
        let came = SystemTime::UNIX_EPOCH + Duration::from_secs(came);
        let (mut request, mut headers) = (HeaderMap::new(), HeaderMap::new());
        headers.insert("vary", "accept-language".parse().unwrap());
        request.extend(language.map(|language| (http::header::ACCEPT_LANGUAGE, language.parse().unwrap())));
        let selecting = vary::selecting(&request, &headers);
        let exchange = Exchange { asked: came, came };
        let body = Bytes::from_static(b"body");
        let known_by = vec![PurgeKey(1)];
        let terms = Terms::of(StatusCode::OK, &headers, exchange);
        Arc::new(Entry {
            status: StatusCode::OK,
            headers,
            exchange,
            terms,
            selecting,
            known_by,
            born: 5,
            body,
        })
    }

    fn asked(language: &str) -> HeaderMap {
        let mut request = HeaderMap::new();
        request.insert("accept-language", language.parse().unwrap());
        request
    }

    #[test]
    fn the_newest_that_fits_is_found_and_replaces_its_like() {
        let (german, newer, chinese) = (entry(Some("de"), 1), entry(Some("de"), 3), entry(Some("zh"), 2));
        let variants = Variants::default().with(german).with(chinese.clone()).with(newer.clone());
        assert_eq!(variants.0.len(), 2);
        assert_eq!(variants.find(&asked("de")), Some(&newer));
        assert_eq!(variants.find(&asked("zh")), Some(&chinese));
        assert_eq!(variants.find(&asked("en")), None);
        assert!(variants.newest() == Some(&newer) && variants.weight() > 1_000);
    }

    #[test]
    fn they_are_bounded() {
        let many = (0..100).fold(Variants::default(), |all, n| all.with(entry(Some(&n.to_string()), n)));
        assert_eq!(many.0.len(), VARIANTS_MAX);
        assert!(many.find(&asked("99")).is_some() && many.find(&asked("1")).is_none());
    }

    #[test]
    fn what_was_purged_or_is_of_another_log_is_void() {
        let (entry, mut purges) = (entry(None, 1), Purges::default());
        assert!(!entry.is_void(&purges, 4) && !entry.is_void(&purges, 9));
        assert!(entry.is_void(&purges, 3), "it was asked for when index 4 was applied");
        purges.purge(PurgeKey(2), 8);
        assert!(!entry.is_void(&purges, 9));
        purges.purge(PurgeKey(1), 8);
        assert!(entry.is_void(&purges, 9));
    }
}
