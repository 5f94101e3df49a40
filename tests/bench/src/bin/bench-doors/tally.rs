//! What became of the requests that fell due within some time.

use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use crate::load::{Outcome, Sample};

/// How long a visitor waits: a node's default. Requests say so, too.
pub const DEADLINE: Duration = Duration::from_millis(200);

/// Figures of some requests. Latencies count from when a request fell due, and are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tally {
    /// Requests a second that fell due.
    pub offered_per_s: f64,
    /// Of those, good answers: 200, within the deadline.
    pub goodput_per_s: f64,
    /// Of the good answers, those from both models.
    pub ranked_per_s: f64,
    /// Good answers.
    pub good: u64,
    /// 200, but after the deadline.
    pub late: u64,
    /// 503: shed by the node.
    pub refused: u64,
    /// Neither.
    pub failed: u64,
    /// Shed by the generator: no connection was free.
    pub not_admitted: u64,
    /// Not sent, as the generator was behind its time: where these are many, it is the machine that was measured.
    pub missed: u64,
    /// Of all answers that are 200, late ones too: median.
    pub p50_ms: f64,
    /// 99 of 100 are faster.
    pub p99_ms: f64,
    /// Of the 503.
    pub refused_p99_ms: f64,
    /// How late the generator itself was with what it sent.
    pub lag_p99_ms: f64,
}

/// Whether a sample is a good answer.
fn good(sample: &Sample) -> bool {
    matches!(sample.outcome, Outcome::Ranked | Outcome::Fallback) && sample.after <= DEADLINE
}

/// The value that this share of them does not exceed, in milliseconds; 0 of none.
pub fn quantile_ms(mut values: Vec<Duration>, share: f64) -> f64 {
    values.sort_unstable();
    let at = (values.len() as f64 * share).ceil() as usize;
    values.get(at.saturating_sub(1)).map_or(0.0, |value| value.as_secs_f64() * 1e3)
}

fn within(samples: &[Sample], due: Range<Duration>) -> impl Iterator<Item = &Sample> + Clone {
    samples.iter().filter(move |sample| due.contains(&sample.due))
}

impl Tally {
    /// Of those that fell due in this time.
    pub fn of(samples: &[Sample], due: Range<Duration>) -> Self {
        let seconds = (due.end - due.start).as_secs_f64();
        let all = within(samples, due);
        let count =
            |wanted: &dyn Fn(&Sample) -> bool| all.clone().filter(|sample| wanted(sample)).count() as u64;
        let is = |outcome: Outcome| move |sample: &Sample| sample.outcome == outcome;
        let answered = |sample: &&Sample| matches!(sample.outcome, Outcome::Ranked | Outcome::Fallback);
        let after: Vec<_> = all.clone().filter(answered).map(|sample| sample.after).collect();
        let refused = all.clone().filter(|sample| sample.outcome == Outcome::Refused);
        let sent =
            all.clone().filter(|sample| !matches!(sample.outcome, Outcome::NotAdmitted | Outcome::Missed));
        let goods = count(&good);
        Self {
            offered_per_s: all.clone().count() as f64 / seconds,
            goodput_per_s: goods as f64 / seconds,
            ranked_per_s: count(&|sample| good(sample) && is(Outcome::Ranked)(sample)) as f64 / seconds,
            good: goods,
            late: after.len() as u64 - goods,
            refused: count(&is(Outcome::Refused)),
            failed: count(&is(Outcome::Failed)),
            not_admitted: count(&is(Outcome::NotAdmitted)),
            missed: count(&is(Outcome::Missed)),
            p50_ms: quantile_ms(after.clone(), 0.5),
            p99_ms: quantile_ms(after, 0.99),
            refused_p99_ms: quantile_ms(refused.map(|sample| sample.after).collect(), 0.99),
            lag_p99_ms: quantile_ms(sent.map(|sample| sample.lag).collect(), 0.99),
        }
    }

    /// One line, for people.
    pub fn line(&self) -> String {
        format!(
            "{:.0}/s offered, {:.0}/s good ({:.0} ranked), p99 {:.1} ms; {} late, {} refused, {} failed, {} not admitted, {} missed",
            self.offered_per_s,
            self.goodput_per_s,
            self.ranked_per_s,
            self.p99_ms,
            self.late,
            self.refused,
            self.failed,
            self.not_admitted,
            self.missed
        )
    }
}

/// p99 of each window in milliseconds, everything counted: a request without a good answer is slower than any, so that a window with
/// more than one of 100 of those has none.
pub fn windows(samples: &[Sample], due: Range<Duration>, width: Duration) -> Vec<Option<f64>> {
    let count = ((due.end - due.start).as_nanos() / width.as_nanos()) as u32;
    let p99 = |number: u32| {
        let from = due.start + width * number;
        let all = within(samples, from..from + width);
        let after = all.map(|sample| if good(sample) { sample.after } else { Duration::MAX });
        let p99_ms = quantile_ms(after.collect(), 0.99);
        (p99_ms < Duration::MAX.as_secs_f64()).then_some(p99_ms)
    };
    (0..count).map(p99).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One each millisecond.
    fn samples(outcomes: impl IntoIterator<Item = (Outcome, u32)>) -> Vec<Sample> {
        let sample = |(at, (outcome, after)): (u32, (Outcome, u32))| Sample {
            due: MS * at,
            lag: Duration::ZERO,
            after: MS * after,
            outcome,
        };
        (0..).zip(outcomes).map(sample).collect()
    }

    #[test]
    fn good_is_200_within_the_deadline() {
        let all = samples([
            (Outcome::Ranked, 10),
            (Outcome::Fallback, 200),
            (Outcome::Ranked, 201),
            (Outcome::Refused, 3),
            (Outcome::Failed, 1),
            (Outcome::NotAdmitted, 0),
            (Outcome::Ranked, 1),
        ]);
        let tally = Tally::of(&all, Duration::ZERO..MS * 6);
        assert_eq!(
            (tally.good, tally.late, tally.refused, tally.failed, tally.not_admitted),
            (2, 1, 1, 1, 1)
        );
        assert!(
            (tally.goodput_per_s - 2.0 / 0.006).abs() < 1e-6
                && (tally.ranked_per_s - 1.0 / 0.006).abs() < 1e-6
        );
        assert!((tally.p99_ms - 201.0).abs() < 1e-6 && (tally.refused_p99_ms - 3.0).abs() < 1e-6);
    }

    #[test]
    fn a_window_with_many_that_are_not_good_has_no_p99() {
        let fine = std::iter::repeat_n((Outcome::Ranked, 5), 200);
        let bad = std::iter::repeat_n((Outcome::NotAdmitted, 0), 3);
        let all = samples(fine.clone().chain(bad).chain(fine.clone().take(197)).chain(fine));
        let found = windows(&all, Duration::ZERO..MS * 600, MS * 200);
        assert!(matches!(found[..], [Some(_), None, Some(_)]), "{found:?}");
        assert!((found[0].unwrap() - 5.0).abs() < 1e-6);
    }
}
