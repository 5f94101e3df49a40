//! When a certificate is to be renewed, and how much it presses. Pure, but for the jitter.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use transport::pki::Validity;

/// Shortest and longest pause after a renewal that failed.
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(10 * 60);

/// How much a renewal presses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Less than three quarters of its life are over.
    Calm,
    /// A person should look.
    Late,
    /// It has ended: the grace runs.
    Ended,
}

/// At half of its life, `jitter` (0 to 1) within a tenth of the life around that: nodes that enrolled together renew apart.
pub(super) fn due(validity: &Validity, jitter: f64) -> SystemTime {
    validity.not_before + validity.length().mul_f64(0.45 + 0.1 * jitter.clamp(0.0, 1.0))
}

/// How long to wait after a failure: a 32nd of the life, so that there are a dozen attempts before it ends.
pub(super) fn pause(validity: &Validity) -> Duration {
    (validity.length() / 32).clamp(*PAUSE.start(), *PAUSE.end())
}

/// How much it presses at `now`.
pub(super) fn urgency(validity: &Validity, now: SystemTime) -> Urgency {
    if now >= validity.not_after {
        Urgency::Ended
    } else if now >= validity.not_before + validity.length().mul_f64(0.75) {
        Urgency::Late
    } else {
        Urgency::Calm
    }
}

/// From half of a duration to all of it.
pub(super) fn jittered(full: Duration) -> Duration {
    full.mul_f64(0.5 + 0.5 * random())
}

/// A number from 0 to 1: the standard library's hasher is seeded anew each time, randomness enough for this.
pub(super) fn random() -> f64 {
    (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn day() -> Validity {
        let not_before = SystemTime::UNIX_EPOCH + 1_000 * DAY;
        Validity { not_before, not_after: not_before + DAY }
    }

    #[test]
    fn a_certificate_is_renewed_around_half_of_its_life() {
        let validity = day();
        for jitter in [0.0, 0.5, 1.0, 7.0] {
            let at = due(&validity, jitter).duration_since(validity.not_before).unwrap();
            assert!((DAY.mul_f64(0.45)..=DAY.mul_f64(0.551)).contains(&at), "{at:?}");
        }
        for _ in 0..100 {
            assert!((0.0..1.0).contains(&random()));
        }
    }

    #[test]
    fn there_is_time_for_many_attempts() {
        let (validity, half) = (day(), DAY / 2);
        assert!(pause(&validity) * 12 < half);
        let seconds = Validity { not_after: validity.not_before + Duration::from_secs(4), ..validity };
        assert!(pause(&seconds) * 12 < Duration::from_secs(2), "{:?}", pause(&seconds));
        let long = Validity { not_after: validity.not_before + 90 * DAY, ..validity };
        assert_eq!(pause(&long), *PAUSE.end());
    }

    #[test]
    fn it_presses_from_three_quarters_on() {
        let validity = day();
        let at = |share: f64| urgency(&validity, validity.not_before + DAY.mul_f64(share));
        assert_eq!(
            [at(0.5), at(0.74), at(0.76), at(0.99)],
            [Urgency::Calm, Urgency::Calm, Urgency::Late, Urgency::Late]
        );
        assert_eq!(at(1.0), Urgency::Ended);
        assert_eq!(at(9.0), Urgency::Ended);
    }
}
