//! How often somebody may ask: token buckets in the form of GCRA (ATM Forum, Traffic Management 4.0, 4.4.2), which keeps one number
//! for each: when the bucket would be full again.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Buckets that addresses share, 2 MiB of them: a table that grows with whoever comes could be made to grow without bound. Two
/// addresses in one bucket share its tokens.
const ADDRESS_BUCKETS: usize = 1 << 18;
const SECOND: Duration = Duration::from_secs(1);

/// Buckets of one size, each holding the tokens of one second.
#[derive(Debug)]
pub struct Quota {
    begun: Instant,
    token: Duration,
    /// In nanoseconds since `begun`.
    full_at: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Quota {
    /// One bucket. `None`: no limit.
    pub fn of_one(requests_per_s: u32) -> Option<Self> {
        Self::new(requests_per_s, 1)
    }

    /// A bucket for each of many. `None`: no limit.
    pub fn of_many(requests_per_s: u32) -> Option<Self> {
        Self::new(requests_per_s, ADDRESS_BUCKETS)
    }

    fn new(requests_per_s: u32, buckets: usize) -> Option<Self> {
        let token = SECOND.checked_div(requests_per_s)?;
        let full_at = (0..buckets).map(|_| AtomicU64::new(0)).collect();
        Some(Self { begun: Instant::now(), token, full_at, hasher: RandomState::new() })
    }

    /// Takes a token of `who`.
    ///
    /// # Errors
    /// When there will be one again.
    pub fn take(&self, who: impl Hash) -> Result<(), Duration> {
        self.take_at(who, self.begun.elapsed())
    }

    fn take_at(&self, who: impl Hash, now: Duration) -> Result<(), Duration> {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let (now, token) = (nanos(now), nanos(self.token));
        let at = self.hasher.hash_one(who) % self.full_at.len() as u64;
        let bucket = &self.full_at[usize::try_from(at).unwrap_or_default()];
        let after = |full_at: u64| full_at.max(now) + token;
        let taken = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            Some(after(full_at)).filter(|after| after - now <= nanos(SECOND).max(token))
        });
        taken.map(drop).map_err(|full_at| Duration::from_nanos(after(full_at) - now) - SECOND.max(self.token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_second_is_taken_at_once_and_then_as_it_comes() {
        let quota = Quota::of_one(10).unwrap();
        let taken = |at: Duration| quota.take_at((), at);
        assert!((0..10).all(|_| taken(MS * 5_000).is_ok()));
        assert_eq!(taken(MS * 5_000), Err(MS * 100));
        assert_eq!(taken(MS * 5_099), Err(MS));
        assert_eq!(taken(MS * 5_100), Ok(()));
        assert_eq!(taken(MS * 5_100), Err(MS * 100));
        assert!(
            (0..10).all(|_| taken(MS * 60_000).is_ok()),
            "what was not taken is not saved beyond a second"
        );
        assert!(taken(MS * 60_000).is_err());
    }

    #[test]
    fn each_has_a_bucket_of_its_own() {
        let quota = Quota::of_many(1).unwrap();
        assert_eq!(quota.take_at(1, MS), Ok(()));
        assert_eq!(quota.take_at(1, MS), Err(SECOND));
        // Two of a thousand may share one; most do not.
        let served = (2..1_002).filter(|who| quota.take_at(who, MS).is_ok()).count();
        assert!(served > 950, "{served}");
        assert!(Quota::of_one(0).is_none());
    }
}
