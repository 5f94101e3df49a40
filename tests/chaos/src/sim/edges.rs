//! A thousand edges lose the cloud at the same moment, and find it again: without a stampede.
//!
//! Real: the edges' end of the uplink ([`edge_uplink::CloudLink`], with the settings of a node's defaults). Simulated: network and cloud.
//! Twice: the cloud's process starts again at once, and the cloud is away for an hour.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edge_node::config::Config;
use edge_uplink::CloudLink;
use proto::{NodeId, PopId};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use transport::memory::{MemoryDialer, Network};
use transport::{Dialer, Identity, Link, LinkError, Peer};

use super::cloud::{ADDRESS, Cloud, HOST};
use super::machine::reports;
use super::world::Watch;

/// Nodes of a PoP.
const POP_LEN: u64 = 3;
/// How long the cloud is away the second time.
const AWAY: Duration = Duration::from_secs(3_600);
/// How often the edges are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// In a tenth of a second no more than one in so many edges may come.
const PEAK_PART: u64 = 6;
/// All are back after this: the longest pause, a dial, and the time until a dead connection is noticed.
const BACK_WITHIN: Duration = Duration::from_secs(25);
/// Dials of one edge in an hour without a cloud, on average.
const DIALS_MAX: u64 = 600;

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Everything random follows from it, but for the edges' own jitter.
    pub seed: u64,
    /// How many edges.
    pub edges: u64,
    /// The cloud's process started again.
    pub restarted: Return,
    /// The cloud was away for an hour.
    pub away: Return,
    /// What was not as it must be.
    pub violations: Vec<String>,
}

/// How the edges came back.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Return {
    /// Dials while the cloud was not there.
    pub dials: u64,
    /// From the cloud's return until all edges were connected, in milliseconds.
    pub all_after_ms: u64,
    /// Most connections within a tenth of a second.
    pub peak: u64,
    /// Connections that were made until all were connected: one an edge, if none was made in vain.
    pub connections: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, back) in [("cloud restarted", &self.restarted), ("cloud away for an hour", &self.away)] {
            writeln!(
                f,
                "{what}: {} edges, {} dials in vain, all back after {} ms, at most {} in 100 ms, {} connections",
                self.edges, back.dials, back.all_after_ms, back.peak, back.connections
            )?;
        }
        self.violations.iter().try_for_each(|violation| writeln!(f, "{violation}"))?;
        write!(f, "{} violations, seed {}", self.violations.len(), self.seed)
    }
}

/// Counts dials, and when they came through.
#[derive(Debug, Clone)]
struct Counted {
    dialer: Arc<MemoryDialer>,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    dials: u64,
    connected: Vec<Instant>,
}

#[async_trait::async_trait]
impl Dialer for Counted {
    async fn dial(
        &self,
        address: &str,
        expect: &Peer,
        timeout: Duration,
    ) -> Result<Arc<dyn Link>, LinkError> {
        let lock = || self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        lock().dials += 1;
        let dialled = self.dialer.dial(address, expect, timeout).await;
        if dialled.is_ok() {
            lock().connected.push(Instant::now());
        }
        dialled
    }
}

struct Fleet {
    network: Network,
    cloud: Cloud,
    links: Vec<CloudLink>,
    counts: Arc<Mutex<Counts>>,
}

/// Simulates it. Call it once in a process.
///
/// # Errors
/// Where the edges cannot be set up.
pub fn run(seed: u64, edges: u64) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(simulate(seed, edges))
}

async fn simulate(seed: u64, edges: u64) -> anyhow::Result<Report> {
    let fleet = Fleet::start(seed, edges)?;
    fleet.cloud.start()?;
    fleet.back().await;
    // They do not know each other, and have been connected for different times.
    sleep(Duration::from_secs(60)).await;
    let mut report = Report { seed, edges, ..Report::default() };
    report.restarted = fleet.lose(Duration::from_millis(500)).await?;
    report.away = fleet.lose(AWAY).await?;
    for (what, back) in [("restarted", &report.restarted), ("away", &report.away)] {
        let mut expect = |holds: bool, wrong: String| {
            if !holds {
                report.violations.push(format!("{what}: {wrong}"));
            }
        };
        expect(back.peak * PEAK_PART <= edges, format!("{} of {edges} edges came at once", back.peak));
        let within = u128::from(back.all_after_ms) <= BACK_WITHIN.as_millis();
        expect(within, format!("it took {} ms until all were back", back.all_after_ms));
        expect(back.dials <= edges * DIALS_MAX, format!("{} dials in vain", back.dials));
        expect(back.connections <= edges, format!("{} connections for {edges} edges", back.connections));
    }
    Ok(report)
}

impl Fleet {
    fn start(seed: u64, edges: u64) -> anyhow::Result<Self> {
        let network = Network::new(seed);
        let cloud = Cloud::new(seed, network.clone(), Watch::new(false));
        let counts: Arc<Mutex<Counts>> = Arc::default();
        let mut links = Vec::new();
        for edge in 0..edges {
            let pop = PopId::new(format!("pop-{}", edge / POP_LEN))?;
            let identity = Identity::Node { pop, node: NodeId(edge % POP_LEN + 1) };
            let dialer = Arc::new(network.dialer(&format!("edge-{edge}"), Some(identity)));
            let dialer = Arc::new(Counted { dialer, counts: counts.clone() });
            let mut config = Config::load(None)?.uplink;
            config.cloud = ADDRESS.to_owned();
            let link =
                CloudLink::new(config, dialer, edge_uplink::Metrics::new(&prometheus::Registry::new())?);
            let held = link.clone();
            tokio::spawn(async move { held.run(reports(), CancellationToken::new()).await });
            links.push(link);
        }
        Ok(Self { network, cloud, links, counts })
    }

    /// Waits until all edges are connected.
    async fn back(&self) {
        while !self.links.iter().all(CloudLink::is_connected) {
            sleep(LOOK_EVERY).await;
        }
    }

    /// The cloud dies, and is back after a while.
    async fn lose(&self, away: Duration) -> anyhow::Result<Return> {
        let lock = || self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *lock() = Counts::default();
        self.network.kill(HOST);
        sleep(away).await;
        let (dials, since) = (lock().dials, Instant::now());
        self.cloud.start()?;
        // Those who have not noticed yet that their connection is dead are not back.
        while lock().connected.len() < self.links.len() {
            sleep(LOOK_EVERY).await;
        }
        self.back().await;
        let all_after_ms = u64::try_from(since.elapsed().as_millis())?;
        let connected = lock().connected.clone();
        let within = |from: &Instant| {
            connected.iter().filter(|at| **at >= *from && **at < *from + Duration::from_millis(100)).count()
        };
        let peak = connected.iter().map(within).max().unwrap_or(0) as u64;
        Ok(Return { dials, all_after_ms, peak, connections: connected.len() as u64 })
    }
}
