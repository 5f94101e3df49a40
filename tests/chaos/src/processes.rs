//! Chaos runs of real processes: a cloud and three nodes, relays between them, clients at their doors, faults from a seed, and the
//! oracle of the simulation.
//!
//! | module | what |
//! |---|---|
//! | `stage` | the deployment, and the relays where its processes meet |
//! | `client` | closed-loop clients with unique serials |
//! | `faults` | the schedule: signals, relays, changes of members |
//! | `look` | a node's own word, again and again |
//! | `judge` | has it healed, is everything everywhere, once |
//! | `watch` | oracle, clock and directory of a run |
//! | [`failover`] | how long writes wait for the next leader |
//!
//! Processes and their timing are not deterministic: a seed gives the same faults, not the same run.

mod client;
pub mod failover;
mod faults;
mod judge;
mod look;
mod stage;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::invariants::Violation;
use client::Client;
use faults::{ALL, Fault, Schedule};
use stage::Stage;
use watch::Watch;

/// Clients of a run.
const CLIENTS: u64 = 6;
/// The number of the client that proves that nodes take writes.
const PROVER: u64 = 99;
/// From so many seconds of faults, over all runs, every kind is claimed.
const COVERS_ALL_FROM_S: u64 = 120;
/// How long one run may take beyond its faults.
const RUN_WITHIN: Duration = Duration::from_secs(480);
/// Violations that are shown.
const SHOWN_MAX: usize = 20;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The first run's; the others follow.
    pub seed: u64,
    /// How many.
    pub runs: u64,
    /// How long faults are injected in each, in seconds.
    pub seconds: u64,
    /// How many at once.
    pub at_once: usize,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Runs that ended, well or not.
    pub runs: u64,
    /// Facts that were checked.
    pub operations: u64,
    /// The same by kind.
    pub checked: BTreeMap<String, u64>,
    /// Faults that took effect, by kind: each signal or change, each datagram.
    pub faults: BTreeMap<String, u64>,
    /// Kinds that were claimed, and did not take effect.
    pub uncovered: Vec<String>,
    /// What was broken, with the run's seed.
    pub violations: Vec<(u64, Violation)>,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// No promise was broken, and every kind of fault that is claimed took effect.
    pub fn passed(&self) -> bool {
        self.violations.is_empty() && self.uncovered.is_empty() && self.runs > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (seed, violation) in self.violations.iter().take(SHOWN_MAX) {
            let Violation { invariant, what, at_ms } = violation;
            writeln!(f, "seed {seed}: {invariant} at {at_ms} ms: {what}")?;
        }
        for kind in &self.uncovered {
            writeln!(f, "no fault of kind {kind:?} took effect: this run has not covered it")?;
        }
        let list = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(f, "checked: {}", list(&self.checked))?;
        writeln!(f, "faults: {}", list(&self.faults))?;
        write!(
            f,
            "{} violations, {} runs of processes, {} operations in {:.0} s",
            self.violations.len(),
            self.runs,
            self.operations,
            self.seconds
        )
    }
}

/// What came of one run.
struct Outcome {
    seed: u64,
    watch: Watch,
    injected: BTreeSet<Fault>,
    error: Option<String>,
}

/// Runs them all; says how far it is after each.
///
/// # Errors
/// Where the options make no sense.
pub async fn run(options: Options) -> anyhow::Result<Report> {
    anyhow::ensure!(options.at_once > 0, "at least one run at once");
    let (began, mut report, mut claimed) = (Instant::now(), Report::default(), BTreeSet::new());
    let (mut next, mut running) = (0, JoinSet::new());
    loop {
        while next < options.runs && running.len() < options.at_once {
            running.spawn(one(options.seed.wrapping_add(next), options.seconds));
            next += 1;
        }
        let Some(ended) = running.join_next().await else { break };
        let outcome = ended?;
        let seed = outcome.seed;
        claimed.extend(outcome.injected.iter().copied());
        report.add(outcome);
        say(&format!(
            "{} of {} runs (seed {seed}), {} operations, {} violations, {:.0} s",
            report.runs,
            options.runs,
            report.operations,
            report.violations.len(),
            began.elapsed().as_secs_f64()
        ));
    }
    if options.runs * options.seconds >= COVERS_ALL_FROM_S {
        claimed.extend(ALL);
    }
    let names = claimed.into_iter().map(Fault::name);
    report.uncovered = names.filter(|name| report.faults.get(name).is_none_or(|n| *n == 0)).collect();
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

impl Report {
    fn add(&mut self, outcome: Outcome) {
        let (checked, faults, violations) = outcome.watch.outcome();
        self.runs += 1;
        for (kind, count) in checked {
            self.operations += count;
            *self.checked.entry(kind).or_default() += count;
        }
        for (kind, count) in faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.violations.extend(violations.into_iter().map(|violation| (outcome.seed, violation)));
        if let Some(what) = outcome.error {
            let invariant = "the run itself".to_owned();
            self.violations.push((outcome.seed, Violation { invariant, what, at_ms: 0 }));
        }
    }
}

/// One run. Whatever ends it early is an error of the run, not of the whole.
async fn one(seed: u64, seconds: u64) -> Outcome {
    let watch = Watch::default();
    let (mut schedule, within) = (Schedule::new(seed), Duration::from_secs(seconds) + RUN_WITHIN);
    let acted = tokio::time::timeout(within, act(seed, seconds, &watch, &mut schedule)).await;
    let error = match acted {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some(format!("it did not end within {} s", within.as_secs())),
    };
    Outcome { seed, watch, injected: schedule.injected.iter().copied().collect(), error }
}

async fn act(seed: u64, seconds: u64, watch: &Watch, schedule: &mut Schedule) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let acted = perform(folder.path(), seed, seconds, watch, schedule).await;
    let kept = acted.is_ok() && watch.end();
    if !kept && std::env::var_os("ROCKPOOL_CHAOS_KEEP").is_some() {
        say(&format!("seed {seed}: its folder is kept: {}", folder.keep().display()));
    }
    acted
}

async fn perform(
    dir: &std::path::Path,
    seed: u64,
    seconds: u64,
    watch: &Watch,
    schedule: &mut Schedule,
) -> anyhow::Result<()> {
    let mut stage = Stage::start(dir, seed, watch.clone()).await?;
    let (stop, mut clients) = (CancellationToken::new(), JoinSet::new());
    for number in 1..=CLIENTS {
        let client = Client::new(number, seed, stage.way.clone(), watch.clone());
        clients.spawn(client.run(stop.clone()));
    }
    let mut prover = Client::new(PROVER, seed, stage.way.clone(), watch.clone());

    schedule.chaos(&mut stage, Instant::now() + Duration::from_secs(seconds)).await?;
    schedule.end(&mut stage).await?;
    judge::heal(&stage, &mut prover).await;
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        anyhow::ensure!(ended?, "a client's last write was never acknowledged");
    }
    judge::judge(&stage).await?;
    for (kind, count) in stage.relayed() {
        watch.fault(&Fault::Network(kind).name(), count);
    }
    stage.deployment.stop().await
}

#[expect(clippy::print_stderr, reason = "progress is for whoever waits")]
fn say(line: &str) {
    eprintln!("{line}");
}
