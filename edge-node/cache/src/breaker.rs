//! A circuit breaker (Nygard, "Release It!", 2007): an origin that fails again and again is left alone for a while, then tried by one
//! request at a time. Pure: `now` is an argument.

use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES_MAX: u32 = 10;
/// The first pause; each failed try doubles it.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Breaker {
    failures: u32,
    /// Nobody asks until then; after it, one does, and the next only once a pause has passed again.
    closed_until: Option<Instant>,
}

impl Breaker {
    /// Whether this request may go to the origin.
    ///
    /// # Errors
    /// For how long none may.
    pub fn may_ask(&mut self, now: Instant) -> Result<(), Duration> {
        match self.closed_until {
            Some(until) if now < until => Err(until - now),
            Some(_) => {
                // This one tries.
                self.closed_until = Some(now + self.pause());
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// For how long nobody may ask yet.
    pub fn pause_left(&self, now: Instant) -> Option<Duration> {
        self.closed_until?.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// A request ended that says nothing of the origin. If it was the one that tries, another may try.
    pub fn untried(&mut self, now: Instant) {
        self.closed_until = self.closed_until.map(|until| until.min(now));
    }

    /// It answered.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It did not, or that it cannot.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_MAX {
            self.closed_until = Some(now + self.pause());
        }
    }

    /// Whether it is left alone, for people.
    pub fn is_open(&self) -> bool {
        self.closed_until.is_some()
    }

    fn pause(&self) -> Duration {
        let doubled = self.failures.saturating_sub(FAILURES_MAX).min(16);
        (PAUSE * 2_u32.pow(doubled)).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_origin_that_fails_is_left_alone_and_then_tried_by_one() {
        let (mut breaker, begun) = (Breaker::default(), Instant::now());
        for _ in 0..FAILURES_MAX {
            assert_eq!(breaker.may_ask(begun), Ok(()));
            breaker.failed(begun);
        }
        assert_eq!(breaker.may_ask(begun), Err(SECOND));
        assert_eq!(breaker.may_ask(begun + SECOND), Ok(()), "one tries");
        assert_eq!(breaker.may_ask(begun + SECOND), Err(SECOND), "and only one");
        breaker.failed(begun + SECOND);
        assert_eq!(breaker.may_ask(begun + SECOND * 2), Err(SECOND));
        assert_eq!(breaker.may_ask(begun + SECOND * 3), Ok(()));
        breaker.succeeded();
        assert!(!breaker.is_open());
        assert_eq!(breaker.may_ask(begun + SECOND * 3), Ok(()));
    }

    #[test]
    fn a_try_that_says_nothing_is_no_try() {
        let (mut breaker, begun) = (Breaker::default(), Instant::now());
        breaker.untried(begun);
        assert!(!breaker.is_open());
        (0..FAILURES_MAX).for_each(|_| breaker.failed(begun));
        assert_eq!(breaker.pause_left(begun), Some(SECOND));
        let later = begun + SECOND;
        assert_eq!((breaker.pause_left(later), breaker.may_ask(later)), (None, Ok(())));
        breaker.untried(later);
        assert_eq!(breaker.may_ask(later), Ok(()), "another tries at once");
        assert_eq!(breaker.may_ask(later), Err(SECOND));
    }

    #[test]
    fn pauses_end() {
        let (mut breaker, begun) = (Breaker::default(), Instant::now());
        (0..1_000).for_each(|_| breaker.failed(begun));
        assert_eq!(breaker.may_ask(begun), Err(PAUSE_MAX));
    }

    #[test]
    fn failures_count_only_in_a_row() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..100 {
            (1..FAILURES_MAX).for_each(|_| breaker.failed(now));
            breaker.succeeded();
        }
        assert!(!breaker.is_open());
    }
}
