//! How long writes wait for the next leader: the leader is killed, ended or asked to hand over, under a steady stream of writes.
//!
//! The stream does not wait for answers (an open loop), so that a pause of the PoP is seen by every write that should have been
//! sent in it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use proto::client::{Ask, ClientReply, ClientRequest, OpenSession, Track};
use proto::{Event, EventId, EventKind, NodeId, TraceId};
use rockpool::local::{Deployment, Options as Local, Overrides};
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::{Dialer as _, Link, Peer, call};

use super::client::name;

/// One write every so often.
const WRITE_EVERY: Duration = Duration::from_millis(5);
/// How long a write may take; a node tries as long.
const WRITE_WITHIN: Duration = Duration::from_secs(8);
/// How long the stream runs before the leader goes, and after writes are acknowledged again.
const AROUND: Duration = Duration::from_millis(700);
/// How long the PoP may take until it serves, and until it takes writes again.
const READY: Duration = Duration::from_secs(60);
/// Connections to each node: a connection takes 64 requests at once.
const LINKS: usize = 8;
/// Visitors who write.
const VISITORS: u64 = 50;

/// How the leader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// SIGKILL.
    Kill,
    /// SIGTERM, as at an upgrade.
    Stop,
    /// An admin asks it to hand over; it stays.
    Transfer,
}

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How often the leader goes.
    pub times: u32,
    /// How.
    pub how: How,
}

/// What was measured, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// How the leader went.
    pub how: How,
    /// How often.
    pub times: u32,
    /// From when it went to the first acknowledgement of a write that was sent after that: median.
    pub p50_ms: u64,
    /// 99 of 100 are shorter.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
    /// Between an acknowledgement and the next: the longest of each time, median.
    pub gap_p50_ms: u64,
    /// And the longest of all.
    pub gap_max_ms: u64,
    /// Writes that were sent.
    pub writes: u64,
    /// Writes that were refused, or not answered.
    pub failed: u64,
    /// The first reasons, and how often.
    pub reasons: BTreeMap<String, u64>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (reason, times) in &self.reasons {
            writeln!(f, "{times} times: {reason}")?;
        }
        write!(
            f,
            "{:?}, {} times: next acknowledged write after p50 {} ms, p99 {} ms, max {} ms; longest gap between \
             acknowledgements p50 {} ms, max {} ms; {} of {} writes failed",
            self.how,
            self.times,
            self.p50_ms,
            self.p99_ms,
            self.max_ms,
            self.gap_p50_ms,
            self.gap_max_ms,
            self.failed,
            self.writes
        )
    }
}

/// What became of a write.
struct Write {
    sent: Instant,
    ended: Instant,
    failed: Option<String>,
}

/// Measures. Says each figure as it comes.
///
/// # Errors
/// Where the deployment does not come to serve, or not again.
pub async fn measure(options: Options) -> anyhow::Result<Figures> {
    let folder = tempfile::tempdir()?;
    let local = Local { dir: folder.path().to_owned(), nodes: 3, overrides: Overrides::default() };
    let mut deployment = Deployment::start(local).await?;
    let control = deployment.control()?;
    rockpool::publish::publish(&control, super::stage::artifacts(), "failover").await?;
    let (mut next, mut gaps) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    let (mut writes, mut failed, mut reasons) = (0, 0, BTreeMap::<String, u64>::new());
    for time in 1..=options.times {
        deployment.until_ready(READY).await?;
        let (went, stream) = once(&mut deployment, options.how).await?;
        let acknowledged = |write: &&Write| write.failed.is_none();
        let first = stream.iter().filter(acknowledged).filter(|w| w.sent >= went).map(|w| w.ended).min();
        let after = first.context("no write was acknowledged after the leader went")? - went;
        let mut ends: Vec<Instant> = stream.iter().filter(acknowledged).map(|write| write.ended).collect();
        ends.sort();
        let gap = ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        next.record(u64::try_from(after.as_millis())?)?;
        gaps.record(u64::try_from(gap.as_millis())?)?;
        writes += stream.len() as u64;
        for reason in stream.into_iter().filter_map(|write| write.failed) {
            failed += 1;
            *reasons.entry(reason).or_default() += 1;
        }
        let (after, gap) = (after.as_millis(), gap.as_millis());
        super::say(&format!("{time} of {}: {after} ms, longest gap {gap} ms", options.times));
    }
    deployment.stop().await?;
    Ok(Figures {
        how: options.how,
        times: options.times,
        p50_ms: next.value_at_quantile(0.5),
        p99_ms: next.value_at_quantile(0.99),
        max_ms: next.max(),
        gap_p50_ms: gaps.value_at_quantile(0.5),
        gap_max_ms: gaps.max(),
        writes,
        failed,
        reasons,
    })
}

/// The leader goes once, under writes through the others; or through all, if it stays. When it went, and all writes.
async fn once(deployment: &mut Deployment, how: How) -> anyhow::Result<(Instant, Vec<Write>)> {
    let leader = deployment.leader().await?;
    let mut through = deployment.running();
    if how != How::Transfer {
        through.retain(|node| *node != leader);
    }
    let (written, stop) = (Arc::<Mutex<Vec<Write>>>::default(), CancellationToken::new());
    let links = links(deployment, &through).await?;
    let stream = tokio::spawn(stream(links, written.clone(), stop.clone()));
    sleep(AROUND).await;
    let went = Instant::now();
    match how {
        How::Kill => deployment.kill_node(leader).await?,
        How::Stop => deployment.stop_node(leader).await?,
        How::Transfer => {
            let token = deployment.node_token(leader)?;
            deployment.admin(leader)?.transfer(&token).await?;
        }
    }
    let again = || {
        let written = written.lock().unwrap_or_else(PoisonError::into_inner);
        written.iter().any(|write| write.failed.is_none() && write.sent >= went)
    };
    let what = "a write is acknowledged";
    deployment.until(what, READY, async |_| again().then_some(()).context("none is")).await?;
    sleep(AROUND).await;
    stop.cancel();
    stream.await.context("the stream of writes panicked")?;
    if how != How::Transfer {
        deployment.start_node(leader)?;
    }
    let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((went, std::mem::take(&mut *written)))
}

async fn links(deployment: &Deployment, nodes: &[NodeId]) -> anyhow::Result<Vec<Arc<dyn Link>>> {
    let (dialer, expect) = (deployment.app_dialer()?, Peer::Named(deployment.server_name()?));
    let mut links = Vec::new();
    for _ in 0..LINKS {
        for node in nodes {
            let link = dialer.dial(&deployment.ports()[node].clients, &expect, WRITE_WITHIN).await?;
            let open =
                OpenSession { app_key: deployment.app_key().to_owned(), agent: "rockpool-chaos".into() };
            let opened = exchange(&*link, Ask::Session(open)).await?;
            anyhow::ensure!(matches!(opened, ClientReply::Session(_)), "no session: {opened:?}");
            links.push(link);
        }
    }
    Ok(links)
}

async fn exchange(link: &dyn Link, ask: Ask) -> anyhow::Result<ClientReply> {
    let deadline_ms = u32::try_from(WRITE_WITHIN.as_millis())?;
    let request = ClientRequest { trace: TraceId::default(), deadline_ms, ask };
    Ok(call::<_, ClientReply>(link, &request, WRITE_WITHIN).await?)
}

/// Writes at a steady rate, whoever answers when; ends when all have ended.
async fn stream(links: Vec<Arc<dyn Link>>, written: Arc<Mutex<Vec<Write>>>, stop: CancellationToken) {
    let (tasks, began) = (TaskTracker::new(), Instant::now());
    for number in 0_u32.. {
        sleep_until(began + WRITE_EVERY * number).await;
        if stop.is_cancelled() {
            break;
        }
        let link = links[number as usize % links.len()].clone();
        let written = written.clone();
        tasks.spawn(async move {
            let sent = Instant::now();
            let failed = write(&*link, u64::from(number) % VISITORS).await.err();
            let failed = failed.map(|error| format!("{error:#}"));
            let write = Write { sent, ended: Instant::now(), failed };
            written.lock().unwrap_or_else(PoisonError::into_inner).push(write);
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn write(link: &dyn Link, visitor: u64) -> anyhow::Result<()> {
    let id = EventId(uuid::Uuid::now_v7());
    let at_ms = id.0.get_timestamp().map_or(0, |at| at.to_unix().0 * 1_000);
    let kind = EventKind::Click { item: "i1".parse()?, slot: "home".parse()?, answer: None };
    let event = Event { id, visitor: name(visitor), at_ms, trace: TraceId::default(), kind };
    match exchange(link, Ask::Track(Track { events: vec![event] })).await? {
        // A node may send it on twice: it is counted once.
        ClientReply::Tracked(tracked) if tracked.accepted + tracked.duplicates == 1 => Ok(()),
        ClientReply::Error(error) => anyhow::bail!("{}", error.code),
        other => anyhow::bail!("{other:?}"),
    }
}
