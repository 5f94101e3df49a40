//! Everything for long, and one sum: power cuts, process runs, process runs in network namespaces, simulated seeds, days without the
//! cloud, a thousand edges.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

use crate::power::cut::Losses;
use crate::processes::{self, Gear, namespaces};
use crate::sim::{self, edges};
use crate::{fuzz, power};

/// How often the cloud is away for [`AWAY_HOURS`] of virtual time.
const AWAY_RUNS: u64 = 3;
const AWAY_HOURS: u64 = 72;
/// Edges that lose the cloud at the same moment.
const EDGES: u64 = 1_000;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The first seed of each part.
    pub seed: u64,
    /// Simulated seeds.
    pub seeds: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Process runs.
    pub runs: u64,
    /// How many more in network namespaces, where they can be had.
    pub namespaced: u64,
    /// How long faults are injected in each, in seconds.
    pub seconds: u64,
    /// How many process runs at once.
    pub at_once: usize,
    /// What their nodes are started with.
    pub gear: Gear,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Power cuts.
    pub power: power::Report,
    /// Process runs.
    pub processes: processes::Report,
    /// Those in network namespaces; none: there were none, and the reason was said.
    pub namespaced: Option<processes::Report>,
    /// Simulated seeds.
    pub simulation: fuzz::Report,
    /// Days without the cloud.
    pub away: Vec<sim::Outcome>,
    /// Edges that come back.
    pub edges: edges::Report,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// No promise was broken, nothing is undecided, and every kind of fault that is claimed took effect.
    pub fn passed(&self) -> bool {
        let power = self.power.is_clean() && self.power.missing().is_empty();
        let plane = self.edges.violations.is_empty() && self.away.iter().all(|run| run.violations.is_empty());
        power && plane && self.runs().all(processes::Report::passed) && self.simulation.passed()
    }

    fn runs(&self) -> impl Iterator<Item = &processes::Report> {
        [&self.processes].into_iter().chain(&self.namespaced)
    }

    /// What was broken, or not decided.
    pub fn violations(&self) -> u64 {
        let of_runs =
            self.runs().map(|report| report.violations.len() + report.undecided.len()).sum::<usize>();
        let of_plane =
            self.edges.violations.len() + self.away.iter().map(|run| run.violations.len()).sum::<usize>();
        self.simulation.violations + (of_runs + of_plane + self.power.broken.len()) as u64
    }

    /// Facts that were checked, and acknowledged events that were looked for after power cuts.
    pub fn operations(&self) -> u64 {
        let of_runs = self.runs().map(|report| report.operations).sum::<u64>();
        let of_away = self.away.iter().flat_map(|run| run.checked.values()).sum::<u64>();
        self.simulation.operations + of_runs + of_away + self.power.acked
    }

    /// Faults that took effect, by kind, wherever it was.
    pub fn faults(&self) -> BTreeMap<&str, u64> {
        let Losses { lost, kept, torn, reordered, names } = self.power.losses;
        let mut faults = BTreeMap::from([
            ("power cut of all", self.power.all_at_once),
            ("power cut of one", self.power.one_of_three),
            ("unsynced data lost", lost),
            ("unsynced data kept", kept),
            ("write torn", torn),
            ("pages reordered", reordered),
            ("names lost", names),
        ]);
        let of_runs = self.runs().flat_map(|report| &report.faults);
        let of_away = self.away.iter().flat_map(|run| &run.faults);
        for (kind, count) in self.simulation.faults.iter().chain(of_runs).chain(of_away) {
            *faults.entry(kind).or_default() += count;
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.power)?;
        self.runs().try_for_each(|report| writeln!(f, "{report}\n"))?;
        for run in &self.away {
            let lost = run.violations.first().map_or("nothing", |first| first.what.as_str());
            writeln!(f, "{AWAY_HOURS} h without the cloud, seed {}: {lost} was broken", run.seed)?;
        }
        writeln!(f, "{}\n\n{}\n", self.edges, self.simulation)?;
        for kind in self.power.missing() {
            writeln!(f, "no power cut met {kind:?}: this run has not covered it")?;
        }
        let faults: Vec<_> = self.faults().iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        write!(
            f,
            "{} violations, {} seeds, {} process runs, {} power cuts, {} operations, {:.0} s, faults: {}",
            self.violations(),
            self.simulation.seeds,
            self.runs().map(|report| report.runs).sum::<u64>(),
            self.power.all_at_once + self.power.one_of_three,
            self.operations(),
            self.seconds,
            faults.join(", ")
        )
    }
}

/// Runs one part after the other. Each says how far it is.
///
/// # Errors
/// Where a part cannot be run at all: nothing was built, the options make no sense.
pub fn run(options: &Options, said: impl Fn(&str)) -> anyhow::Result<Report> {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let power =
        runtime.block_on(power::run(options.seed, options.cuts, |report| said(&report.to_string())))?;
    said(&power.to_string());
    let Options { seed, runs, seconds, at_once, .. } = *options;
    let of_processes = processes::Options { seed, runs, seconds, at_once, gear: options.gear.clone() };
    let processes = runtime.block_on(processes::run(of_processes))?;
    said(&processes.to_string());
    let namespaced = match options.namespaced {
        0 => None,
        runs => runtime.block_on(namespaced(runs, options, &said))?,
    };
    let program = std::env::current_exe().context("this program has no path")?;
    let away =
        (0..AWAY_RUNS).map(|at| fuzz::without_cloud(&program, seed.wrapping_add(at), AWAY_HOURS)).collect();
    let edges = edges::run(seed, EDGES)?;
    let simulation = fuzz::run(&fuzz::Options { seed, count: options.seeds, jobs: None })?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Report { power, processes, namespaced, simulation, away, edges, seconds })
}

/// Runs in namespaces are this program once more, and its report is a file.
async fn namespaced(
    runs: u64,
    options: &Options,
    said: &impl Fn(&str),
) -> anyhow::Result<Option<processes::Report>> {
    let file = tempfile::NamedTempFile::new()?;
    let made = namespaces::run(|inside| {
        let number = |number: u64| number.to_string().into();
        let mut words: Vec<OsString> = vec!["processes".into(), "--inside".into(), inside.into()];
        words.extend(["--seed".into(), number(options.seed), "--runs".into(), number(runs)]);
        words.extend(["--seconds".into(), number(options.seconds), "--json".into(), file.path().into()]);
        if let Some(previous) = &options.gear.previous {
            words.extend(["--previous".into(), previous.into()]);
        }
        words
    });
    match made.await? {
        namespaces::Made::Skipped(why) => {
            said(&format!("no runs in network namespaces, for there can be none here: {why}"));
            Ok(None)
        }
        namespaces::Made::Ran(_) => {
            let text = std::fs::read(file.path())?;
            serde_json::from_slice(&text).map(Some).context("the runs in network namespaces gave no report")
        }
    }
}
