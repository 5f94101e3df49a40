//! The highest rate that a side sustains: answers from both models, none failed, 99 of 100 within the bar.

use std::sync::Arc;
use std::time::Duration;

use rockpool::commands::say;
use rockpool::load::Figures;
use serde::Serialize;
use tokio::time::Instant;

use crate::load::{Asker, Run, closed_loop, open_loop};

/// 99 of 100 answers must be faster.
pub const P99_MAX: Duration = Duration::from_millis(50);
/// Of the answers, so many at least must be from both models.
pub const RANKED_SHARE_MIN: f64 = 0.99;
/// Askers of the closed loop with which the search begins: few enough that no queue of any side is long.
const ASKERS: u64 = 16;
/// The search begins below what the closed loop came to …
const FIRST_SHARE: f64 = 0.8;
/// … goes up and down in steps of this factor until it has a rate that is sustained and one that is not …
const STEP: f64 = 1.2;
/// … and then halves the distance until they are so close.
const CLOSE: f64 = 1.04;

/// How long to search.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// One rate is held so long, after a quarter of it that does not count.
    pub probe: Duration,
    /// No rate is begun after so long.
    pub search: Duration,
}

/// What came of one rate.
#[derive(Debug, Clone, Serialize)]
pub struct Probe {
    /// Requests a second that were sent.
    pub rate_per_s: f64,
    /// Latencies and errors.
    pub figures: Figures,
    /// How often which error came.
    pub error_kinds: Vec<(String, u64)>,
    /// Share of the answers that came from both models.
    pub ranked_share: f64,
    /// Whether the side sustained it.
    pub sustained: bool,
}

/// What a search came to.
#[derive(Debug, Clone, Serialize)]
pub struct Highest {
    /// Answers a second of the closed loop with 16 askers, for comparison.
    pub closed_loop_per_s: f64,
    /// The highest rate that was sustained; 0 if none was.
    pub rate_per_s: f64,
    /// Everything that was tried, in order.
    pub probes: Vec<Probe>,
}

impl Probe {
    /// Judges what came of a rate.
    pub fn of(rate_per_s: f64, run: &Run) -> Self {
        let figures = run.measured.figures();
        let ranked = run.measured.served_by.iter().find(|(by, _)| by == "ranked").map_or(0, |(_, n)| *n);
        let ranked_share = ranked as f64 / (run.measured.answered.max(1)) as f64;
        let sustained = !run.lost
            && figures.errors == 0
            && ranked_share >= RANKED_SHARE_MIN
            && u128::from(figures.p99_us) < P99_MAX.as_micros();
        let error_kinds = run.measured.error_kinds.clone();
        Self { rate_per_s, figures, error_kinds, ranked_share, sustained }
    }
}

/// Holds one rate, and judges it.
async fn probe<A: Asker>(asker: &Arc<A>, rate: f64, length: Duration) -> anyhow::Result<Probe> {
    let warm_up = open_loop(asker, rate, length / 4).await?;
    if warm_up.lost {
        return Ok(Probe::of(rate, &warm_up));
    }
    Ok(Probe::of(rate, &open_loop(asker, rate, length).await?))
}

/// Searches. A rate that is not sustained gets a second try: others may have been at work on the machine.
///
/// # Errors
/// Where the generator fails.
pub async fn highest<A: Asker>(name: &str, asker: &Arc<A>, limits: Limits) -> anyhow::Result<Highest> {
    let until = Instant::now() + limits.search;
    closed_loop(asker, ASKERS, limits.probe / 4).await?;
    let closed_loop_per_s = closed_loop(asker, ASKERS, limits.probe).await?;
    let mut bounds = Bounds { rate: closed_loop_per_s * FIRST_SHARE, low: None, high: None };
    let mut probes = Vec::new();
    while Instant::now() < until && !bounds.close() {
        let mut tried = probe(asker, bounds.rate, limits.probe).await?;
        if !tried.sustained && Instant::now() < until {
            probes.push(tried);
            tried = probe(asker, bounds.rate, limits.probe).await?;
        }
        say(&format!(
            "  {name}: {:>5.0}/s {} (p99 {:.1} ms, {:.1} % ranked, {} errors)",
            tried.rate_per_s,
            if tried.sustained { "sustained" } else { "not sustained" },
            tried.figures.p99_us as f64 / 1_000.0,
            tried.ranked_share * 100.0,
            tried.figures.errors,
        ));
        bounds.take(tried.sustained);
        probes.push(tried);
    }
    Ok(Highest { closed_loop_per_s, rate_per_s: bounds.low.unwrap_or(0.0), probes })
}

/// Between which rates the highest lies.
struct Bounds {
    /// What is tried next.
    rate: f64,
    /// The highest that was sustained.
    low: Option<f64>,
    /// The lowest that was not.
    high: Option<f64>,
}

impl Bounds {
    fn take(&mut self, sustained: bool) {
        if sustained {
            self.low = Some(self.rate);
        } else {
            self.high = Some(self.rate);
        }
        self.rate = match (self.low, self.high) {
            (Some(low), Some(high)) => (low * high).sqrt(),
            (Some(low), None) => low * STEP,
            (None, Some(high)) => high / STEP,
            (None, None) => self.rate,
        };
    }

    fn close(&self) -> bool {
        matches!((self.low, self.high), (Some(low), Some(high)) if high / low <= CLOSE)
    }
}

#[cfg(test)]
mod tests {
    use rockpool::load::Measured;

    use super::*;

    #[test]
    fn the_search_closes_in_on_what_is_sustained() {
        for limit in [130.0, 700.0, 2_000.0] {
            let mut bounds = Bounds { rate: 800.0, low: None, high: None };
            let mut tries = 0;
            while !bounds.close() {
                bounds.take(bounds.rate <= limit);
                tries += 1;
            }
            let low = bounds.low.unwrap();
            assert!(low <= limit && low * CLOSE >= limit && tries < 16, "{limit}: {low} after {tries}");
        }
    }

    #[test]
    fn answers_without_models_do_not_count() {
        let mut measured = Measured::default();
        (0..98).for_each(|_| measured.answered(Duration::from_millis(1), "ranked"));
        (0..2).for_each(|_| measured.answered(Duration::from_millis(1), "fallback"));
        measured.seconds = 1.0;
        let judged = |measured: &Measured, lost| Probe::of(100.0, &Run { measured: measured.clone(), lost });
        assert!(!judged(&measured, false).sustained);
        (0..200).for_each(|_| measured.answered(Duration::from_millis(1), "ranked"));
        assert!(judged(&measured, false).sustained && !judged(&measured, true).sustained);
        (0..10).for_each(|_| measured.answered(Duration::from_millis(60), "ranked"));
        assert!(!judged(&measured, false).sustained);
    }
}
