//! Decoded profiles that are also in sled: two generations by weight, the older falls as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use proto::VisitorId;
use proto::profile::Profile;

/// A bounded cache. Looking up keeps an entry; one that nobody looks up goes with its generation.
#[derive(Debug)]
pub struct Cache {
    young: HashMap<VisitorId, Arc<Profile>>,
    old: HashMap<VisitorId, Arc<Profile>>,
    young_bytes: u64,
    bytes_max: u64,
}

impl Cache {
    /// A cache whose entries weigh about `bytes_max` at most.
    pub fn new(bytes_max: u64) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, bytes_max }
    }

    /// A visitor's profile.
    pub fn get(&mut self, visitor: &VisitorId) -> Option<Arc<Profile>> {
        if let Some(profile) = self.young.get(visitor) {
            return Some(Arc::clone(profile));
        }
        let (visitor, profile) = self.old.remove_entry(visitor)?;
        self.insert(visitor, Arc::clone(&profile));
        Some(profile)
    }

    /// Puts a profile in, or a newer one in its place.
    pub fn insert(&mut self, visitor: VisitorId, profile: Arc<Profile>) {
        self.old.remove(&visitor);
        self.young_bytes += weight(&profile);
        if let Some(before) = self.young.insert(visitor, profile) {
            self.young_bytes = self.young_bytes.saturating_sub(weight(&before));
        }
        if self.young_bytes > self.bytes_max / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// About how much memory a profile takes. Item ids are shared, so their text is not counted in full.
fn weight(profile: &Profile) -> u64 {
    let traits: usize = profile.traits.iter().map(|(name, value)| name.len() + value.len() + 72).sum();
    (256 + profile.interactions.len() * 64 + profile.seen.len() * 64 + traits) as u64
}

#[cfg(test)]
mod tests {
    use proto::UserId;

    use super::*;

    fn visitor(number: u64) -> VisitorId {
        VisitorId::User(UserId::new(format!("u{number}")).unwrap())
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let mut cache = Cache::new(256 * 100);
        for number in 0..1_000 {
            cache.insert(visitor(number), Arc::default());
            assert!(cache.get(&visitor(0)).is_some(), "used all the time, at {number}");
            assert!(cache.len() <= 102, "{} entries", cache.len());
        }
        assert!(cache.get(&visitor(500)).is_none());
    }

    #[test]
    fn a_newer_profile_takes_the_place_of_an_older() {
        let mut cache = Cache::new(256 * 4);
        let newer = Arc::new(Profile { events: 9, ..Profile::default() });
        cache.insert(visitor(1), Arc::default());
        cache.insert(visitor(2), Arc::default());
        cache.insert(visitor(3), Arc::default());
        cache.insert(visitor(1), Arc::clone(&newer));
        assert_eq!(cache.get(&visitor(1)), Some(newer));
    }
}
