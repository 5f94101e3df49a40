//! `make bench-peers`: Rockpool's recommendations, its transport and its cache beside what a user would pick instead, each doing the
//! same work with the same ONNX files, catalog and visitors, on the same cores, in one run.
//!
//! | module | what it is |
//! |---|---|
//! | [`bench::work`], [`bench::pop`], [`bench::http`] | what everybody is asked, Rockpool, a lean client |
//! | [`sdk`], [`fastapi`] | Rockpool through the SDK, and what is usually built |
//! | [`load`], [`search`], [`race`] | load in one form, the highest rate, the race |
//! | [`bare`] | the models alone |
//! | [`quic`] | raw quinn |
//! | [`cache`] | cache hits beside nginx and Varnish |
//! | [`child`] | child processes |
//! | [`report`] | table, JSON |

mod bare;
mod cache;
mod child;
mod fastapi;
mod load;
mod quic;
mod race;
mod report;
mod sdk;
mod search;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bench::machine::Machine;
use clap::{Parser, Subcommand, ValueEnum};
use rockpool::commands::{say, write_json};

use crate::fastapi::Python;
use crate::race::Rules;
use crate::report::{Detail, Report};
use crate::search::Limits;
use bench::pop::Pop;
use bench::work::Work;

/// Measures Rockpool beside FastAPI, the bare models, raw quinn, nginx and Varnish.
#[derive(Debug, Parser)]
struct Arguments {
    /// Two minutes instead of seven: figures are rougher.
    #[arg(long)]
    quick: bool,
    /// Only these parts; what needs another is not reported.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    only: Vec<Part>,
    /// Connections of the race.
    #[arg(long, default_value_t = 2_000)]
    connections: usize,
    /// Where data lies while it is measured. Default: the system's temporary folder.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write what was measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The models' folder.
    #[arg(long, default_value = "models/onnx")]
    models: PathBuf,
    /// Where the Python packages of tests/bench/fastapi/requirements.txt are.
    #[arg(long, default_value = "python")]
    python: PathBuf,
    /// tests/bench/fastapi.
    #[arg(long, default_value = "tests/bench/fastapi")]
    app: PathBuf,
    #[command(subcommand)]
    child: Option<AsChild>,
}

/// What this program does as its own child.
#[derive(Debug, Subcommand)]
enum AsChild {
    /// Serves the echo on raw quinn.
    #[command(hide = true)]
    Echo(quic::Echo),
}

/// Parts of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Recommendations beside FastAPI.
    Race,
    /// The models in a bare loop.
    Bare,
    /// Raw quinn.
    Quic,
    /// Cache hits beside nginx and Varnish.
    Cache,
}

impl Part {
    const ALL: [Part; 4] = [Part::Race, Part::Bare, Part::Quic, Part::Cache];
}

/// How long everything takes.
struct Times {
    rules: Rules,
    bare: Duration,
    quic: Duration,
    cache: Duration,
    cache_rounds: u32,
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "errors are for people")]
async fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let done = match arguments.child.take() {
        Some(AsChild::Echo(echo)) => quic::serve(echo).await.map(|()| true),
        None => run(arguments).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<bool> {
    let root = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("bench-peers-").tempdir_in(&root)?;
    // Peers that do not work as root come through to their sockets; secrets have modes of their own.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711))?;
    let machine = Machine::look(&root)?;
    let (dir, work, times) = (folder.path(), Work::read(&arguments.models)?, Times::of(&arguments)?);
    let python = Python {
        packages: arguments.python.canonicalize().context("the Python packages are not there: --python")?,
        app: arguments.app.canonicalize().context("tests/bench/fastapi is not there: --app")?,
    };
    let asked = |part: Part| arguments.only.contains(&part);
    let mut detail = Detail { machine, race: None, bare: None, quic: None, cache: None, failed: Vec::new() };
    if asked(Part::Race) {
        let race = race::run(dir, &python, &work, &times.rules).await;
        detail.race = kept("race", race, &mut detail.failed);
    }
    if asked(Part::Bare) {
        say("the models in a bare loop …");
        let bare = tokio::task::block_in_place(|| bare::run(&work, times.bare));
        detail.bare = kept("bare", bare, &mut detail.failed);
    }
    if asked(Part::Quic) {
        say("raw quinn …");
        let quic = quic(dir, &work, times.quic).await;
        detail.quic = kept("quic", quic, &mut detail.failed);
    }
    if asked(Part::Cache) {
        say("cache hits beside nginx and Varnish:");
        let cache = cache::measure(dir, &work, times.cache_rounds, times.cache).await;
        detail.cache = kept("cache", cache, &mut detail.failed);
    }
    let report = Report::new(detail);
    say(&report.text());
    write_json(arguments.json.as_deref(), &report)?;
    Ok(report.is_good())
}

/// What a part came to. One that fails takes nothing of the others along, but the run is not good then.
fn kept<T>(part: &str, result: anyhow::Result<T>, failed: &mut Vec<String>) -> Option<T> {
    result
        .inspect_err(|error| {
            say(&format!("{part} failed: {error:#}"));
            failed.push(format!("{part}: {error:#}"));
        })
        .ok()
}

async fn quic(dir: &Path, work: &Work, length: Duration) -> anyhow::Result<quic::Overhead> {
    let dir = dir.join("quic");
    let pop = Pop::start(&dir.join("pop"), 1, work, Vec::new()).await?;
    pop.track(work).await?;
    let overhead = quic::measure(&dir, &pop, work, length).await?;
    pop.stop().await?;
    Ok(overhead)
}

impl Times {
    fn of(arguments: &Arguments) -> anyhow::Result<Self> {
        let (cores, quick) = (std::thread::available_parallelism()?.get(), arguments.quick);
        let seconds = |whole: f64, short: f64| Duration::from_secs_f64(if quick { short } else { whole });
        let rules = Rules {
            connections: arguments.connections,
            limits: Limits { probe: seconds(4.0, 2.0), search: seconds(50.0, 14.0) },
            equal: seconds(10.0, 4.0),
            workers: if quick { vec![cores] } else { vec![cores, cores + 1, cores * 2] },
            three_nodes: !quick,
        };
        Ok(Self {
            rules,
            bare: seconds(5.0, 2.0),
            quic: seconds(10.0, 3.0),
            cache: seconds(3.0, 1.5),
            cache_rounds: if quick { 1 } else { 3 },
        })
    }
}
