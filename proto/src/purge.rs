//! Purges of the content cache: what was declared void, and when, by numbers that only grow. A response that was asked for before a
//! purge is void, whether it has come yet or not. Bounded: where there is no room for another, the oldest are forgotten, and
//! all that was asked for before them is void.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// Most purges that are remembered, 16 bytes each.
pub const PURGES_LEN_MAX: usize = 16_384;
/// Most things that one command declares void.
pub const PURGE_KEYS_MAX: usize = 1_024;
/// Of the purges, one part in so many is forgotten at a time.
const FORGOTTEN_SHARE: usize = 16;

/// When something happened: an index of Raft's log.
pub type Moment = u64;

/// What a purge is about: the first 64 bits of a SHA-256. Two things that share them are purged together, which costs a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PurgeKey(pub u64);

impl PurgeKey {
    /// A resource, by scheme, authority, path and query: `https://shop.example/a?b`.
    pub fn of_url(url: &str) -> Self {
        Self::of(b'u', url)
    }

    /// All responses with this tag.
    pub fn of_tag(tag: &str) -> Self {
        Self::of(b't', tag)
    }

    fn of(kind: u8, text: &str) -> Self {
        let mut bytes = Vec::with_capacity(1 + text.len());
        bytes.push(kind);
        bytes.extend_from_slice(text.as_bytes());
        let digest = Digest::of(&bytes).0;
        Self(digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

/// The purges so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Purges {
    at: BTreeMap<PurgeKey, Moment>,
    /// All that was asked for until then is void.
    floor: Moment,
    /// When the last of them was.
    last: Moment,
}

impl Purges {
    /// Declares void what was asked for until now.
    pub fn purge(&mut self, key: PurgeKey, now: Moment) {
        if self.at.len() >= PURGES_LEN_MAX && !self.at.contains_key(&key) {
            self.forget();
        }
        let at = self.at.entry(key).or_default();
        *at = now.max(*at);
        self.last = self.last.max(now);
    }

    /// Declares void whatever was asked for until now.
    pub fn purge_all(&mut self, now: Moment) {
        self.floor = self.floor.max(now);
        self.last = self.last.max(now);
        let floor = self.floor;
        self.at.retain(|_, at| *at > floor);
    }

    /// When the last of them was: what was born later is not void.
    pub fn last(&self) -> Moment {
        self.last
    }

    fn forget(&mut self) {
        let mut moments: Vec<Moment> = self.at.values().copied().collect();
        moments.sort_unstable();
        let floor = moments.get(moments.len() / FORGOTTEN_SHARE).copied().unwrap_or_default();
        self.floor = self.floor.max(floor);
        let floor = self.floor;
        self.at.retain(|_, at| *at > floor);
    }

    /// Whether what was asked for at `born`, and is known by any of these, is void.
    pub fn void(&self, keys: impl IntoIterator<Item = PurgeKey>, born: Moment) -> bool {
        let after = |key: PurgeKey| self.at.get(&key).is_some_and(|at| *at >= born);
        born <= self.floor || (born <= self.last && keys.into_iter().any(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(n: u64) -> PurgeKey {
        PurgeKey::of_tag(&n.to_string())
    }

    #[test]
    fn what_was_asked_for_before_a_purge_is_void() {
        let mut purges = Purges::default();
        let (shop, other, page) =
            (PurgeKey::of_tag("shop"), PurgeKey::of_tag("y"), PurgeKey::of_url("https://a/b"));
        assert_ne!(PurgeKey::of_tag("https://a/b"), page);
        purges.purge(shop, 5);
        purges.purge(page, 7);
        assert!(purges.void([shop], 5) && purges.void([other, shop], 1));
        assert!(!purges.void([shop], 6) && !purges.void([other], 1));
        assert!(purges.void([page], 7) && !purges.void([page], 8));
        purges.purge(shop, 3);
        assert!(purges.void([shop], 5), "a purge is never undone");
        purges.purge_all(20);
        assert!(purges.void([other], 20) && !purges.void([other], 21) && purges.at.is_empty());
    }

    #[test]
    fn what_is_forgotten_is_void_with_all_that_is_older() {
        let mut purges = Purges::default();
        for now in 1..=40_000 {
            purges.purge(tag(now), now);
            assert!(purges.at.len() <= PURGES_LEN_MAX);
            assert!(!purges.void([tag(0)], now + 1));
            if now % 999 == 0 {
                assert!([now, now - 7, now / 2, 1].into_iter().all(|of| purges.void([tag(of)], of)), "{now}");
            }
        }
        assert!(purges.void([tag(0)], 1) && !purges.void([tag(0)], 40_000 - 14_000));
    }
}
