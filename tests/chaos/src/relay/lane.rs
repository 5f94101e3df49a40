//! One direction's decisions: what becomes of each datagram, from a seed, the faults in force and a given time. Pure.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::faults::{Faults, Kind};

/// How long a datagram may wait for its turn in the rate; one that would wait longer is dropped, as a router does.
pub const RATE_WAIT_MAX: Duration = Duration::from_millis(500);
/// A second copy arrives this much after the first.
const COPY_AFTER: Duration = Duration::from_millis(1);

/// What becomes of a datagram.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It does not arrive, and why.
    Drop(Kind),
    /// It arrives.
    Deliver(Delivery),
}

/// When, how often, and after which faults.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// When.
    pub due: Instant,
    /// When a second copy does.
    pub copy: Option<Instant>,
    /// Its number; a greater one that arrives before it has overtaken it.
    pub number: u64,
    /// What made it late.
    pub late: Vec<Kind>,
}

/// One direction.
#[derive(Debug)]
pub struct Lane {
    random: SmallRng,
    /// When the rate lets the next byte through.
    free: Instant,
    /// When the last one that keeps its place arrives.
    last: Instant,
    number: u64,
}

impl Lane {
    /// The same seed and the same input make the same decisions.
    pub fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self { random: SmallRng::seed_from_u64(seed), free: now, last: now, number: 0 }
    }

    /// What becomes of `len` bytes that come at `now`. `silence` is what silence is called.
    pub fn decide(&mut self, faults: &Faults, silence: Kind, len: usize, now: Instant) -> Verdict {
        if faults.silent {
            return Verdict::Drop(silence);
        }
        if self.happens(faults.loss) {
            return Verdict::Drop(Kind::Loss);
        }
        let mut late = Vec::new();
        let Some(mut due) = self.turn(faults, len, now, &mut late) else { return Verdict::Drop(Kind::Rate) };
        if !faults.delay.is_zero() {
            due += faults.delay;
            late.push(Kind::Delay);
        }
        if !faults.jitter.is_zero() {
            let jitter = faults.jitter.mul_f64(self.random.random_range(0.0..1.0));
            due += jitter;
            if !jitter.is_zero() {
                late.push(Kind::Jitter);
            }
        }
        if self.happens(faults.reorder) {
            // It loses its place: those behind it do not wait for it.
            due += faults.hold;
        } else {
            due = due.max(self.last);
            self.last = due;
        }
        let copy = self.happens(faults.duplicate).then(|| due + COPY_AFTER);
        self.number += 1;
        Verdict::Deliver(Delivery { due, copy, number: self.number, late })
    }

    /// When the rate lets it through; none where its queue is full.
    fn turn(&mut self, faults: &Faults, len: usize, now: Instant, late: &mut Vec<Kind>) -> Option<Instant> {
        let Some(rate) = faults.rate_bytes_per_s else { return Some(now) };
        let start = self.free.max(now);
        if start - now > RATE_WAIT_MAX {
            return None;
        }
        if start > now {
            late.push(Kind::Rate);
        }
        self.free = start + Duration::from_secs_f64(len as f64 / rate as f64);
        Some(self.free)
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random_bool(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, faults: &Faults, count: u64) -> Vec<Verdict> {
        let mut lane = Lane::new(seed);
        let start = lane.free;
        (0..count)
            .map(|n| lane.decide(faults, Kind::OneWay, 1_200, start + Duration::from_millis(n)))
            .collect()
    }

    fn after(verdicts: &[Verdict]) -> Vec<Option<u64>> {
        let delivery = |(n, verdict): (usize, &Verdict)| match verdict {
            Verdict::Deliver(delivery) => Some((delivery.number, n, delivery.due)),
            Verdict::Drop(_) => None,
        };
        verdicts.iter().enumerate().map(delivery).map(|found| found.map(|(number, ..)| number)).collect()
    }

    #[test]
    fn the_same_seed_decides_the_same() {
        let faults = Faults { loss: 0.3, duplicate: 0.2, ..Faults::default() };
        assert_eq!(after(&run(7, &faults, 500)), after(&run(7, &faults, 500)));
        assert_ne!(after(&run(7, &faults, 500)), after(&run(8, &faults, 500)));
    }

    #[test]
    fn shares_are_kept() {
        let faults = Faults { loss: 0.25, duplicate: 0.5, reorder: 0.1, hold: DELAY, ..Faults::default() };
        let verdicts = run(1, &faults, 10_000);
        let lost = verdicts.iter().filter(|verdict| **verdict == Verdict::Drop(Kind::Loss)).count();
        assert!((2_300..2_700).contains(&lost), "{lost} of 10,000 lost");
        let copied = verdicts.iter().filter(|v| matches!(v, Verdict::Deliver(d) if d.copy.is_some())).count();
        assert!((3_450..4_050).contains(&copied), "{copied} of {} copied", 10_000 - lost);
    }

    const DELAY: Duration = Duration::from_millis(20);

    #[test]
    fn jitter_keeps_the_order_and_holding_back_does_not() {
        let dues = |faults: &Faults| -> Vec<Instant> {
            let verdicts = run(3, faults, 1_000);
            let due = |verdict: &Verdict| match verdict {
                Verdict::Deliver(delivery) => Some(delivery.due),
                Verdict::Drop(_) => None,
            };
            verdicts.iter().filter_map(due).collect()
        };
        let jitter = Faults { delay: DELAY, jitter: DELAY, ..Faults::default() };
        assert!(dues(&jitter).is_sorted());
        let reorder = Faults { reorder: 0.1, hold: DELAY, ..Faults::default() };
        assert!(!dues(&reorder).is_sorted());
    }

    #[test]
    fn a_rate_is_kept_and_its_queue_is_bounded() {
        // 1,200 bytes every millisecond are 1.2 MB/s; a tenth of it gets through.
        let faults = Faults { rate_bytes_per_s: Some(120_000), ..Faults::default() };
        let verdicts = run(1, &faults, 10_000);
        let passed = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Deliver(_))).count();
        assert!((1_000..=1_060).contains(&passed), "{passed} in ten seconds and a half");
        assert!(verdicts.contains(&Verdict::Drop(Kind::Rate)));
    }

    #[test]
    fn silence_is_total() {
        let verdicts = run(1, &Faults::silent(), 100);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Drop(Kind::OneWay)));
    }
}
