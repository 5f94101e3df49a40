//! `rockpool-chaos`: breaks Rockpool, and sees whether its promises hold.
//!
//! ```sh
//! cargo run -p chaos -- fuzz --seed 1 --count 300
//! ```

mod entropy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use chaos::{fuzz, planted, power, sim};
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
    /// Simulate one seed, in this process, and print its outcome as JSON
    Simulate {
        /// The seed
        #[arg(long)]
        seed: u64,
        /// Print everything that happens
        #[arg(long)]
        trace: bool,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::Fuzz { seed, count, jobs, json } => {
            let report = fuzz::run(&fuzz::Options { seed, count, jobs, planted: None })?;
            print(&report.to_string());
            if let Some(path) = json {
                let text = serde_json::to_vec_pretty(&report)?;
                std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
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
        Command::Simulate { seed, trace } => {
            entropy::seed(seed);
            let _planted = fail::FailScenario::setup();
            let outcome = sim::run(&sim::Options { seed, trace })?;
            print(&serde_json::to_string(&outcome)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command answers on its standard output")]
fn print(text: &str) {
    println!("{text}");
}
