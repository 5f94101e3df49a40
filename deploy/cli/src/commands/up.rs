//! `rockpool up`: a whole deployment on this machine, seen at work: film titles, a click that changes the next answer, a node
//! killed under load, and every event counted once.

mod demo;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use client_sdk::{Client, EventKind, UserId, VisitorId};
use dataset::arguments::MODELS;
use dataset::{Dataset, Source};
use proto::NodeId;
use proto::bundle::ArtifactKind;
use proto::control::PopView;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::commands::{parse_duration, say, status, write_json};
use crate::load::{self, Measured, Plan};
use crate::local::{Deployment, Options, Overrides};
use crate::publish;
use crate::table::{ms, thousands};
use report::{Model, Report};

/// How long nodes may take until they serve: on a busy machine, models are opened in every process.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long the cloud may take to hold every acknowledged event at the end.
const COUNTED_WITHIN: Duration = Duration::from_secs(60);
/// Load runs in slices, so that what people ask for happens in between.
const SLICE: Duration = Duration::from_secs(1);
/// Ratings of each visitor that are replayed before the load.
const REPLAYED_MAX: usize = 20;
/// Visitors of the load.
const VISITORS_MAX: usize = 200;

/// What to run.
#[derive(Debug, Args)]
pub struct Up {
    /// Run unattended for this long (20s, 2m …), killing and restarting a node on the way, then check the counts and end.
    #[arg(long = "for", value_parser = parse_duration)]
    length: Option<Duration>,
    /// Write what was measured to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep everything in this folder, and go on from what is there. Without it: a new temporary folder, removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Nodes of the PoP.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=5))]
    nodes: u64,
    /// Recommendations a second.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Connected clients.
    #[arg(long, default_value_t = 30)]
    clients: usize,
    /// Which data.
    #[command(flatten)]
    source: Source,
    /// The models' folder; `none`: no models, so that everybody gets popular items.
    #[arg(long, value_name = "FOLDER|none", default_value = MODELS)]
    models: PathBuf,
    /// With --for: do not kill a node.
    #[arg(long)]
    no_kill: bool,
}

/// Runs it. `Ok(false)`: it ran, but something failed or events are missing.
pub async fn run(command: Up) -> anyhow::Result<bool> {
    let interrupted = service::shutdown::on_signals()?;
    let (dir, temporary) = match &command.dir {
        Some(dir) => (dir.clone(), false),
        None => (std::env::temp_dir().join(format!("rockpool-up-{}", std::process::id())), true),
    };
    let outcome = in_dir(&command, dir.clone(), &interrupted).await;
    if temporary && outcome.as_ref().is_ok_and(|good| *good) {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    } else {
        say(&format!("logs and state are in {}", dir.display()));
    }
    outcome
}

/// How a browser of this machine comes to believe what the nodes show.
fn in_browsers(deployment: &Deployment) -> anyhow::Result<String> {
    let ports = deployment.ports().values().next().context("no node runs")?;
    let port = ports.clients.rsplit_once(':').map_or("443", |(_, port)| port);
    let ca = deployment.dir().join("pki/ca.pem");
    let ca = ca.display();
    Ok(format!(
        "over HTTPS: https://localhost:{port}/openapi.json, for curl with --cacert {ca}\n\
         in a browser, once that file is imported as an authority for websites. Chromium on Linux:\n  \
         certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n rockpool-up -i {ca}\n\
         Firefox: Settings, Certificates, Authorities, Import. Remove it afterwards: whoever has the folder can sign in its name\n"
    ))
}

async fn in_dir(
    command: &Up,
    dir: PathBuf,
    interrupted: &service::shutdown::Shutdown,
) -> anyhow::Result<bool> {
    // What is missing is said before anything is started.
    let data = publish::read(&command.source)?;
    let artifacts = publish::artifacts(&data, &command.models)?;
    let contents = publish::contents(&data, &artifacts)?;
    let began = Instant::now();
    say(&format!("starting a cloud and {} edge nodes in {} …", command.nodes, dir.display()));
    let options = Options { dir, nodes: command.nodes, overrides: Overrides::default() };
    let mut deployment = Deployment::start(options).await?;
    let models = models_of(&artifacts)?;
    let bundle = publish::publish(&deployment.control()?, artifacts, "rockpool up").await?;
    say(&format!("published bundle {}: {contents}", bundle.revision));
    deployment.until_ready(READY_WITHIN).await?;
    say(&format!("the PoP serves, {:.1} s after the start\n", began.elapsed().as_secs_f64()));
    say(&in_browsers(&deployment)?);

    let counted_before = deployment.control()?.event_counts().await?.total;
    let clients = connect(&deployment, command.clients).await?;
    let mut report = Report::new(began, command.length.is_none());
    report.models = models;
    report.answers = demo::show(&deployment, &clients[0], &data).await?;
    let visitors = replay(&clients, &data).await?;
    let length = command.length;
    drive(command, &mut deployment, &clients, &visitors, &mut report, length, interrupted).await?;
    finish(&mut deployment, &clients, counted_before, &mut report).await?;
    say(&report.table());
    write_json(command.json.as_deref(), &report.json())?;
    for client in &clients {
        client.close().await;
    }
    deployment.stop().await?;
    Ok(report.good())
}

/// The models that are published, by their cards.
fn models_of(artifacts: &[(ArtifactKind, Vec<u8>)]) -> anyhow::Result<Vec<Model>> {
    let cards = artifacts
        .iter()
        .filter(|(kind, _)| matches!(kind, ArtifactKind::RetrievalCard | ArtifactKind::RankerCard));
    cards.map(|(_, card)| serde_json::from_slice(card).context("a model's card is wrong")).collect()
}

/// Clients over all nodes; each keeps to its own and knows the others.
pub(crate) async fn connect(deployment: &Deployment, count: usize) -> anyhow::Result<Vec<Client>> {
    let (dialer, nodes) = (deployment.app_dialer()?, deployment.running());
    let mut clients = Vec::with_capacity(count);
    for number in 0..count {
        let mut order = nodes.clone();
        order.rotate_left(number % nodes.len());
        let config = deployment.client_config(&order[..1])?;
        clients.push(Client::connect_with(dialer.clone(), config).await.context("a client cannot connect")?);
    }
    Ok(clients)
}

/// Replays what visitors of the data set did last, so that the load asks for people with a past.
pub(crate) async fn replay(clients: &[Client], data: &Dataset) -> anyhow::Result<Vec<VisitorId>> {
    let by_visitor = data.by_visitor();
    let mut visitors = Vec::new();
    for (number, (visitor, rows)) in data.visitors.iter().zip(&by_visitor).take(VISITORS_MAX).enumerate() {
        let id = VisitorId::User(UserId::new(visitor.id.as_str())?);
        let identify = EventKind::Custom { name: "identify".into(), attributes: visitor.traits.clone() };
        let recent = rows[rows.len().saturating_sub(REPLAYED_MAX)..].iter().map(|row| {
            let interaction = &data.interactions[*row as usize];
            let item = data.items[interaction.item as usize].id.clone();
            (id.clone(), EventKind::Rating { item, stars: interaction.stars.unwrap_or(4.0) })
        });
        let events = std::iter::once((id.clone(), identify)).chain(recent).collect();
        clients[number % clients.len()]
            .track_all(events)
            .await
            .context("a visitor's past cannot be tracked")?;
        visitors.push(id);
    }
    for client in clients {
        client.flush(Duration::from_secs(30)).await.context("the visitors' past is not acknowledged")?;
    }
    Ok(visitors)
}

/// Runs the load, slice by slice, with what people (or the unattended plan) do to the nodes in between.
async fn drive(
    command: &Up,
    deployment: &mut Deployment,
    clients: &[Client],
    visitors: &[VisitorId],
    report: &mut Report,
    length: Option<Duration>,
    interrupted: &service::shutdown::Shutdown,
) -> anyhow::Result<()> {
    let plan = Plan {
        rate: command.rate,
        length: SLICE,
        count: 10,
        deadline: Duration::from_secs(1),
        click_every: 10,
        impressions: true,
    };
    if length.is_none() {
        say("type: kill N · start N · status · quit\n");
    }
    let mut lines = typed_lines()?;
    let began = Instant::now();
    let mut killed: Option<(NodeId, Instant)> = None;
    while !interrupted.is_cancelled() && length.is_none_or(|length| began.elapsed() < length) {
        let slice = load::run(&plan, clients, visitors).await?;
        progress(deployment, clients, &slice, began).await;
        report.measured.add(&slice)?;
        match length {
            Some(length) if !command.no_kill && deployment.ports().len() > 2 => {
                killed = unattended(deployment, report, began.elapsed(), length, killed).await?;
            }
            Some(_) => {}
            None => {
                // Lines that were typed meanwhile, if there are any.
                let mut go_on = true;
                while let Ok(line) = lines.try_recv() {
                    go_on &= attended(deployment, report, line.trim()).await?;
                }
                if !go_on {
                    break;
                }
            }
        }
    }
    if let Some((node, _)) = killed {
        restart(deployment, node)?;
    }
    Ok(())
}

/// What is typed, line by line. The thread ends with the process: a read of standard input cannot be cancelled.
fn typed_lines() -> anyhow::Result<mpsc::Receiver<String>> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::Builder::new().name("typed".to_owned()).spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(lines)
}

/// Kills the leader at a third of the time, and starts it again at two thirds.
async fn unattended(
    deployment: &mut Deployment,
    report: &mut Report,
    elapsed: Duration,
    length: Duration,
    killed: Option<(NodeId, Instant)>,
) -> anyhow::Result<Option<(NodeId, Instant)>> {
    match killed {
        None if report.killed.is_none() && elapsed > length / 3 => {
            let leader = deployment.leader().await?;
            kill(deployment, report, leader).await?;
            Ok(Some((leader, Instant::now())))
        }
        Some((node, at)) if at.elapsed() > length / 3 => {
            restart(deployment, node)?;
            Ok(None)
        }
        other => Ok(other),
    }
}

/// Does what was typed. False: quit.
async fn attended(deployment: &mut Deployment, report: &mut Report, line: &str) -> anyhow::Result<bool> {
    let node = |text: &str| {
        text.trim().parse().ok().map(NodeId).filter(|node| deployment.ports().contains_key(node))
    };
    match line.split_once(' ').unwrap_or((line, "")) {
        ("quit" | "q", _) => return Ok(false),
        ("status", _) => say(&status::screen(&deployment.control()?.pops().await?, status::now_ms())),
        ("kill", text) => match node(text).filter(|node| deployment.running().contains(node)) {
            Some(node) => kill(deployment, report, node).await?,
            None => say("kill which node? One that runs, for example: kill 2"),
        },
        ("start", text) => match node(text).filter(|node| !deployment.running().contains(node)) {
            Some(node) => restart(deployment, node)?,
            None => say("start which node? One that was killed, for example: start 2"),
        },
        ("", _) => {}
        _ => say("type: kill N · start N · status · quit"),
    }
    Ok(true)
}

async fn kill(deployment: &mut Deployment, report: &mut Report, node: NodeId) -> anyhow::Result<()> {
    deployment.kill_node(node).await?;
    report.killed = Some(node);
    say(&format!("  ── node {node} killed (SIGKILL) ──"));
    Ok(())
}

fn restart(deployment: &mut Deployment, node: NodeId) -> anyhow::Result<()> {
    deployment.start_node(node)?;
    say(&format!("  ── node {node} started again ──"));
    Ok(())
}

async fn progress(deployment: &Deployment, clients: &[Client], slice: &Measured, began: Instant) {
    let figures = slice.figures();
    let counted = match deployment.control() {
        Ok(control) => control.event_counts().await.map(|counts| thousands(counts.total)),
        Err(error) => Err(error),
    };
    let leader = deployment.leader().await.map_or("none".to_owned(), |node| format!("node {node}"));
    say(&format!(
        "{:>4.0} s  {:>4.0} answers/s  p50 {:>8}  p99 {:>8}  errors {}  events acknowledged {}  in the cloud {}  leader {leader}",
        began.elapsed().as_secs_f64(),
        figures.answers_per_s,
        ms(figures.p50_us),
        ms(figures.p99_us),
        figures.errors,
        thousands(acknowledged(clients)),
        counted.unwrap_or_else(|_| "?".to_owned()),
    ));
}

/// Events that nodes have acknowledged to these clients, each once.
fn acknowledged(clients: &[Client]) -> u64 {
    clients.iter().map(Client::stats).map(|stats| stats.accepted + stats.duplicates).sum()
}

/// Waits until every event is acknowledged, and counted in the cloud.
async fn finish(
    deployment: &mut Deployment,
    clients: &[Client],
    counted_before: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    say("\nwaiting until the cloud holds every acknowledged event …");
    for client in clients {
        client.flush(COUNTED_WITHIN).await.context("events are not acknowledged")?;
        let stats = client.stats();
        report.dead_letters += stats.dead_letters;
    }
    report.acknowledged = acknowledged(clients);
    let (wanted, control) = (report.acknowledged, deployment.control()?);
    let until = Instant::now() + COUNTED_WITHIN;
    loop {
        report.in_cloud = control.event_counts().await?.total - counted_before;
        if report.in_cloud >= wanted || Instant::now() > until {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A node that was started again has a moment to report itself.
    deployment.until_ready(READY_WITHIN).await?;
    let nodes = deployment.ports().len();
    let _ = deployment
        .until("all nodes report to the cloud", Duration::from_secs(10), async |this: &Deployment| {
            let pops = this.control()?.pops().await?;
            anyhow::ensure!(reporting(&pops) == nodes, "{} of {nodes} nodes report", reporting(&pops));
            Ok(())
        })
        .await;
    report.pops = control.pops().await?;
    Ok(())
}

fn reporting(pops: &[PopView]) -> usize {
    let now_ms = status::now_ms();
    let fresh = |node: &&proto::control::NodeView| now_ms.saturating_sub(node.seen_at_ms) < 3_000;
    pops.iter().flat_map(|pop| &pop.nodes).filter(fresh).filter(|node| node.report.revision.0 > 0).count()
}
