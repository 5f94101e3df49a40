//! Many seeds, each in a process of its own: what one does cannot touch the next, and a seed gives the same run whoever runs it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use crate::invariants::Violation;
use crate::sim::{FAULTS, Outcome};

/// A seed that takes longer hangs, and that is a violation.
const SEED_WITHIN: Duration = Duration::from_secs(60);
/// The same without the cloud, for days of virtual time.
const AWAY_WITHIN: Duration = Duration::from_secs(300);
/// How often a child is looked at.
const POLL: Duration = Duration::from_millis(2);
/// How often progress is said.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// A run of fewer seeds need not have met every kind of fault.
const COVERS_ALL_FROM: u64 = 100;
/// Failing seeds that are listed.
const FAILING_MAX: usize = 50;
/// Bytes of an outcome that are read.
const OUTCOME_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The first seed.
    pub seed: u64,
    /// How many.
    pub count: u64,
    /// How many at once; none: as many as there are cores.
    pub jobs: Option<usize>,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The first seed.
    pub seed: u64,
    /// Seeds that were run.
    pub seeds: u64,
    /// Facts that were checked.
    pub operations: u64,
    /// The same, by kind.
    pub checked: BTreeMap<String, u64>,
    /// Faults that took effect, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Kinds of fault that never took effect, although so many seeds claim to cover them.
    pub uncovered: Vec<String>,
    /// Seeds that broke a promise, and the first promise each broke.
    pub failing: Vec<(u64, Violation)>,
    /// How many broke one.
    pub violations: u64,
    /// SHA-256 of a seed's event log, for those that failed.
    pub logs: BTreeMap<u64, String>,
    /// Seconds it took.
    pub seconds: f64,
}

impl Report {
    /// No promise was broken, and every kind of fault took effect.
    pub fn passed(&self) -> bool {
        self.violations == 0 && self.uncovered.is_empty()
    }

    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        for (kind, count) in outcome.checked {
            self.operations += count;
            *self.checked.entry(kind).or_default() += count;
        }
        for (kind, count) in outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        if let Some(first) = outcome.violations.first() {
            self.violations += 1;
            if self.failing.len() < FAILING_MAX {
                self.failing.push((outcome.seed, first.clone()));
                self.logs.insert(outcome.seed, outcome.log);
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (seed, violation) in &self.failing {
            writeln!(
                f,
                "seed {seed}: {} at {} ms: {}\n  again: rockpool-chaos simulate --seed {seed} --trace",
                violation.invariant, violation.at_ms, violation.what
            )?;
        }
        for kind in &self.uncovered {
            writeln!(f, "no fault of kind {kind:?} took effect: this run has not covered it")?;
        }
        let list = |counts: &BTreeMap<String, u64>| {
            let counts: Vec<_> = counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            counts.join(", ")
        };
        writeln!(f, "checked: {}", list(&self.checked))?;
        writeln!(f, "faults: {}", list(&self.faults))?;
        write!(
            f,
            "{} violations, {} seeds, {} operations, {} faults in {:.0} s",
            self.violations,
            self.seeds,
            self.operations,
            self.faults.values().sum::<u64>(),
            self.seconds
        )
    }
}

/// Runs all seeds. Says the first seed before anything else, and how far it is while it runs.
///
/// # Errors
/// Where this program cannot be started again.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let program = std::env::current_exe().context("this program has no path")?;
    let jobs = options.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    say(&format!("seed {}, {} seeds, {jobs} at once", options.seed, options.count));
    let (next, report) = (AtomicU64::new(0), Mutex::new(Report { seed: options.seed, ..Report::default() }));
    let (began, said) = (Instant::now(), Mutex::new(Instant::now()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= options.count {
                return;
            }
            let seed = options.seed.wrapping_add(at);
            let outcome = simulate(&program, seed, None);
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.add(outcome);
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.elapsed() >= PROGRESS_EVERY {
                *said = Instant::now();
                let left = began.elapsed().as_secs_f64() / report.seeds as f64
                    * options.count.saturating_sub(report.seeds) as f64;
                say(&format!(
                    "{} of {} seeds, {} violations, about {left:.0} s left",
                    report.seeds, options.count, report.violations
                ));
            }
        }
    };
    thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.failing.sort_by_key(|(seed, _)| *seed);
    report.seconds = began.elapsed().as_secs_f64();
    if options.count >= COVERS_ALL_FROM {
        let missing = FAULTS.iter().filter(|(_, name)| !report.faults.contains_key(*name));
        report.uncovered = missing.map(|(_, name)| (*name).to_owned()).collect();
    }
    Ok(report)
}

/// Runs one seed in a process of its own. One that does not end well is a violation as well.
pub fn simulate(program: &Path, seed: u64, planted: Option<&str>) -> Outcome {
    let mut command = Command::new(program);
    command.args(["simulate", "--seed", &seed.to_string()]).env_remove("FAILPOINTS");
    if let Some(bug) = planted {
        command.env("FAILPOINTS", format!("{bug}=return"));
    }
    outcome(seed, command, SEED_WITHIN)
}

/// The same without the cloud, for so many hours of virtual time.
pub fn without_cloud(program: &Path, seed: u64, hours: u64) -> Outcome {
    let mut command = Command::new(program);
    let (seed_word, hours) = (seed.to_string(), hours.to_string());
    command.args(["simulate", "--seed", &seed_word, "--away", &hours]).env_remove("FAILPOINTS");
    outcome(seed, command, AWAY_WITHIN)
}

fn outcome(seed: u64, mut command: Command, within: Duration) -> Outcome {
    let broken = |what: String| Outcome {
        seed,
        log: String::new(),
        checked: BTreeMap::new(),
        faults: BTreeMap::new(),
        violations: vec![Violation { invariant: "the run itself".to_owned(), what, at_ms: 0 }],
    };
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).env("RUST_BACKTRACE", "0");
    match command.spawn().map_err(|error| error.to_string()).and_then(|child| finish(child, within)) {
        Ok(text) => serde_json::from_str(&text).unwrap_or_else(|error| broken(format!("{error}: {text}"))),
        Err(what) => broken(what),
    }
}

fn finish(mut child: Child, within: Duration) -> Result<String, String> {
    let began = Instant::now();
    let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        thread::spawn(move || {
            let mut text = String::new();
            drop(pipe.map(|pipe| pipe.take(OUTCOME_BYTES_MAX).read_to_string(&mut text)));
            text
        })
    };
    let out = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if began.elapsed() > within => {
                // It may have ended this very moment.
                drop(child.kill());
                drop(child.wait());
                return Err(format!("it did not end within {} s", within.as_secs()));
            }
            Ok(None) => wait(),
            Err(error) => return Err(error.to_string()),
        }
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    if status.success() { Ok(out) } else { Err(format!("it ended with {status}: {}", err.trim())) }
}

#[expect(clippy::disallowed_methods, reason = "the standard library tells of a child's end only when asked")]
fn wait() {
    thread::sleep(POLL);
}

#[expect(clippy::print_stderr, reason = "progress is for whoever waits")]
fn say(line: &str) {
    eprintln!("{line}");
}
