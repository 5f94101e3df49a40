//! Chaos runs of real processes: a cloud and three nodes, relays between them, clients at their doors, faults from a seed, and the
//! oracle of the simulation.
//!
//! | module | what |
//! |---|---|
//! | `stage` | the deployment, and the relays where its processes meet |
//! | `client` | closed-loop clients with unique serials |
//! | `kinds` | the kinds of fault |
//! | `faults` | the schedule: signals, relays, changes of members, upgrades, disks |
//! | `ailing` | a disk that is full, or does not sync |
//! | `gear` | what nodes are started with: binary, disk, namespace, planted bug |
//! | `members` | what admins ask: hand over, join, leave |
//! | [`namespaces`] | each node in a network namespace of its own |
//! | `look` | a node's own word, again and again |
//! | `judge` | has it healed, is everything everywhere, once, and in an order that explains what clients saw |
//! | `watch` | oracle, clock and directory of a run |
//! | [`failover`] | how long writes wait for the next leader |
//!
//! Processes and their timing are not deterministic: a seed gives the same faults, not the same run.

mod ailing;
mod client;
pub mod failover;
mod faults;
mod gear;
mod judge;
mod kinds;
mod look;
mod members;
pub mod namespaces;
mod stage;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::invariants::{Violation, Visitor};
use crate::linear::Verdicts;
use client::Client;
use faults::Schedule;
pub use gear::Gear;
use kinds::{Fault, kinds};
use stage::Stage;
use watch::Watch;

/// Clients of a run.
const CLIENTS: u64 = 6;
/// The number of the client that proves that nodes take writes.
const PROVER: u64 = 99;
/// From so many seconds of faults, over all runs, every kind is claimed.
const COVERS_ALL_FROM_S: u64 = 600;
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
    /// What nodes are started with.
    pub gear: Gear,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    /// Visitors whose history was searched for an order, those whom several clients wrote, and operations in them.
    pub histories: (u64, u64, u64),
    /// Writes that nobody was told of, resolved by what the cloud held in the end.
    pub resolved: u64,
    /// Visitors for whom the search was not decided within its limits, with the run's seed: that is no pass.
    pub undecided: Vec<(u64, Visitor)>,
    /// From which binary to which nodes were upgraded.
    pub upgrade: String,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// No promise was broken, nothing was left undecided, and every kind of fault that is claimed took effect.
    pub fn passed(&self) -> bool {
        let sound = self.violations.is_empty() && self.undecided.is_empty();
        sound && self.uncovered.is_empty() && self.runs > 0
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
        for (seed, visitor) in self.undecided.iter().take(SHOWN_MAX) {
            writeln!(
                f,
                "seed {seed}: it is not known whether what clients saw of visitor {visitor} is linearizable"
            )?;
        }
        let list = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(f, "checked: {}", list(&self.checked))?;
        writeln!(f, "faults: {}", list(&self.faults))?;
        writeln!(f, "{}", self.upgrade)?;
        let (keys, shared, operations) = self.histories;
        writeln!(
            f,
            "histories: {operations} operations on {keys} visitors ({shared} of several clients) searched for an order, {} \
             writes of unknown outcome resolved, {} undecided",
            self.resolved,
            self.undecided.len()
        )?;
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
    verdicts: Verdicts,
    error: Option<String>,
}

/// Runs them all; says how far it is after each.
///
/// # Errors
/// Where the options make no sense.
pub async fn run(options: Options) -> anyhow::Result<Report> {
    anyhow::ensure!(options.at_once > 0, "at least one run at once");
    let (began, mut claimed) = (Instant::now(), BTreeSet::new());
    let mut report = Report { upgrade: options.gear.upgrade(), ..Report::default() };
    let (mut next, mut running) = (0, JoinSet::new());
    loop {
        while next < options.runs && running.len() < options.at_once {
            running.spawn(one(options.seed.wrapping_add(next), options.seconds, options.gear.clone()));
            next += 1;
        }
        let Some(ended) = running.join_next().await else { break };
        let outcome = ended?;
        let seed = outcome.seed;
        claimed.extend(outcome.injected.iter().copied());
        let known = report.violations.len();
        report.add(outcome);
        for (seed, Violation { invariant, what, at_ms }) in &report.violations[known..] {
            say(&format!("seed {seed}: {invariant} at {at_ms} ms: {what}"));
        }
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
        claimed.extend(kinds(&options.gear));
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
        let Verdicts { keys, operations, shared, resolved, broken, undecided } = outcome.verdicts;
        self.histories.0 += keys;
        self.histories.1 += shared;
        self.histories.2 += operations;
        self.resolved += resolved;
        self.undecided.extend(undecided.into_iter().map(|visitor| (outcome.seed, visitor)));
        for (visitor, why) in broken {
            let (invariant, what) =
                ("linearizable_histories".to_owned(), format!("visitor {visitor}: {why}"));
            self.violations.push((outcome.seed, Violation { invariant, what, at_ms: 0 }));
        }
        if let Some(what) = outcome.error {
            let invariant = "the run itself".to_owned();
            self.violations.push((outcome.seed, Violation { invariant, what, at_ms: 0 }));
        }
    }
}

/// One run. Whatever ends it early is an error of the run, not of the whole.
async fn one(seed: u64, seconds: u64, gear: Gear) -> Outcome {
    let watch = Watch::default();
    let (mut schedule, within) = (Schedule::new(seed), Duration::from_secs(seconds) + RUN_WITHIN);
    let acted = tokio::time::timeout(within, act(seed, seconds, gear, &watch, &mut schedule)).await;
    let (verdicts, error) = match acted {
        Ok(Ok(verdicts)) => (verdicts, None),
        Ok(Err(error)) => (Verdicts::default(), Some(format!("{error:#}"))),
        Err(_) => (Verdicts::default(), Some(format!("it did not end within {} s", within.as_secs()))),
    };
    Outcome { seed, watch, injected: schedule.injected.iter().copied().collect(), verdicts, error }
}

async fn act(
    seed: u64,
    seconds: u64,
    gear: Gear,
    watch: &Watch,
    schedule: &mut Schedule,
) -> anyhow::Result<Verdicts> {
    let folder = tempfile::tempdir()?;
    let staged = Stage::start(folder.path(), seed, gear, watch.clone()).await;
    let acted = match staged {
        Ok(stage) => perform(stage, seed, seconds, schedule).await,
        Err(error) => Err(error),
    };
    let kept = acted.as_ref().is_ok_and(|verdicts| verdicts.broken.is_empty()) && watch.end();
    if !kept && std::env::var_os("ROCKPOOL_CHAOS_KEEP").is_some() {
        say(&format!("seed {seed}: its folder is kept: {}", folder.keep().display()));
    }
    acted
}

async fn perform(
    mut stage: Stage,
    seed: u64,
    seconds: u64,
    schedule: &mut Schedule,
) -> anyhow::Result<Verdicts> {
    let (stop, mut clients) = (CancellationToken::new(), JoinSet::new());
    for number in 1..=CLIENTS {
        let client = Client::new(number, seed, stage.way.clone(), stage.watch.clone());
        clients.spawn(client.run(stop.clone()));
    }
    let mut prover = Client::new(PROVER, seed, stage.way.clone(), stage.watch.clone());

    schedule.chaos(&mut stage, Instant::now() + Duration::from_secs(seconds)).await?;
    schedule.end(&mut stage).await?;
    // Nobody waits for one that has ended by itself.
    stage.deployment.check()?;
    judge::heal(&stage, &mut prover).await;
    prover.give_up();
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        anyhow::ensure!(ended?, "a client's last write was never acknowledged");
    }
    let verdicts = judge::judge(&stage).await?;
    for (kind, count) in stage.relayed() {
        stage.watch.fault(&Fault::Network(kind).name(), count);
    }
    stage.deployment.stop().await?;
    Ok(verdicts)
}

#[expect(clippy::print_stderr, reason = "progress is for whoever waits")]
fn say(line: &str) {
    eprintln!("{line}");
}
