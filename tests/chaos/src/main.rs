//! `rockpool-chaos`: breaks Rockpool, and sees whether its promises hold.
//!
//! ```sh
//! cargo run -p chaos -- all
//! cargo run -p chaos -- fuzz --seed 1 --count 300
//! cargo run -p chaos -- processes --seed 1 --runs 10 --seconds 30 --at-once 2
//! cargo run -p chaos -- failover --kills 100
//! ```

mod entropy;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chaos::processes::namespaces::{self, Made, Namespaces};
use chaos::processes::{self, Gear, failover};
use chaos::{fuzz, planted, power, sim, whole};
use clap::{Parser, Subcommand};

/// Breaks Rockpool in every way that its neighbours in the field have been broken, and sees whether its promises hold.
#[derive(Debug, Parser)]
#[command(name = "rockpool-chaos", version, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Simulate many seeds, each in a process of its own, and say which promises were broken
    Fuzz {
        /// The first seed; the others follow it
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds
        #[arg(long, default_value_t = 100)]
        count: u64,
        /// How many at once [default: the number of cores]
        #[arg(long)]
        jobs: Option<usize>,
        /// Write the summary to this file, as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Switch on planted bugs, one after the other, and see that each is caught
    Planted {
        /// The first seed tried on each
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Cut the power of real stores on recorded disks, and see that nothing acknowledged is lost
    PowerCuts {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many cuts
        #[arg(long, default_value_t = 100)]
        count: u64,
    },
    /// Run deployments of real processes under faults, and say which promises were broken. ROCKPOOL_CHAOS_KEEP=1 keeps the
    /// folders of runs that failed
    Processes(Processes),
    /// Everything for long: power cuts, process runs (some in network namespaces, where root is had), simulated seeds; with one sum
    All(All),
    /// Measure how long writes wait for the next leader
    Failover {
        /// How often the leader goes
        #[arg(long, default_value_t = 100)]
        kills: u32,
        /// How it goes
        #[arg(long, value_enum, default_value_t = failover::How::Kill)]
        how: failover::How,
        /// Write the figures to this file, as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Let simulated edges lose the cloud at once and find it again, and see that they do not come all together
    Edges {
        /// The seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many edges
        #[arg(long, default_value_t = 1_000)]
        edges: u64,
    },
    /// Simulate one seed, in this process, and print its outcome as JSON
    Simulate {
        /// The seed
        #[arg(long)]
        seed: u64,
        /// Print everything that happens
        #[arg(long)]
        trace: bool,
        /// Take the cloud away right after the start, for so many hours of virtual time, while nodes fail
        #[arg(long, value_name = "HOURS")]
        away: Option<u64>,
    },
}

#[derive(Debug, clap::Args)]
struct Processes {
    /// The first run's seed; the others follow it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many runs
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// How long faults are injected in each, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How many runs at once; in namespaces one
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// Start nodes with this edge-node, and upgrade them under load (tests/chaos/previous.sh builds one)
    #[arg(long)]
    previous: Option<PathBuf>,
    /// Give all nodes this bug: a name of tests/chaos/src/planted.rs
    #[arg(long)]
    planted: Option<String>,
    /// Each node in a network namespace of its own. Takes root and iproute2; skipped where they are missing
    #[arg(long)]
    namespaces: bool,
    /// For the program itself: the namespaces in whose hub it was started
    #[arg(long, hide = true)]
    inside: Option<String>,
    /// Write the summary to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct All {
    /// The first seed of each part
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// Power cuts
    #[arg(long, default_value_t = 1_000)]
    cuts: u64,
    /// Process runs
    #[arg(long, default_value_t = 100)]
    runs: u64,
    /// Process runs in network namespaces, besides
    #[arg(long, default_value_t = 4)]
    namespaced: u64,
    /// How long faults are injected in each process run, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How many process runs at once
    #[arg(long, default_value_t = 6)]
    at_once: usize,
    /// Start the nodes of process runs with this edge-node, and upgrade them under load
    #[arg(long)]
    previous: Option<PathBuf>,
    /// Write the summary to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::Fuzz { seed, count, jobs, json } => {
            let report = fuzz::run(&fuzz::Options { seed, count, jobs })?;
            print(&report.to_string());
            write_json(json, &report)?;
            Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Planted { seed } => {
            let report =
                planted::run(seed, |bug| print(&format!("{}: {:?} {:?}", bug.bug, bug.seeds, bug.by)))?;
            print(&report.to_string());
            let all = report.caught() == report.bugs.len();
            Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::PowerCuts { seed, count } => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let report = runtime.block_on(power::run(seed, count, |report| print(&report.to_string())))?;
            print(&report.to_string());
            let shown = report.is_clean() && report.missing().is_empty();
            Ok(if shown { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Processes(asked) => in_processes(asked),
        Command::All(asked) => all(asked),
        Command::Failover { kills, how, json } => {
            log_to_stderr();
            let figures = real(failover::measure(failover::Options { times: kills, how }))?;
            print(&figures.to_string());
            write_json(json, &figures)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Edges { seed, edges } => {
            entropy::seed(seed);
            let report = sim::edges::run(seed, edges)?;
            print(&report.to_string());
            Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Simulate { seed, trace, away } => {
            // On a thread of its own: what is seeded is drawn by threads, and a log is not to change the run.
            std::thread::spawn(log_to_stderr).join().map_err(|_| anyhow::anyhow!("no log"))?;
            entropy::seed(seed);
            let _planted = fail::FailScenario::setup();
            let outcome = sim::run(&sim::Options {
                seed,
                trace,
                away: away.map(|hours| Duration::from_secs(hours * 3_600)),
            })?;
            print(&serde_json::to_string(&outcome)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn in_processes(asked: Processes) -> anyhow::Result<ExitCode> {
    if asked.namespaces {
        let words = std::env::args_os().skip(1).filter(|word| word != "--namespaces");
        return match real(namespaces::run(|inside| {
            words.chain(["--inside".into(), inside.into()]).collect()
        }))? {
            Made::Ran(code) => Ok(code),
            Made::Skipped(why) => {
                print(&format!("skipped: there can be no network namespaces here: {why}"));
                Ok(ExitCode::SUCCESS)
            }
        };
    }
    log_to_stderr();
    let Processes { seed, runs, seconds, previous, planted, .. } = asked;
    let namespaces = asked.inside.map(Namespaces::enter).transpose()?;
    if namespaces.as_ref().is_some_and(|namespaces| !namespaces.netem()) {
        print(
            "this kernel has no netem: in these namespaces only cables are pulled, and the relays make the network bad",
        );
    }
    let at_once = if namespaces.is_some() { 1 } else { asked.at_once };
    let gear = Gear { previous: absolute(previous)?, namespaces, planted };
    let report = real(processes::run(processes::Options { seed, runs, seconds, at_once, gear }))?;
    print(&report.to_string());
    write_json(asked.json, &report)?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn all(asked: All) -> anyhow::Result<ExitCode> {
    log_to_stderr();
    let All { seed, seeds, cuts, runs, namespaced, seconds, at_once, previous, json } = asked;
    let gear = Gear { previous: absolute(previous)?, ..Gear::default() };
    let options = whole::Options { seed, seeds, cuts, runs, namespaced, seconds, at_once, gear };
    let report = whole::run(&options, print)?;
    print(&report.to_string());
    write_json(json, &report)?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Nodes start in folders of their own.
fn absolute(path: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    let found = |path: PathBuf| path.canonicalize().with_context(|| format!("no file {}", path.display()));
    path.map(found).transpose()
}

/// Runs what is about real processes, in real time.
fn real<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// What happens to processes, where RUST_LOG asks for it: `RUST_LOG=chaos=info`.
fn log_to_stderr() {
    let asked = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = asked.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn write_json(path: Option<PathBuf>, report: &impl serde::Serialize) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_vec_pretty(report)?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[expect(clippy::print_stdout, reason = "a command answers on its standard output")]
fn print(text: &str) {
    println!("{text}");
}
