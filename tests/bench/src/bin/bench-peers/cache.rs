//! Cache hits beside nginx and Varnish: the same bodies of one little origin, over HTTP/1.1 with TLS 1.3 (AES-128-GCM, the same
//! certificate) and keep-alive, on the same cores, one side at a time, taking turns within every round. Varnish speaks no TLS: hitch
//! stands before it, as its makers have it, joined by a Unix socket.
//!
//! Clients are in a closed loop, each with a connection: hits a second say how much a side can do where it is the processor that
//! bounds it. They share the cores with the side, so the ratios are nearer to 1 than those of CPU time a hit, which are reported
//! beside. Every hit is looked at: status and length. That they are hits is counted by the origin.

mod nginx;
mod origin;
mod varnish;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::processes::{Memory, families, families_cpu_s};
use bytes::Bytes;
use hdrhistogram::Histogram;
use rockpool::commands::say;
use rockpool::local::free_port;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::child::Child;
use bench::http::{self, Connection, Server};
use bench::pop::Pop;
use bench::work::Work;
use origin::Origin;

/// Different URLs of each size.
const URLS: usize = 300;
/// Bytes of their bodies.
const SIZES: [usize; 2] = [1024, 32 * 1024];
/// Clients.
const CLIENTS: usize = 64;
/// The origin's name in the settings of a node.
const ORIGIN: &str = "bench";
/// Highest latency that is told apart, in microseconds.
const HIGHEST_US: u64 = 10_000_000;

/// What all sides show and trust.
struct Identity {
    certificate: std::path::PathBuf,
    key: std::path::PathBuf,
    ca: std::path::PathBuf,
}

/// One side that runs.
struct Side {
    name: &'static str,
    server: Server,
    /// What stands before the origin's paths.
    prefix: String,
    /// First processes; their children count too.
    roots: Vec<u32>,
    /// Kept running.
    _children: Vec<Child>,
}

/// One side in one round, with one size of bodies.
#[derive(Debug, Clone, Serialize)]
pub struct Hits {
    /// Hits a second.
    pub hits_per_s: f64,
    /// Median latency in microseconds.
    pub p50_us: u64,
    /// 99 of 100 are faster.
    pub p99_us: u64,
    /// CPU microseconds a hit, of all processes of the side.
    pub cpu_us_per_hit: f64,
    /// Requests that came to the origin meanwhile: 0, if all were hits.
    pub misses: u64,
}

/// One size of bodies.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Size {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// By side, round by round.
    pub rounds: BTreeMap<&'static str, Vec<Hits>>,
}

/// What it came to.
#[derive(Debug, Clone, Serialize)]
pub struct Cache {
    /// Different URLs of each size.
    pub urls: usize,
    /// Clients in a closed loop.
    pub clients: usize,
    /// By size of bodies.
    pub sizes: Vec<Size>,
    /// By side, when all was measured.
    pub memory: BTreeMap<&'static str, Memory>,
}

impl Cache {
    /// Our hits a second to another side's: of each size the median of the rounds, of the sizes the geometric mean. None: one
    /// of both was not measured.
    pub fn ratio(&self, other: &str) -> Option<f64> {
        let ratio = |size: &Size| Some(size.median("rockpool")?.hits_per_s / size.median(other)?.hits_per_s);
        let logs = self.sizes.iter().map(|size| ratio(size).map(f64::ln)).collect::<Option<Vec<_>>>()?;
        Some((logs.iter().sum::<f64>() / logs.len() as f64).exp())
    }

    /// Whether nothing but hits was counted.
    pub fn all_hits(&self) -> bool {
        self.sizes.iter().flat_map(|size| size.rounds.values().flatten()).all(|hits| hits.misses == 0)
    }
}

impl Size {
    /// The round in the middle, by hits a second.
    pub fn median(&self, side: &str) -> Option<&Hits> {
        let mut rounds: Vec<&Hits> = self.rounds.get(side)?.iter().collect();
        rounds.sort_by(|a, b| a.hits_per_s.total_cmp(&b.hits_per_s));
        rounds.get(rounds.len() / 2).copied()
    }
}

/// Measures all sides, so many rounds, each for so long at each size. `dir`: where they keep their data.
///
/// # Errors
/// Where a side does not come up, or answers with something else.
pub async fn measure(dir: &Path, work: &Work, rounds: u32, length: Duration) -> anyhow::Result<Cache> {
    let origin = Origin::start().await?;
    // A PoP in any case: its CA issues the certificates that all sides show.
    // A thread a core, as the others have it: this node does nothing but serve content.
    let threads = i64::try_from(std::thread::available_parallelism()?.get())?;
    let settings =
        vec![("cache.origins".to_owned(), origins(&origin)), ("node.io_threads".to_owned(), threads.into())];
    let pop = Pop::start(&dir.join("pop"), 1, work, settings).await?;
    let own = pop.deployment.dir().join("pki").join(format!("node-1.{}", pop.deployment.pop()));
    let identity = Identity {
        certificate: format!("{}.pem", own.display()).into(),
        key: format!("{}.key", own.display()).into(),
        ca: pop.deployment.ca_file(),
    };
    let mut sides =
        vec![nginx::start(dir, &identity, &origin).await?, varnish::start(dir, &identity, &origin).await?];
    let (server, prefix, roots) = (pop.server()?, format!("/c/{ORIGIN}"), pop.process_ids());
    sides.push(Side { name: "rockpool", server, prefix, roots, _children: Vec::new() });
    let mut sizes = Vec::new();
    for body_bytes in SIZES {
        for side in &sides {
            side.warm_up(body_bytes).await.with_context(|| format!("{} does not warm up", side.name))?;
        }
        let mut size = Size { body_bytes, ..Size::default() };
        for _ in 0..rounds {
            for side in &sides {
                let hits = side.measure(body_bytes, &origin, length).await;
                let hits = hits.with_context(|| format!("{} fails", side.name))?;
                size.rounds.entry(side.name).or_default().push(hits);
            }
        }
        say(&format!("  {} B: {}", body_bytes, size.line()));
        sizes.push(size);
    }
    let mut memory = BTreeMap::new();
    for side in &sides {
        memory.insert(side.name, Memory::of(&families(&side.roots)?)?);
    }
    drop(sides);
    pop.stop().await?;
    Ok(Cache { urls: URLS, clients: CLIENTS, sizes, memory })
}

impl Size {
    fn line(&self) -> String {
        let side = |name: &&str| Some(format!("{name} {:.0} hits/s", self.median(name)?.hits_per_s));
        self.rounds.keys().filter_map(side).collect::<Vec<_>>().join(", ")
    }
}

impl Side {
    fn requests(&self, body_bytes: usize) -> Vec<Bytes> {
        let request = |number| {
            http::request(&format!("{}{}", self.prefix, origin::path(body_bytes, number)), None, None)
        };
        (0..URLS).map(request).collect()
    }

    /// Asks for everything, twice: some caches fill after they have answered.
    async fn warm_up(&self, body_bytes: usize) -> anyhow::Result<()> {
        let mut connection = Connection::open(&self.server).await?;
        for _ in 0..2 {
            for request in self.requests(body_bytes) {
                hit(&mut connection, &request, body_bytes).await?;
            }
        }
        Ok(())
    }

    async fn measure(&self, body_bytes: usize, origin: &Origin, length: Duration) -> anyhow::Result<Hits> {
        let mut connections = Vec::with_capacity(CLIENTS);
        for _ in 0..CLIENTS {
            connections.push(Connection::open(&self.server).await?);
        }
        let (from, misses_before) = (Instant::now() + length / 4, origin.requests());
        let until = from + length;
        let requests: std::sync::Arc<[Bytes]> = self.requests(body_bytes).into();
        let mut clients = JoinSet::new();
        for (seed, connection) in (0..).zip(connections) {
            clients.spawn(client(connection, seed, requests.clone(), body_bytes, from..until));
        }
        tokio::time::sleep_until(from.into()).await;
        let cpu_before = families_cpu_s(&self.roots)?;
        tokio::time::sleep_until(until.into()).await;
        let cpu = families_cpu_s(&self.roots)? - cpu_before;
        let mut latency = Histogram::new_with_bounds(1, HIGHEST_US, 3)?;
        while let Some(joined) = clients.join_next().await {
            latency.add(joined??)?;
        }
        Ok(Hits {
            hits_per_s: latency.len() as f64 / length.as_secs_f64(),
            p50_us: latency.value_at_quantile(0.5),
            p99_us: latency.value_at_quantile(0.99),
            cpu_us_per_hit: cpu * 1e6 / (latency.len().max(1)) as f64,
            misses: origin.requests() - misses_before,
        })
    }
}

/// Asks again when it was answered; latencies of what was answered within the measured time.
async fn client(
    mut connection: Connection,
    seed: u64,
    requests: std::sync::Arc<[Bytes]>,
    body_bytes: usize,
    measured: std::ops::Range<Instant>,
) -> anyhow::Result<Histogram<u64>> {
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut latency = Histogram::new_with_bounds(1, HIGHEST_US, 3)?;
    loop {
        let began = Instant::now();
        if began >= measured.end {
            return Ok(latency);
        }
        hit(&mut connection, &requests[chance.usize(..requests.len())], body_bytes).await?;
        if measured.contains(&Instant::now()) {
            latency.saturating_record(u64::try_from(began.elapsed().as_micros())?.max(1));
        }
    }
}

async fn hit(connection: &mut Connection, request: &[u8], body_bytes: usize) -> anyhow::Result<()> {
    let answer = connection.ask(request).await?;
    let (status, length) = (answer.status, answer.body.len());
    anyhow::ensure!(status == 200 && length == body_bytes, "status {status}, {length} bytes of {body_bytes}");
    Ok(())
}

/// `[[cache.origins]]` of a node.
fn origins(origin: &Origin) -> toml::Value {
    let mut table = toml::Table::new();
    table.insert("name".into(), ORIGIN.into());
    table.insert("url".into(), format!("http://{}", origin.address()).into());
    toml::Value::Array(vec![table.into()])
}

/// Another free port, as text.
fn port() -> anyhow::Result<String> {
    Ok(free_port()?.rsplit(':').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(hits_per_s: f64) -> Hits {
        Hits { hits_per_s, p50_us: 1, p99_us: 1, cpu_us_per_hit: 1.0, misses: 0 }
    }

    #[test]
    fn the_ratio_is_of_medians_and_their_geometric_mean() {
        let size = |ours: [f64; 3], theirs: [f64; 3]| Size {
            body_bytes: 1,
            rounds: [("rockpool", ours.map(hits).to_vec()), ("nginx", theirs.map(hits).to_vec())].into(),
        };
        let sizes = vec![size([1.0, 400.0, 900.0], [100.0; 3]), size([100.0; 3], [100.0; 3])];
        let cache = Cache { urls: 1, clients: 1, sizes, memory: BTreeMap::new() };
        assert!((cache.ratio("nginx").unwrap() - 2.0).abs() < 1e-9);
        assert!(cache.ratio("varnish").is_none() && cache.all_hits());
    }
}
