//! `rockpool bench`: a whole deployment on this machine under an open-loop load, the generator on the same cores.
//!
//! Two things are measured at once: how long recommendations take, and how long it takes until what a visitor did on one
//! node is visible in that visitor's next answer on another.

mod visible;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dataset::ReadOptions;
use serde::Serialize;

use super::up::{connect, replay};
use super::{parse_duration, say, write_json};
use crate::load::{self, Figures, Plan};
use crate::local::{Deployment, Options, Overrides};
use crate::publish;
use crate::table::{ms, table, thousands};

const READY_WITHIN: Duration = Duration::from_secs(120);

/// What to measure.
#[derive(Debug, Args)]
pub struct Bench {
    /// Connected clients, each with a QUIC connection of its own.
    #[arg(long, default_value_t = 2000)]
    clients: usize,
    /// Recommendations a second.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// For how long, after the warm-up.
    #[arg(long = "for", default_value = "30s", value_parser = parse_duration)]
    length: Duration,
    /// How long to warm up.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    warm_up: Duration,
    /// One answer of so many is clicked, and its items are confirmed as seen; 0: none.
    #[arg(long, default_value_t = 50)]
    click_every: u64,
    /// Write what was measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The models' folder.
    #[arg(long, default_value = "models/onnx")]
    models: PathBuf,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Json {
    machine: Machine,
    clients: usize,
    rate_per_s: f64,
    items: u16,
    engine: String,
    recommend: Figures,
    served_by: Vec<(String, u64)>,
    error_kinds: Vec<(String, u64)>,
    visible: Figures,
    events_acknowledged: u64,
}

#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    cpu: String,
}

/// Runs it. `Ok(false)`: some requests failed.
pub async fn run(command: Bench) -> anyhow::Result<bool> {
    let data = dataset::open(dataset::ML_100K, &ReadOptions::default())?;
    let dir = std::env::temp_dir().join(format!("rockpool-bench-{}", std::process::id()));
    say("starting a cloud and 3 edge nodes …");
    let deployment =
        Deployment::start(Options { dir: dir.clone(), nodes: 3, overrides: Overrides::default() }).await?;
    publish::publish(&deployment.control()?, publish::artifacts(&data, &command.models)?, "rockpool bench")
        .await?;
    deployment.until_ready(READY_WITHIN).await?;
    say(&format!("connecting {} clients …", command.clients));
    let clients = connect(&deployment, command.clients).await?;
    let visitors = replay(&clients[..30.min(clients.len())], &data).await?;

    let plan = |length: Duration| Plan {
        rate: command.rate,
        length,
        count: 10,
        deadline: Duration::from_secs(2),
        click_every: command.click_every,
        impressions: true,
    };
    say(&format!("warming up for {} s …", command.warm_up.as_secs()));
    load::run(&plan(command.warm_up), &clients, &visitors).await?;
    say(&format!("measuring for {} s …", command.length.as_secs()));
    let (measuring, probing) = (plan(command.length), visible::probe(&deployment, command.length));
    let (measured, visible) = tokio::try_join!(load::run(&measuring, &clients, &visitors), probing)?;

    let pops = deployment.control()?.pops().await?;
    let engine = pops.iter().flat_map(|pop| &pop.nodes).map(|node| node.report.engine.clone()).next();
    let json = Json {
        machine: machine(),
        clients: clients.len(),
        rate_per_s: command.rate,
        items: measuring.count,
        engine: engine.unwrap_or_default(),
        recommend: measured.figures(),
        served_by: measured.served_by.clone(),
        error_kinds: [measured.error_kinds.clone(), visible.error_kinds.clone()].concat(),
        visible: visible.figures(),
        events_acknowledged: clients.iter().map(|c| c.stats()).map(|s| s.accepted + s.duplicates).sum(),
    };
    say(&text(&json));
    write_json(command.json.as_deref(), &json)?;
    let good = measured.errors + visible.errors == 0;
    drop(clients);
    deployment.stop().await?;
    std::fs::remove_dir_all(&dir)?;
    Ok(good)
}

fn text(json: &Json) -> String {
    let row = |name: &str, figures: &Figures, bar: &str| {
        vec![
            name.to_owned(),
            thousands(figures.requests),
            figures.errors.to_string(),
            format!("{:.0}", figures.answers_per_s),
            ms(figures.mean_us as u64),
            ms(figures.p50_us),
            ms(figures.p99_us),
            ms(figures.p999_us),
            ms(figures.max_us),
            bar.to_owned(),
        ]
    };
    let rows = [
        row("recommend", &json.recommend, "mean < 10 ms, p99 < 50 ms"),
        row("track → visible on another node", &json.visible, "p99 < 100 ms"),
    ];
    let head = ["", "requests", "errors", "per s", "mean", "p50", "p99", "p99.9", "max", "bar"];
    let served: Vec<String> =
        json.served_by.iter().map(|(by, n)| format!("{} {by}", thousands(*n))).collect();
    format!(
        "\n{} cores, {}; {} connected clients, open loop at {} recommendations/s, {} items each; everything on this \
         machine, the generator too; models run in {}\n\n{}\n\nserved by: {}{}",
        json.machine.cores,
        json.machine.cpu,
        thousands(json.clients as u64),
        json.rate_per_s,
        json.items,
        json.engine,
        table(&head, &rows),
        served.join(", "),
        json.error_kinds.iter().map(|(kind, n)| format!("\n{n} × {kind}")).collect::<String>(),
    )
}

fn machine() -> Machine {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    Machine {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        cpu: model.map_or("unknown processor", |(_, name)| name).to_owned(),
    }
}
