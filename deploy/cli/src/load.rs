//! An open-loop load generator: requests start at their scheduled times, whatever became of those before, and latency counts
//! from the scheduled time. So a slow server cannot slow its own measurement down (coordinated omission; Tene, 2013).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client_sdk::{Answer, Client, EventKind, SdkError, SlotId, SlotRequest, VisitorId};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Highest latency that is told apart, in microseconds.
const HIGHEST_US: u64 = 60_000_000;
/// Outcomes on their way to the histogram.
const OUTCOMES_MAX: usize = 65_536;
/// Requests in flight beyond which the generator gives up: the system has long been lost then.
const IN_FLIGHT_MAX: usize = 50_000;
/// Different errors that are kept, as examples.
const ERROR_KINDS_MAX: usize = 8;

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Requests a second.
    pub rate: f64,
    /// For how long.
    pub length: Duration,
    /// Items a request.
    pub count: u16,
    /// A request's deadline.
    pub deadline: Duration,
    /// After how many answers a visitor clicks on the first item; 0: never.
    pub click_every: u64,
    /// Whether every item of an answer that is clicked is confirmed as seen.
    pub impressions: bool,
}

/// Latencies in microseconds, and what went wrong.
#[derive(Debug, Clone)]
pub struct Measured {
    /// From the scheduled time to the answer.
    pub latency: Histogram<u64>,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that failed.
    pub errors: u64,
    /// How often which error came.
    pub error_kinds: Vec<(String, u64)>,
    /// Answers by the stage that served them, `ranked` first.
    pub served_by: Vec<(String, u64)>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// The figures of a measurement, as JSON has them.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Requests that were answered or failed.
    pub requests: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Answers a second.
    pub answers_per_s: f64,
    /// Mean latency in microseconds.
    pub mean_us: f64,
    /// Median.
    pub p50_us: u64,
    /// 99 of 100 are faster.
    pub p99_us: u64,
    /// 999 of 1000 are faster.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
}

enum Outcome {
    Answered { after: Duration, served_by: String },
    Failed(String),
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            latency: Histogram::new_with_bounds(1, HIGHEST_US, 3)
                .expect("the bounds are constants that it takes"),
            answered: 0,
            errors: 0,
            error_kinds: Vec::new(),
            served_by: Vec::new(),
            seconds: 0.0,
        }
    }
}

impl Measured {
    /// Adds another measurement, as if both had been one.
    pub fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.latency.add(&other.latency)?;
        self.answered += other.answered;
        self.errors += other.errors;
        self.seconds += other.seconds;
        other.error_kinds.iter().for_each(|(kind, n)| count(&mut self.error_kinds, kind.clone(), *n));
        other.served_by.iter().for_each(|(kind, n)| count(&mut self.served_by, kind.clone(), *n));
        Ok(())
    }

    /// Counts an answer.
    pub fn answered(&mut self, after: Duration, served_by: &str) {
        self.answered += 1;
        self.latency.saturating_record(u64::try_from(after.as_micros()).unwrap_or(HIGHEST_US).max(1));
        count(&mut self.served_by, served_by.to_owned(), 1);
    }

    /// Counts a failure.
    pub fn failed(&mut self, error: String) {
        self.errors += 1;
        count(&mut self.error_kinds, error, 1);
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        let at = |quantile: f64| self.latency.value_at_quantile(quantile);
        Figures {
            requests: self.answered + self.errors,
            errors: self.errors,
            answers_per_s: self.answered as f64 / self.seconds.max(f64::MIN_POSITIVE),
            mean_us: self.latency.mean(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.latency.max(),
        }
    }
}

fn count(counts: &mut Vec<(String, u64)>, what: String, times: u64) {
    match counts.iter().position(|(known, _)| *known == what) {
        Some(at) => counts[at].1 += times,
        None if counts.len() < ERROR_KINDS_MAX => counts.push((what, times)),
        None => {}
    }
}

/// Runs a plan over clients and visitors, both taken in turn. Returns when every request has ended.
pub async fn run(plan: &Plan, clients: &[Client], visitors: &[VisitorId]) -> anyhow::Result<Measured> {
    anyhow::ensure!(!clients.is_empty() && !visitors.is_empty(), "a load needs clients and visitors");
    let (outcomes, mut inbox) = mpsc::channel(OUTCOMES_MAX);
    let collector = tokio::spawn(async move {
        let mut measured = Measured::default();
        while let Some(outcome) = inbox.recv().await {
            match outcome {
                Outcome::Answered { after, served_by } => measured.answered(after, &served_by),
                Outcome::Failed(error) => measured.failed(error),
            }
        }
        measured
    });
    let (plan, tasks, started) = (Arc::new(plan.clone()), TaskTracker::new(), Instant::now());
    let slot: SlotId = "load".parse()?;
    let total = (plan.rate * plan.length.as_secs_f64()).round() as u64;
    for number in 0..total {
        let scheduled = started + Duration::from_secs_f64(number as f64 / plan.rate);
        if scheduled > Instant::now() {
            tokio::time::sleep_until(scheduled).await;
        }
        anyhow::ensure!(
            tasks.len() < IN_FLIGHT_MAX,
            "{IN_FLIGHT_MAX} requests are in flight: the load is far too high"
        );
        let client = clients[number as usize % clients.len()].clone();
        // Visitors in a fixed, shuffled-looking order: consecutive requests are of different visitors and clients.
        let visitor = visitors[(number.wrapping_mul(7_919) % visitors.len() as u64) as usize].clone();
        let (plan, slot, outcomes) = (plan.clone(), slot.clone(), outcomes.clone());
        tasks.spawn(async move {
            let outcome = request(&plan, number, scheduled, &client, visitor, slot).await;
            // The collector lives until the last sender is gone.
            let _ = outcomes.send(outcome).await;
        });
    }
    tasks.close();
    tasks.wait().await;
    drop(outcomes);
    let mut measured = collector.await.context("the collector panicked")?;
    measured.seconds = started.elapsed().as_secs_f64();
    Ok(measured)
}

async fn request(
    plan: &Plan,
    number: u64,
    scheduled: Instant,
    client: &Client,
    visitor: VisitorId,
    slot: SlotId,
) -> Outcome {
    let ask = SlotRequest::new(visitor.clone(), slot.clone()).count(plan.count).deadline(plan.deadline);
    match client.recommend(ask).await {
        Ok(answer) => {
            let after = scheduled.elapsed();
            let served_by = format!("{:?}", answer.served_by).to_lowercase();
            if plan.click_every > 0
                && number.is_multiple_of(plan.click_every)
                && let Err(error) = click(plan, client, visitor, slot, &answer).await
            {
                return Outcome::Failed(format!("track: {}", error.code()));
            }
            Outcome::Answered { after, served_by }
        }
        Err(error) => Outcome::Failed(format!("recommend: {error}")),
    }
}

/// The visitor saw the answer and chose its first item.
async fn click(
    plan: &Plan,
    client: &Client,
    visitor: VisitorId,
    slot: SlotId,
    answer: &Answer,
) -> Result<(), SdkError> {
    let Some(best) = answer.items.first() else { return Ok(()) };
    let mut events = Vec::new();
    if plan.impressions {
        for (position, ranked) in (0_u16..).zip(&answer.items) {
            let (item, slot) = (ranked.item.clone(), slot.clone());
            let kind = EventKind::Impression { item, slot, position, answer: Some(answer.id) };
            events.push((visitor.clone(), kind));
        }
    }
    let kind = EventKind::Click { item: best.item.clone(), slot, answer: Some(answer.id) };
    events.push((visitor, kind));
    client.track_all(events).await.map(drop)
}
