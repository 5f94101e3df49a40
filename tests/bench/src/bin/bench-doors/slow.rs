//! Connections that are held to do harm, and what good clients feel of them: those that are connected, and those that come.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bench::http::{Connection, Server};
use bench::pop::Pop;
use bytes::Bytes;
use proto::NodeId;
use rockpool::commands::say;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::NodeOf;
use crate::hostile::{Hostile, Plan, Told};
use crate::load::{Clients, Phase, drive};
use crate::tally::{Tally, quantile_ms};
use crate::watch::{Used, watch};

/// What good clients ask together, and over how many connections.
const RATE_PER_S: f64 = 300.0;
const CONNECTIONS: usize = 50;
/// The beginning does not count.
const SETTLING: Duration = Duration::from_secs(2);
/// How long the hostile connections may take until nearly all are held, and how many that is.
const HELD_WITHIN: Duration = Duration::from_secs(25);
const HELD_SHARE: f64 = 0.95;
const POLL: Duration = Duration::from_millis(100);
/// How often a good client comes that was not connected before.
const NEWCOMER_EVERY: Duration = Duration::from_millis(250);
/// QUIC handshakes begun a second and abandoned.
const INITIALS_PER_S: usize = 200;

/// How it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Hostile connections.
    pub hostile: usize,
    /// How long good clients are alone.
    pub alone: Duration,
    /// How long they are measured while the hostile connections are held.
    pub held: Duration,
}

/// Good clients that came.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Newcomers {
    /// Came.
    pub came: usize,
    /// Were not connected and answered within ten seconds.
    pub failed: usize,
    /// From coming to the first answer, of those who got one, in milliseconds: median.
    pub p50_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// Good clients in one phase.
#[derive(Debug, Clone, Serialize)]
pub struct Good {
    /// Those that were connected.
    pub connected: Tally,
    /// Those that came.
    pub newcomers: Newcomers,
    /// Of the node and the generator, hostile part included.
    pub used: Used,
}

/// What it came to.
#[derive(Debug, Clone, Serialize)]
pub struct Slow {
    /// Hostile connections that were meant to be held.
    pub hostile: usize,
    /// Good clients alone.
    pub alone: Good,
    /// While the hostile connections were opened.
    pub opening: Good,
    /// While they were held.
    pub held: Good,
    /// How long it took until nearly all were held, in seconds.
    pub opening_s: f64,
    /// Fewest and most that were held at a time while good clients were measured.
    pub held_min: usize,
    /// Most.
    pub held_max: usize,
    /// What they came to, by kind.
    pub by_kind: Vec<Told>,
    /// QUIC handshakes that were begun and abandoned.
    pub quic_initials: u64,
    /// Connections at its HTTP door as the node counted them at the end.
    pub node_counts: Option<f64>,
    /// How often which error came to good clients that were connected.
    pub errors: std::collections::BTreeMap<String, u64>,
}

impl Slow {
    /// p99 of good clients with hostile connections held, to that without. None: one of both was not served well.
    pub fn p99_ratio(&self) -> Option<f64> {
        let well =
            |good: &Good| (good.connected.failed + good.connected.refused) * 100 <= good.connected.good;
        let both = well(&self.alone) && well(&self.held);
        both.then_some(self.held.connected.p99_ms / self.alone.connected.p99_ms)
    }
}

/// When what began, since the load began.
struct Marks {
    alone: Duration,
    opening: Duration,
    held: Duration,
    end: Duration,
}

/// A newcomer: when it came, and how long it took until it was answered.
type Arrival = (Duration, Option<Duration>);

/// Measures a node of its own.
///
/// # Errors
/// Where it does not come up, or ends, or the attack fails.
pub async fn run(dir: &Path, node: &NodeOf, rules: Rules) -> anyhow::Result<Slow> {
    let (pop, requests) = node.start(dir).await?;
    let (server, request) = (pop.server()?, requests[0].clone());
    let clients = Clients::open(&server, requests, CONNECTIONS).await?;
    let node = *pop.process_ids().first().context("the node has ended")?;
    let (stop, started) = (CancellationToken::new(), Instant::now());
    let looking = watch(node, stop.clone());
    let coming = tokio::spawn(newcomers(server.clone(), request.clone(), started, stop.clone()));
    let length = SETTLING * 2 + rules.alone + rules.held + HELD_WITHIN;
    let load = tokio::spawn({
        let (clients, stop) = (Arc::clone(&clients), stop.clone());
        async move { drive(&clients, &[Phase { rate: RATE_PER_S, length }], &stop).await }
    });
    tokio::time::sleep(SETTLING + rules.alone).await;

    let opening = started.elapsed();
    let hostile = Hostile::begin(plan(&server, request, rules, length)?)?;
    until_held(&hostile, rules.hostile).await;
    let opened = started.elapsed();
    tokio::time::sleep(SETTLING).await;
    let marks =
        Marks { alone: SETTLING, opening, held: started.elapsed(), end: started.elapsed() + rules.held };
    let (held_min, held_max) = watch_held(&hostile, started + marks.end).await?;
    let (by_kind, quic_initials, node_counts) = (hostile.told(), hostile.initials(), counted(&pop).await);
    stop.cancel();
    hostile.end().await?;

    let (samples, looks, arrivals) = (load.await??, looking.await?, coming.await?);
    let good = |from: Duration, to: Duration| Good {
        connected: Tally::of(&samples, from..to),
        newcomers: Newcomers::of(&arrivals, from, to),
        used: Used::of(&looks, from, to),
    };
    let slow = Slow {
        hostile: rules.hostile,
        alone: good(marks.alone, marks.opening),
        opening: good(marks.opening, marks.held),
        held: good(marks.held, marks.end),
        opening_s: (opened - opening).as_secs_f64(),
        held_min,
        held_max,
        by_kind,
        quic_initials,
        node_counts,
        errors: clients.errors(),
    };
    say(&format!("  alone:    {}", slow.alone.connected.line()));
    say(&format!("  opening:  {}", slow.opening.connected.line()));
    say(&format!("  held:     {}", slow.held.connected.line()));
    pop.deployment.check()?;
    pop.stop().await?;
    Ok(slow)
}

fn plan(server: &Server, request: Bytes, rules: Rules, length: Duration) -> anyhow::Result<Plan> {
    Ok(Plan {
        target: server.address.parse()?,
        tls: server.tls.clone().context("the door speaks TLS")?,
        request,
        connections: rules.hostile,
        initials_per_s: INITIALS_PER_S,
        initials_for: length,
    })
}

/// Waits until nearly all are held; if that never comes about, the figures say so.
async fn until_held(hostile: &Hostile, wanted: usize) {
    let until = Instant::now() + HELD_WITHIN;
    let enough = (wanted as f64 * HELD_SHARE) as usize;
    while hostile.held() < enough && !hostile.has_ended() && Instant::now() < until {
        tokio::time::sleep(POLL).await;
    }
}

async fn watch_held(hostile: &Hostile, until: Instant) -> anyhow::Result<(usize, usize)> {
    let (mut min, mut max) = (usize::MAX, 0);
    while Instant::now() < until && !hostile.has_ended() {
        let held = hostile.held();
        (min, max) = (min.min(held), max.max(held));
        tokio::time::sleep(POLL).await;
    }
    Ok((min, max))
}

/// Connections at the HTTP door, as the node counts them.
async fn counted(pop: &Pop) -> Option<f64> {
    let page = pop.deployment.admin(NodeId(1)).ok()?.metrics().await.ok()?;
    let line = page.lines().find_map(|line| line.strip_prefix("rockpool_http_connections "));
    line?.trim().parse().ok()
}

/// A good client every now and then that was not connected before, until `stop`.
async fn newcomers(
    server: Server,
    request: Bytes,
    started: Instant,
    stop: CancellationToken,
) -> Vec<Arrival> {
    let (arrivals, tasks) = (Arc::new(Mutex::new(Vec::new())), TaskTracker::new());
    let mut ticks = tokio::time::interval(NEWCOMER_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let (server, request, arrivals) = (server.clone(), request.clone(), Arc::clone(&arrivals));
        tasks.spawn(async move {
            let came = Instant::now();
            let asked = async { Connection::open(&server).await?.ask(&request).await };
            let answered = asked.await.is_ok_and(|answer| answer.status == 200);
            let arrival = (came - started, answered.then(|| came.elapsed()));
            arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
        });
    }
    tasks.close();
    tasks.wait().await;
    std::mem::take(&mut *arrivals.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Newcomers {
    fn of(arrivals: &[Arrival], from: Duration, to: Duration) -> Self {
        let came: Vec<_> = arrivals.iter().filter(|(came, _)| (from..to).contains(came)).collect();
        let took: Vec<Duration> = came.iter().filter_map(|(_, took)| *took).collect();
        Self {
            came: came.len(),
            failed: came.len() - took.len(),
            p50_ms: quantile_ms(took.clone(), 0.5),
            max_ms: quantile_ms(took, 1.0),
        }
    }
}
