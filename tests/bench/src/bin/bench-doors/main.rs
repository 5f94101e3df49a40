//! `make bench-doors`: what a node does when it is asked for five times what it can bear, and when ten thousand connections are held
//! at its doors to do harm. A PoP of one node with the real models and visitors; the node has a core to itself.
//!
//! | module | what it is |
//! |---|---|
//! | [`overload`], [`slow`] | the two parts |
//! | [`load`], [`tally`] | load over bounded connections, what became of it |
//! | [`hostile`] | connections that are held to do harm |
//! | [`cores`], [`watch`] | who runs where, what the node holds meanwhile |
//! | [`report`] | table, JSON |

mod cores;
mod hostile;
mod load;
mod overload;
mod report;
mod slow;
mod tally;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bench::http;
use bench::machine::Machine;
use bench::pop::Pop;
use bench::work::Work;
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use rockpool::commands::{say, write_json};

use crate::cores::Cores;
use crate::overload::{MISSED_MAX, Overload};
use crate::report::{Detail, Report};
use crate::tally::DEADLINE;

/// Open files beside connections.
const OTHER_FILES: usize = 512;
/// Connections of good clients that come while hostile ones are held.
const NEWCOMERS_MAX: usize = 64;

/// Measures a node under overload, and with hostile connections at its doors.
#[derive(Debug, Parser)]
struct Arguments {
    /// Half as long: figures are rougher.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    only: Vec<Part>,
    /// Connections of the overload.
    #[arg(long, default_value_t = 2_000)]
    connections: usize,
    /// Hostile connections.
    #[arg(long, default_value_t = 10_000)]
    hostile: usize,
    /// A setting of the node that is not the default, to see what it would change: `clients.in_flight_max=64`.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Where data lies while it is measured. Default: the system's temporary folder.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write what was measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The models' folder.
    #[arg(long, default_value = "models/onnx")]
    models: PathBuf,
}

/// Parts of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Five times the peak.
    Overload,
    /// Hostile connections.
    Slow,
}

impl Part {
    const ALL: [Part; 2] = [Part::Overload, Part::Slow];
}

#[expect(clippy::print_stderr, reason = "errors are for people")]
fn main() -> ExitCode {
    match prepared(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Divides the cores before there is any other thread, so that all keep to them. One thread is the generator: it hands nothing over.
fn prepared(arguments: Arguments) -> anyhow::Result<bool> {
    let root = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let (machine, cores) = (Machine::look(&root)?, Cores::divide()?);
    cores.keep_to_generator()?;
    let files = arguments.hostile.max(arguments.connections) + NEWCOMERS_MAX + OTHER_FILES;
    service::resources::open_files(files as u64);
    let settings = arguments.settings.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(arguments, &root, Detail::new(machine, cores, settings)))
}

async fn run(arguments: Arguments, root: &Path, mut detail: Detail) -> anyhow::Result<bool> {
    let folder = tempfile::Builder::new().prefix("bench-doors-").tempdir_in(root)?;
    let work = Work::read(&arguments.models)?;
    let seconds = |whole: u64| Duration::from_secs(if arguments.quick { whole.div_ceil(2) } else { whole });
    let node = NodeOf { work, cores: detail.cores.clone(), settings: read(&arguments.settings)? };
    if arguments.only.contains(&Part::Overload) {
        say("five times the peak:");
        let rules =
            overload::Rules { connections: arguments.connections, length: seconds(15), peak: seconds(5) };
        let overload = overload::run(&folder.path().join("overload"), &node, rules).await;
        detail.overload = kept("overload", overload, &mut detail.failed);
        let missed = detail.overload.as_ref().map_or(0.0, Overload::missed_share);
        if missed > MISSED_MAX {
            let why = format!("overload: the generator did not get to {:.0} % of it", missed * 100.0);
            detail.failed.push(format!("{why}; others are at work on its core"));
        }
    }
    if arguments.only.contains(&Part::Slow) {
        say("hostile connections:");
        let rules = slow::Rules { hostile: arguments.hostile, alone: seconds(12), held: seconds(20) };
        let slow = slow::run(&folder.path().join("slow"), &node, rules).await;
        detail.slow = kept("slow", slow, &mut detail.failed);
    }
    let report = Report::new(detail);
    say(&report.text());
    write_json(arguments.json.as_deref(), &report)?;
    Ok(report.detail.failed.is_empty())
}

/// What a part came to. One that fails takes nothing of the other along, but the run is not good then.
fn kept<T>(part: &str, result: anyhow::Result<T>, failed: &mut Vec<String>) -> Option<T> {
    result.inspect_err(|error| failed.push(format!("{part}: {error:#}"))).ok()
}

/// How a part has its node.
struct NodeOf {
    work: Work,
    cores: Cores,
    settings: Vec<(String, toml::Value)>,
}

impl NodeOf {
    /// One on its core that knows the visitors, and what is asked for each.
    async fn start(&self, dir: &Path) -> anyhow::Result<(Pop, Vec<Bytes>)> {
        let Self { work, cores, settings } = self;
        let pop = Pop::start_through(dir, 1, work, settings.clone(), &cores.through()).await?;
        pop.track(work).await?;
        let (key, deadline_ms) = (Some(pop.deployment.app_key()), u32::try_from(DEADLINE.as_millis())?);
        let questions = work.questions(deadline_ms);
        let request = |body: &String| http::request("/v1/recommend", key, Some(body));
        let requests = questions.iter().map(request).collect();
        Ok((pop, requests))
    }
}

/// Settings as TOML has them.
fn read(settings: &[String]) -> anyhow::Result<Vec<(String, toml::Value)>> {
    let one = |setting: &String| {
        let (name, value) = setting.split_once('=').context("--set takes NAME=VALUE")?;
        let mut table: toml::Table = format!("value = {value}").parse()?;
        Ok((name.to_owned(), table.remove("value").context("--set takes NAME=VALUE")?))
    };
    settings.iter().map(one).collect()
}
