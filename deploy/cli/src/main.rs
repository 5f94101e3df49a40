//! `rockpool`: the command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dataset::arguments;
use rockpool::commands::{
    admin, bench, check, events, history, keys, models, rollout, rules, status, up, visitor,
};

/// Personalisation that runs where the users are.
///
/// Start with `rockpool up`: a cloud and a PoP of three edge nodes on this machine, with real data.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole deployment on this machine and see it at work.
    Up(up::Up),
    /// Show PoPs, leaders, lag, revision, model versions and queue depths.
    Status(status::Status),
    /// Publish, list and roll back bundles.
    #[command(subcommand)]
    Bundle(admin::Bundle),
    /// See how far bundles have come; promote or stop the one on trial.
    #[command(subcommand)]
    Rollout(rollout::Rollout),
    /// Go on after a cloud was restored from a backup.
    #[command(subcommand)]
    Cloud(admin::Recovery),
    /// Count the events that the cloud holds, or export them.
    Events(events::Events),
    /// Give visitors their past.
    #[command(subcommand)]
    History(history::History),
    /// Block lists, caps, diversity, new items: show the rules in force, or set others.
    #[command(subcommand)]
    Rules(rules::Rules),
    /// Erase a visitor, or export what is known of one.
    #[command(subcommand)]
    Visitor(visitor::Visitor),
    /// Enrol and revoke nodes; let them join and leave a PoP; hand leadership over.
    #[command(subcommand)]
    Node(admin::Node),
    /// Make the deployment's certificates.
    #[command(subcommand)]
    Pki(keys::Pki),
    /// Make an app key.
    AppKey(keys::AppKey),
    Train(arguments::Train),
    Evaluate(arguments::Evaluate),
    /// Measure latency under load.
    Bench(bench::Bench),
    /// Try a pure part of the system on inputs of your own, without a deployment (see `rockpool check --help`).
    Check(check::Check),
}

#[expect(clippy::print_stderr, reason = "errors are for people")]
fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Pki(command) => keys::pki(command).map(|()| true),
        Command::AppKey(command) => keys::app_key(command).map(|()| true),
        Command::Check(command) => check::run(&command).map(|()| true),
        Command::Train(_) | Command::Evaluate(_) => models::run().map(|()| true),
        asynchronous => in_runtime(asynchronous),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn in_runtime(command: Command) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Up(command) => up::run(command).await,
            Command::Bench(command) => bench::run(command).await,
            Command::Status(command) => status::run(command).await.map(|()| true),
            Command::Bundle(command) => admin::bundle(command).await.map(|()| true),
            Command::Rollout(command) => rollout::run(command).await.map(|()| true),
            Command::Cloud(command) => admin::recovery(command).await.map(|()| true),
            Command::Events(command) => events::run(command).await.map(|()| true),
            Command::History(command) => history::run(command).await.map(|()| true),
            Command::Visitor(command) => visitor::run(command).await,
            Command::Rules(command) => rules::run(command).await.map(|()| true),
            Command::Node(command) => admin::node(command).await.map(|()| true),
            Command::Pki(_)
            | Command::AppKey(_)
            | Command::Check(_)
            | Command::Train(_)
            | Command::Evaluate(_) => {
                unreachable!("handled without a runtime")
            }
        }
    })
}
