//! `make bench-raft`: how many durable writes a PoP of three nodes takes, beside etcd with three members, on this machine.
//!
//! | module | what it is |
//! |---|---|
//! | [`system`] | what both sides can do |
//! | [`pop`], [`etcd`] | the two sides |
//! | [`load`] | clients in a closed loop |
//! | [`report`] | medians, table, JSON |
//!
//! Only one side runs at a time, in a new folder each time, and sides take turns within every round.

mod etcd;
mod load;
mod pop;
mod report;
mod system;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bench::machine::Machine;
use bench::processes::cpu_s;
use clap::Parser;
use rockpool::commands::{parse_duration, say, write_json};

use crate::etcd::Etcd;
use crate::load::Times;
use crate::pop::Pop;
use crate::report::{Figures, Point, Report};
use crate::system::System;

/// Measures durable writes of a PoP of three nodes beside etcd with three members.
#[derive(Debug, Parser)]
struct Arguments {
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_value = "1,64,500")]
    clients: Vec<usize>,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each side is measured at each point in each round.
    #[arg(long = "for", default_value = "10s", value_parser = parse_duration)]
    length: Duration,
    /// How long to warm up before.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Where data lies while it is measured: a folder on a disk. Default: the system's temporary folder.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write what was measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "errors are for people")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<bool> {
    let dir = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let (machine, version) = (Machine::look(&dir)?, etcd_version().await?);
    let times = Times { warm_up: arguments.warm_up, length: arguments.length };
    let mut points: Vec<Point> = arguments
        .clients
        .iter()
        .map(|clients| Point { clients: *clients, rockpool: Vec::new(), etcd: Vec::new() })
        .collect();
    for round in 1..=arguments.rounds {
        for point in &mut points {
            let etcd = side::<Etcd>(&dir, point.clients, times).await?;
            let ours = side::<Pop>(&dir, point.clients, times).await?;
            say(&format!(
                "round {round}, {:>3} clients: etcd {:>6.0} writes/s, rockpool {:>6.0}",
                point.clients, etcd.writes_per_s, ours.writes_per_s
            ));
            point.etcd.push(etcd);
            point.rockpool.push(ours);
        }
    }
    let report = Report::new(machine, version, times.length.as_secs_f64(), points);
    say(&report.text());
    write_json(arguments.json.as_deref(), &report)?;
    Ok(report.is_good())
}

/// Starts one side in a new folder, measures it, and ends it.
async fn side<S: System>(dir: &Path, clients: usize, times: Times) -> anyhow::Result<Figures> {
    let folder = tempfile::Builder::new().prefix("bench-raft-").tempdir_in(dir)?;
    let system = S::start(folder.path()).await?;
    let processes = system.process_ids();
    let writers = system.writers(clients).await?;
    let before = system.counts().await?;
    let measured = load::run(writers, times, || cpu_s(&processes)).await?;
    let after = system.counts().await?;
    anyhow::ensure!(
        after.writes - before.writes >= measured.acknowledged,
        "{} writes were acknowledged, the leader holds {}",
        measured.acknowledged,
        after.writes - before.writes
    );
    system.stop().await?;
    drop(folder);
    settle().await?;
    Ok(Figures::of(&measured, before, after))
}

/// Writes out what one side has left behind, so that the other does not wait for it.
async fn settle() -> anyhow::Result<()> {
    let synced = tokio::process::Command::new("sync").status().await.context("cannot run sync")?;
    anyhow::ensure!(synced.success(), "sync ended with {synced}");
    Ok(())
}

async fn etcd_version() -> anyhow::Result<String> {
    let asked = tokio::process::Command::new("etcd").arg("--version").output().await;
    let output = asked.context("etcd is not here: apt-get install etcd-server")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().replace("Version: ", ""))
}
