//! Five times as much as the node can bear: it must go on to answer as many as at its peak, fast, hold no more memory, and be well
//! again when it is over.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bench::pop::Pop;
use proto::NodeId;
use rockpool::commands::say;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::NodeOf;
use crate::load::{Clients, Phase, Sample, drive};
use crate::tally::{Tally, windows};
use crate::watch::{Durations, Look, Used, watch};

/// Share of the overload that the generator may miss: more, and the machine was too busy.
pub const MISSED_MAX: f64 = 0.1;
/// So many times its peak is offered.
const TIMES: f64 = 5.0;
/// The search begins with this rate …
const FIRST_PER_S: f64 = 500.0;
/// … goes up in steps of this factor …
const STEP: f64 = 1.3;
/// … until so many in a row are not better than the best by this factor, …
const WORSE_MAX: usize = 2;
const BETTER: f64 = 1.02;
/// … and tries at most so many.
const TRIES_MAX: usize = 18;
/// One rate is tried for so long; the beginning does not count.
const TRY: Duration = Duration::from_millis(1_500);
const TRY_BEGINNING: Duration = Duration::from_millis(300);
/// Half of the peak before and after, long enough to know what is normal, and to see it come back.
const AROUND: Duration = Duration::from_secs(6);
/// A rate is borne if so many of its requests get good answers. The best rate is held; if it is not borne for that long, as queues
/// grew slowly, so is a lower one, at most so many times. The most good answers of all that were held are the peak.
const BORNE: f64 = 0.95;
const HOLDS_MAX: usize = 5;
/// The first second after connections stood still does not count.
const SETTLING: Duration = Duration::from_secs(1);
/// Width of the windows whose p99 must come back.
const WINDOW: Duration = Duration::from_millis(200);
/// A p99 is normal up to so many times the median of the windows before …
const NORMAL_TIMES: f64 = 2.0;
/// … and up to this in any case: below it, windows of a few hundred requests differ by chance.
const NORMAL_MS: f64 = 20.0;
/// It is back when so many windows in a row are normal.
const NORMAL_IN_A_ROW: usize = 3;

/// How it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Connections that are open.
    pub connections: usize,
    /// How long the overload lasts.
    pub length: Duration,
    /// How long the peak is held.
    pub peak: Duration,
}

/// What it came to.
#[derive(Debug, Clone, Serialize)]
pub struct Overload {
    /// How long the overload lasted, in seconds.
    pub length_s: f64,
    /// Connections that were open: the most requests in flight.
    pub connections: usize,
    /// Every rate that was tried.
    pub tries: Vec<Tally>,
    /// What was held longer.
    pub holds: Vec<Tally>,
    /// The best of those: its goodput is the peak.
    pub peak: Tally,
    /// At half of the peak, before.
    pub before: Tally,
    /// At five times the peak.
    pub overload: Tally,
    /// At half of the peak, after.
    pub after: Tally,
    /// p99 of windows of 200 ms before and after, in milliseconds. None: more than one of 100 had no good answer.
    pub windows_before_ms: Vec<Option<f64>>,
    /// The first begins when the overload ends.
    pub windows_after_ms: Vec<Option<f64>>,
    /// Up to this a window's p99 is normal.
    pub normal_ms: f64,
    /// From the end of the overload to the end of the first normal window, in seconds. None: none came within the time.
    pub recovery_s: Option<f64>,
    /// 99 of 100 requests of the overload took at most so long as the node itself counts, in milliseconds: from when it had read a
    /// request's head. What clients see beyond that, requests waited unread.
    pub node_p99_ms: Option<f64>,
    /// The node and the generator before, during and after.
    pub used: [Used; 3],
    /// How often which error came.
    pub errors: std::collections::BTreeMap<String, u64>,
}

impl Overload {
    /// Share of the overload that the generator did not get to: beyond [`MISSED_MAX`], the node did not see five times its peak.
    pub fn missed_share(&self) -> f64 {
        self.overload.missed as f64 / (self.overload.offered_per_s * self.length_s)
    }

    /// Good answers under overload to those of the peak.
    pub fn goodput_vs_peak(&self) -> f64 {
        self.overload.goodput_per_s / self.peak.goodput_per_s
    }

    /// The node's largest resident set during overload to that before.
    pub fn rss_growth(&self) -> f64 {
        self.used[1].rss_max_mib / self.used[0].rss_max_mib
    }
}

/// Measures a node of its own.
///
/// # Errors
/// Where it does not come up, or ends.
pub async fn run(dir: &Path, node: &NodeOf, rules: Rules) -> anyhow::Result<Overload> {
    let (pop, requests) = node.start(dir).await?;
    let clients = Clients::open(&pop.server()?, requests, rules.connections).await?;
    let (tries, best) = search(&clients).await?;
    let (holds, peak) = held(&clients, best, rules.peak).await?;
    say(&format!("  peak:     {}", peak.line()));
    anyhow::ensure!(peak.good > 0, "not one good answer: {:?}", clients.errors());
    let half = Phase { rate: peak.goodput_per_s / 2.0, length: AROUND };
    let over = Phase { rate: peak.goodput_per_s * TIMES, length: rules.length };
    let Watched { samples, looks, node_p99_ms } = watched(&pop, &clients, half, over).await?;
    let ends = [AROUND, AROUND + over.length, AROUND * 2 + over.length];
    let tally = |from, to| Tally::of(&samples, from..to);
    let windows_before_ms = windows(&samples, SETTLING..ends[0], WINDOW);
    let windows_after_ms = windows(&samples, ends[1]..ends[2], WINDOW);
    let normal_ms = normal_ms(&windows_before_ms);
    let overload = Overload {
        length_s: rules.length.as_secs_f64(),
        connections: rules.connections,
        tries,
        holds,
        node_p99_ms,
        before: tally(SETTLING, ends[0]),
        overload: tally(ends[0], ends[1]),
        after: tally(ends[1], ends[2]),
        peak,
        recovery_s: recovery(&windows_after_ms, normal_ms)
            .map(|windows| WINDOW.as_secs_f64() * windows as f64),
        windows_before_ms,
        windows_after_ms,
        normal_ms,
        used: [(SETTLING, ends[0]), (ends[0], ends[1]), (ends[1], ends[2])]
            .map(|(from, to)| Used::of(&looks, from, to)),
        errors: clients.errors(),
    };
    say(&format!("  before:   {}", overload.before.line()));
    say(&format!("  overload: {}", overload.overload.line()));
    say(&format!("  after:    {}", overload.after.line()));
    pop.deployment.check()?;
    pop.stop().await?;
    Ok(overload)
}

struct Watched {
    samples: Vec<Sample>,
    looks: Vec<Look>,
    node_p99_ms: Option<f64>,
}

/// Half, overload, half; the node is looked at meanwhile.
async fn watched(pop: &Pop, clients: &Arc<Clients>, half: Phase, over: Phase) -> anyhow::Result<Watched> {
    let node = *pop.process_ids().first().context("the node has ended")?;
    let stop = CancellationToken::new();
    let looking = watch(node, stop.clone());
    let (admin, begun) = (pop.deployment.admin(NodeId(1))?, Instant::now());
    let counted = tokio::spawn(async move {
        tokio::time::sleep_until(begun + half.length).await;
        let before = Durations::of(&admin).await;
        tokio::time::sleep_until(begun + half.length + over.length).await;
        Some(Durations::of(&admin).await.ok()?.since(&before.ok()?).p99_ms())
    });
    let samples = drive(clients, &[half, over, half], &stop).await?;
    stop.cancel();
    Ok(Watched { samples, looks: looking.await?, node_p99_ms: counted.await?.flatten() })
}

/// Holds the best rate, and lower ones until one is borne.
async fn held(clients: &Arc<Clients>, best: f64, length: Duration) -> anyhow::Result<(Vec<Tally>, Tally)> {
    let (mut holds, mut rate): (Vec<Tally>, f64) = (Vec::new(), best);
    while holds.len() < HOLDS_MAX {
        let tally = hold(clients, rate, length).await?;
        let borne = tally.goodput_per_s >= tally.offered_per_s * BORNE;
        holds.push(tally);
        if borne {
            break;
        }
        rate /= STEP.sqrt();
    }
    let peak = holds.iter().max_by(|a, b| a.goodput_per_s.total_cmp(&b.goodput_per_s));
    let peak = peak.context("nothing was held")?.clone();
    Ok((holds, peak))
}

/// Holds one rate; its beginning does not count.
async fn hold(clients: &Arc<Clients>, rate: f64, length: Duration) -> anyhow::Result<Tally> {
    let phase = Phase { rate, length: length + TRY_BEGINNING };
    let samples = drive(clients, &[phase], &CancellationToken::new()).await?;
    Ok(Tally::of(&samples, TRY_BEGINNING..phase.length))
}

/// The rate with the most good answers a second: up in steps, then a half step to both sides of the best.
async fn search(clients: &Arc<Clients>) -> anyhow::Result<(Vec<Tally>, f64)> {
    let (mut tries, mut best): (Vec<Tally>, (f64, f64)) = (Vec::new(), (FIRST_PER_S, 0.0));
    let (mut rate, mut worse) = (FIRST_PER_S, 0);
    while worse < WORSE_MAX && tries.len() < TRIES_MAX {
        let tried = hold(clients, rate, TRY).await?;
        worse = if tried.goodput_per_s > best.1 * BETTER { 0 } else { worse + 1 };
        best = better(best, rate, &tried);
        tries.push(tried);
        rate *= STEP;
    }
    let middle = best.0;
    for rate in [middle / STEP.sqrt(), middle * STEP.sqrt()] {
        let tried = hold(clients, rate, TRY).await?;
        best = better(best, rate, &tried);
        tries.push(tried);
    }
    Ok((tries, best.0))
}

fn better(best: (f64, f64), rate: f64, tried: &Tally) -> (f64, f64) {
    if tried.goodput_per_s > best.1 { (rate, tried.goodput_per_s) } else { best }
}

/// What is normal after such windows.
fn normal_ms(before: &[Option<f64>]) -> f64 {
    let mut before: Vec<f64> = before.iter().map(|p99| p99.unwrap_or(f64::INFINITY)).collect();
    before.sort_by(f64::total_cmp);
    let median = before.get(before.len() / 2).copied().filter(|p99| p99.is_finite());
    (median.unwrap_or(0.0) * NORMAL_TIMES).max(NORMAL_MS)
}

/// Windows until the end of the first of some in a row that are all normal.
fn recovery(after: &[Option<f64>], normal_ms: f64) -> Option<usize> {
    let normal = |p99: &Option<f64>| p99.is_some_and(|p99| p99 <= normal_ms);
    let first = after.windows(NORMAL_IN_A_ROW).position(|row| row.iter().all(normal));
    first.map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovered_is_when_it_stays_normal() {
        let fine = Some(8.0);
        assert_eq!(recovery(&[fine, fine, fine], 10.0), Some(1));
        assert_eq!(recovery(&[None, fine, Some(30.0), fine, fine, fine], 10.0), Some(4));
        assert_eq!(recovery(&[None, fine, fine], 10.0), None);
    }

    #[test]
    fn normal_is_twice_the_median_and_never_less_than_chance() {
        assert!((normal_ms(&[Some(15.0), Some(30.0), None]) - 60.0).abs() < 1e-9);
        assert!((normal_ms(&[Some(1.0), Some(2.0), Some(3.0)]) - NORMAL_MS).abs() < 1e-9);
        assert!((normal_ms(&[None, None, Some(3.0)]) - NORMAL_MS).abs() < 1e-9);
    }
}
