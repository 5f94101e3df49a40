//! The race: the highest rate that each side sustains, and what a recommendation costs at one rate that all bear. The same visitors,
//! the same models, as many connections, the same generator on the same cores; one side runs at a time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bench::processes::{Memory, busy_s, cpu_s};
use rockpool::commands::say;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::fastapi::{FastApi, Python, Workers};
use crate::load::{Asker, HttpAsker, open_loop};
use crate::sdk::SdkAsker;
use crate::search::{Highest, Limits, Probe, highest};
use bench::http::{Connection, Server, request};
use bench::pop::Pop;
use bench::work::{DEADLINE_MS, Work};

/// Visitors whose answers are compared.
const COMPARED: usize = 200;
/// The equal load is this share of what the slowest side, FastAPI, sustains.
const EQUAL_SHARE: f64 = 0.6;
/// So much of what a side sustains is held while CPU time is counted.
const FULL_SHARE: f64 = 0.9;
/// Recommendations a second at which latency and CPU time are reported, too, where a side bears it: the load that the project has as its goal.
const BUSY_PER_S: f64 = 2_000.0;
/// So much of each side's answers must be in the other's, on average.
pub const OVERLAP_MIN: f64 = 0.95;

/// FastAPI's name in tables.
pub const FASTAPI: &str = "FastAPI, HTTP";
/// Ours at the HTTP door.
pub const HTTP: &str = "rockpool, 1 node, HTTPS";
/// Ours through the SDK.
pub const SDK: &str = "rockpool, 1 node, SDK over QUIC";
/// Three nodes, through the SDK.
pub const SDK_OF_3: &str = "rockpool, 3 nodes, SDK over QUIC";

/// How the race is run.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Connections that are open, on every side.
    pub connections: usize,
    /// How long to search for the highest rate.
    pub limits: Limits,
    /// How long the equal load lasts.
    pub equal: Duration,
    /// Numbers of uvicorn workers that are tried.
    pub workers: Vec<usize>,
    /// Whether a PoP of three nodes runs, too.
    pub three_nodes: bool,
}

/// What the race came to.
#[derive(Debug, Clone, Serialize)]
pub struct Race {
    /// Connections that were open, on every side.
    pub connections: usize,
    /// Numbers of uvicorn workers that were tried, and what they came to.
    pub workers_tried: Vec<Workers>,
    /// The number that FastAPI raced with.
    pub workers: usize,
    /// Whether both sides give the same answers.
    pub agreement: Agreement,
    /// The equal load, in requests a second.
    pub equal_rate_per_s: f64,
    /// FastAPI first.
    pub sides: Vec<Contender>,
}

/// One side.
#[derive(Debug, Clone, Serialize)]
pub struct Contender {
    /// What it is.
    pub name: &'static str,
    /// The highest rate that it sustains.
    pub highest: Highest,
    /// At the equal load.
    pub equal: Probe,
    /// At 2,000 a second; none: it does not bear that.
    pub busy: Option<Probe>,
    /// CPU microseconds a recommendation at the equal load, of all processes of the side.
    pub equal_cpu_us_per_request: f64,
    /// The same at 2,000 a second; none: it does not bear that.
    pub busy_cpu_us_per_request: Option<f64>,
    /// The same with the processors full, as the bare loop has them: at nine tenths of what it sustains, or at the equal load where it
    /// sustains nothing.
    pub cpu_us_per_request: f64,
    /// What its processes hold in memory then.
    pub memory: Memory,
    /// Share of the cores that neither the side nor the generator used while the side was measured: others at work.
    pub others_share: f64,
}

/// How alike the answers of both sides are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// Visitors whose answers were compared.
    pub visitors: usize,
    /// Share of the items of an answer that are in the other's, on average.
    pub overlap: f64,
    /// Share of the visitors whose answers have the same items in the same order.
    pub identical: f64,
}

impl Race {
    /// A side by its name.
    pub fn side(&self, name: &str) -> Option<&Contender> {
        self.sides.iter().find(|side| side.name == name)
    }

    /// What a side sustains, to what FastAPI sustains. None: one of both sustained nothing within the search's time.
    pub fn throughput(&self, name: &str) -> Option<f64> {
        let rate = |name| Some(self.side(name)?.highest.rate_per_s).filter(|rate| *rate > 0.0);
        Some(rate(name)? / rate(FASTAPI)?)
    }

    /// Whether both sides did the same work, without an error, and each sustains some rate.
    pub fn is_good(&self) -> bool {
        let good = |side: &Contender| side.highest.rate_per_s > 0.0 && side.equal.figures.errors == 0;
        self.agreement.overlap >= OVERLAP_MIN && self.sides.iter().all(good)
    }
}

/// Runs FastAPI, then a PoP of one node at both of its doors, then maybe one of three: one side at a time.
///
/// # Errors
/// Where a side does not come up or cannot be asked.
pub async fn run(dir: &Path, python: &Python, work: &Work, rules: &Rules) -> anyhow::Result<Race> {
    let folder = |name: &str| -> anyhow::Result<_> {
        let folder = dir.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    };
    say("FastAPI: how many workers serve it best …");
    let tries = rules.limits.probe;
    let (workers, workers_tried) =
        FastApi::best_workers(&folder("workers")?, python, work, &rules.workers, tries).await?;
    say(&format!("FastAPI with {workers} workers:"));
    let fastapi = FastApi::start(&folder("fastapi")?, python, work, workers).await?;
    let theirs = answers(&fastapi.server(), None, work).await?;
    let asker = fastapi.http(work, rules.connections).await?;
    let used = || Ok(Used { cpu_s: fastapi.cpu_s()?, memory: fastapi.memory()? });
    let mut sides = vec![contender(FASTAPI, &asker, rules, None, &used).await?];
    let equal_rate_per_s = sides[0].equal.rate_per_s;
    let equal = Some(equal_rate_per_s);
    drop(asker);
    fastapi.stop().await?;

    let pop = Pop::start(&folder("pop-of-1")?, 1, work, Vec::new()).await?;
    pop.track(work).await?;
    let ours = answers(&pop.server()?, Some(pop.deployment.app_key()), work).await?;
    let agreement = Agreement::of(&ours, &theirs);
    say(&format!("answers agree by {:.1} %", agreement.overlap * 100.0));
    let used = || pop_used(&pop);
    let asker = HttpAsker::of(&pop, work, rules.connections).await?;
    sides.push(contender(HTTP, &asker, rules, equal, &used).await?);
    drop(asker);
    let asker = SdkAsker::of(&pop, work, rules.connections).await?;
    sides.push(contender(SDK, &asker, rules, equal, &used).await?);
    drop(asker);
    pop.stop().await?;
    if rules.three_nodes {
        sides.push(three_nodes(&folder("pop-of-3")?, work, rules, equal).await?);
    }
    let connections = rules.connections;
    Ok(Race { connections, workers_tried, workers, agreement, equal_rate_per_s, sides })
}

async fn three_nodes(
    dir: &Path,
    work: &Work,
    rules: &Rules,
    equal: Option<f64>,
) -> anyhow::Result<Contender> {
    let pop = Pop::start(dir, 3, work, Vec::new()).await?;
    pop.track(work).await?;
    let asker = SdkAsker::of(&pop, work, rules.connections).await?;
    let contender = contender(SDK_OF_3, &asker, rules, equal, &|| pop_used(&pop)).await?;
    drop(asker);
    pop.stop().await?;
    Ok(contender)
}

fn pop_used(pop: &Pop) -> anyhow::Result<Used> {
    Ok(Used { cpu_s: pop.cpu_s()?, memory: pop.memory()? })
}

/// What a side has used so far.
#[derive(Debug, Clone, Copy)]
struct Used {
    /// CPU seconds of its processes.
    cpu_s: f64,
    /// What they hold in memory.
    memory: Memory,
}

/// CPU seconds of everything, and of the side and this process.
#[derive(Debug, Clone, Copy)]
struct Watch {
    at: Instant,
    busy_s: f64,
    ours_s: f64,
}

impl Watch {
    fn look(side: Used) -> anyhow::Result<Self> {
        let ours_s = side.cpu_s + cpu_s(&[std::process::id()])?;
        Ok(Self { at: Instant::now(), busy_s: busy_s()?, ours_s })
    }

    /// Share of the cores that others used since an earlier look.
    fn others_share(&self, earlier: &Self) -> anyhow::Result<f64> {
        let cores = std::thread::available_parallelism()?.get() as f64;
        let others_s = (self.busy_s - earlier.busy_s) - (self.ours_s - earlier.ours_s);
        Ok((others_s / cores / (self.at - earlier.at).as_secs_f64()).max(0.0))
    }
}

/// Searches for the highest rate, then holds the equal load: a share of that rate, where none is given.
async fn contender<A: Asker>(
    name: &'static str,
    asker: &Arc<A>,
    rules: &Rules,
    equal_rate: Option<f64>,
    used: &impl Fn() -> anyhow::Result<Used>,
) -> anyhow::Result<Contender> {
    let begun = Watch::look(used()?)?;
    let highest = highest(name, asker, rules.limits).await?;
    let most = if highest.rate_per_s > 0.0 { highest.rate_per_s } else { highest.closed_loop_per_s };
    let rate = equal_rate.unwrap_or(most * EQUAL_SHARE);
    let (equal, equal_cpu_us_per_request) = held(asker, rate, rules.equal, used).await?;
    let (mut busy, mut busy_cpu_us_per_request) = (None, None);
    if highest.rate_per_s >= BUSY_PER_S {
        let (probe, cpu_us) = held(asker, BUSY_PER_S, rules.equal, used).await?;
        (busy, busy_cpu_us_per_request) = (Some(probe), Some(cpu_us));
    }
    let full = highest.rate_per_s * FULL_SHARE;
    let cpu_us_per_request = match full > 0.0 {
        true => held(asker, full, rules.equal, used).await?.1,
        false => equal_cpu_us_per_request,
    };
    let last = used()?;
    let others_share = Watch::look(last)?.others_share(&begun)?;
    let memory = last.memory;
    Ok(Contender {
        name,
        highest,
        equal,
        busy,
        equal_cpu_us_per_request,
        busy_cpu_us_per_request,
        cpu_us_per_request,
        memory,
        others_share,
    })
}

/// Holds a rate, and counts what the side uses for it: CPU microseconds a request.
async fn held<A: Asker>(
    asker: &Arc<A>,
    rate: f64,
    length: Duration,
    used: &impl Fn() -> anyhow::Result<Used>,
) -> anyhow::Result<(Probe, f64)> {
    open_loop(asker, rate, length / 4).await?;
    let before = used()?;
    let run = open_loop(asker, rate, length).await?;
    let after = used()?;
    let probe = Probe::of(rate, &run);
    let cpu_us = (after.cpu_s - before.cpu_s) * 1e6 / probe.figures.requests.max(1) as f64;
    Ok((probe, cpu_us))
}

/// What some visitors are offered.
async fn answers(server: &Server, key: Option<&str>, work: &Work) -> anyhow::Result<Vec<Vec<String>>> {
    #[derive(Deserialize)]
    struct Offered {
        items: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        item: String,
    }
    let mut connection = Connection::open(server).await?;
    let mut answers = Vec::with_capacity(COMPARED);
    for question in work.questions(DEADLINE_MS).iter().take(COMPARED) {
        let answer = connection.ask(&request("/v1/recommend", key, Some(question))).await?;
        let text = String::from_utf8_lossy(&answer.body);
        anyhow::ensure!(answer.status == 200, "status {}: {text}", answer.status);
        let offered: Offered =
            serde_json::from_str(&text).with_context(|| format!("not an answer: {text}"))?;
        answers.push(offered.items.into_iter().map(|item| item.item).collect());
    }
    Ok(answers)
}

impl Agreement {
    fn of(ours: &[Vec<String>], theirs: &[Vec<String>]) -> Self {
        let pairs = || ours.iter().zip(theirs);
        let visitors = pairs().count();
        let shared = |(ours, theirs): (&Vec<String>, &Vec<String>)| {
            let shared = ours.iter().filter(|item| theirs.contains(item)).count();
            shared as f64 / ours.len().max(theirs.len()).max(1) as f64
        };
        let identical = pairs().filter(|(ours, theirs)| ours == theirs).count();
        let mean = |sum: f64| sum / visitors.max(1) as f64;
        Self { visitors, overlap: mean(pairs().map(shared).sum()), identical: mean(identical as f64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_of_items_and_of_order() {
        let answers =
            |lists: [&str; 2]| lists.map(|list| list.split(' ').map(str::to_owned).collect()).to_vec();
        let agreement = Agreement::of(&answers(["1 2", "3 4"]), &answers(["1 2", "4 5"]));
        assert_eq!(agreement, Agreement { visitors: 2, overlap: 0.75, identical: 0.5 });
        assert_eq!(Agreement::of(&answers(["1", "2"]), &answers(["1 2 3 4", "2"])).overlap, 0.625);
    }
}
