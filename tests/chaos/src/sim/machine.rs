//! A simulated machine: a disk that lasts, and one node process after another on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use edge_node::commits::{StoreCommits, caught_up_leader};
use edge_store::sim::{Disk, DiskSettings, Host};
use edge_store::{Store, StoreConfig};
use edge_uplink::{CloudLink, Reports, UplinkConfig};
use proto::command::Command;
use proto::control::{AnswerCounts, NodeReport, Role, Standing};
use proto::peer::{PeerReply, PeerRequest};
use proto::{Code, ErrorReply, NodeId, PopId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use transport::memory::Network;
use transport::{Door, Identity, Listener, Stream};

use super::Pace;

/// Milliseconds since 1970 at which every simulation begins.
pub const EPOCH_MS: u64 = 1_800_000_000_000;
/// Events that were let in before the outbox was full: of each client one batch a second, while its node may try.
const LATE_MAX: u64 = 40;
/// How long activating a bundle may take.
const ACTIVATE_WITHIN: Duration = Duration::from_secs(2);

/// The PoP that is simulated.
pub fn pop() -> PopId {
    PopId::new("pop").unwrap_or_else(|error| panic!("{error}"))
}

/// A node's host name on the network.
pub fn host_name(node: u64) -> String {
    format!("node-{node}")
}

/// A node's peer address.
pub fn address(node: u64) -> String {
    format!("node-{node}:peer")
}

/// A machine's wall clock: virtual time, and what somebody did to it.
#[derive(Debug, Clone)]
pub struct Clock {
    began: Instant,
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    fn new(began: Instant) -> Self {
        Self { began, offset_ms: Arc::default() }
    }

    /// Milliseconds since 1970, as this machine believes.
    pub fn now_ms(&self) -> u64 {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        (EPOCH_MS + since).saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    /// Steps it.
    pub fn step(&self, ms: i64) {
        self.offset_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

/// A machine, on or off.
#[derive(Debug)]
pub struct Machine {
    /// The node that lives on it.
    pub node: u64,
    /// What survives.
    pub disk: Disk,
    /// Where its small files and snapshots lie.
    dir: PathBuf,
    /// Its wall clock.
    pub clock: Clock,
    /// How often a process was started.
    pub lives: u64,
    /// The process, if one runs.
    pub process: Option<Process>,
}

/// A running node.
#[derive(Debug, Clone)]
pub struct Process {
    /// What runs it.
    pub host: Host,
    /// Its store.
    pub store: Store,
    /// Its machine's clock.
    pub clock: Clock,
    /// How many processes this machine has had.
    pub life: u64,
    /// Most proposals and notes that may wait.
    pub queue_max: u64,
    /// Most events that may wait for the cloud.
    pub outbox_max: u64,
    stop: CancellationToken,
}

/// What all nodes of a simulation share.
#[derive(Debug, Clone)]
pub struct Setting {
    /// How slow it goes.
    pub pace: Pace,
    /// How slow its clients are.
    pub think: Pace,
    /// Most events that may wait for the cloud.
    pub outbox_len_max: u64,
    /// Everything random follows from it.
    pub seed: u64,
    /// The network.
    pub network: Network,
    /// Who forms the PoP.
    pub founders: BTreeMap<NodeId, String>,
}

impl Machine {
    /// A machine with an empty disk.
    pub fn new(node: u64, seed: u64, dir: PathBuf, began: Instant) -> Self {
        let settings = DiskSettings {
            sync_min: Duration::from_micros(200),
            sync_jitter: Duration::from_millis(2),
            failing: None,
        };
        let disk = Disk::new(seed ^ (node << 32), settings);
        Self { node, disk, dir, clock: Clock::new(began), lives: 0, process: None }
    }

    /// Starts the node. Founders form the PoP, or go on in it.
    ///
    /// # Errors
    /// Where the store does not open: it says why.
    pub async fn boot(&mut self, setting: &Setting) -> Result<(), String> {
        self.lives += 1;
        let host = Host::new(setting.seed ^ (self.node << 40) ^ (self.lives << 20), self.disk.clone());
        let begun = self.begin(host.clone(), setting).await;
        self.process = begun.as_ref().ok().cloned();
        if begun.is_err() {
            // A process that cannot begin ends, and its door with it.
            host.kill();
            setting.network.kill(&host_name(self.node));
        }
        begun.map(drop)
    }

    async fn begin(&self, host: Host, setting: &Setting) -> Result<Process, String> {
        let registry = prometheus::Registry::new();
        let identity = Identity::Node { pop: pop(), node: NodeId(self.node) };
        let dialer = Arc::new(setting.network.dialer(&host_name(self.node), Some(identity.clone())));
        let config = self.config(setting);
        let queue_max = (config.queue_len_max + config.note_queue_len_max) as u64;
        // Those who were let in before the limit was reached still come.
        let outbox_max = config.outbox_len_max + LATE_MAX;
        let opened = {
            let (registry, dialer) = (registry.clone(), dialer.clone());
            host.spawn(async move { Store::open(config, dialer, &registry).await }).await
        };
        let store = opened.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let door = Door::Peers { pop: pop() };
        let listener = setting.network.listener(&address(self.node), identity, door);
        let listener = listener.map_err(|error| error.to_string())?;
        host.spawn(serve(host.clone(), store.clone(), listener));
        if setting.founders.contains_key(&NodeId(self.node)) {
            let (store, founders) = (store.clone(), setting.founders.clone());
            let formed = host.spawn(async move { store.form(founders).await }).await;
            formed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        }
        let stop = CancellationToken::new();
        start_uplink(&host, &store, dialer, &registry, &stop, setting.pace)
            .map_err(|error| error.to_string())?;
        let (clock, life) = (self.clock.clone(), self.lives);
        Ok(Process { host, store, clock, life, queue_max, outbox_max, stop })
    }

    /// SIGKILL.
    pub fn kill(&mut self, network: &Network) {
        if let Some(process) = self.process.take() {
            process.host.kill();
            process.stop.cancel();
            network.kill(&host_name(self.node));
        }
    }

    fn config(&self, setting: &Setting) -> StoreConfig {
        let dir = self.dir.join(host_name(self.node));
        let mut config = StoreConfig::new(pop(), NodeId(self.node), dir, address(self.node));
        // Small, so that snapshots, purges and full queues happen within seconds.
        config.snapshot_every = 60;
        config.log_keep = 20;
        config.queue_len_max = 64;
        config.note_queue_len_max = 64;
        config.outbox_len_max = setting.outbox_len_max;
        config.group_commit_len_max = 16;
        config.cache_bytes = 16 << 20;
        let slowness = u64::from(setting.pace.0);
        config.heartbeat_ms *= slowness;
        config.election_min_ms *= slowness;
        config.election_max_ms *= slowness;
        config
    }
}

/// The peers' door.
async fn serve(host: Host, store: Store, listener: impl Listener) {
    while let Some(link) = listener.accept().await {
        let Some(Identity::Node { node, .. }) = link.remote().identity.clone() else { continue };
        let (streams, store) = (host.clone(), store.clone());
        host.spawn(async move {
            while let Ok(stream) = link.accept().await {
                streams.spawn(answer(store.clone(), node, stream));
            }
        });
    }
}

async fn answer(store: Store, from: NodeId, mut stream: Stream) {
    let reply = match stream.recv::<PeerRequest>().await {
        Ok(request) => store.handle(from, request).await,
        Err(_) => PeerReply::Error(ErrorReply::new(Code::Invalid, "no request")),
    };
    if stream.send(&reply).await.is_ok() {
        stream.finish();
    }
}

fn start_uplink(
    host: &Host,
    store: &Store,
    dialer: Arc<dyn transport::Dialer>,
    registry: &prometheus::Registry,
    stop: &CancellationToken,
    pace: Pace,
) -> prometheus::Result<()> {
    let config = UplinkConfig {
        cloud: super::cloud::ADDRESS.to_owned(),
        batch_len_max: 32,
        batch_bytes_max: 1 << 20,
        linger_ms: 5,
        timeout_ms: 1_000,
        backoff_ms: 50,
        backoff_max_ms: 1_000 * u64::from(pace.0),
        acknowledge_every_ms: 200,
        report_every_ms: 5_000,
    };
    let cloud = CloudLink::new(config, dialer, edge_uplink::Metrics::new(registry)?);
    let link = cloud.clone();
    let shutdown = stop.clone();
    host.spawn(async move { link.run(reports(), shutdown).await });
    let (store, stop, of_host) = (store.clone(), stop.clone(), host.clone());
    host.spawn(async move {
        let commits = Arc::new(StoreCommits::follow(store.clone(), stop.clone()));
        let leader = caught_up_leader(store.clone(), stop.clone());
        of_host.spawn(follow_bundles(store, cloud.clone(), leader.clone(), pace));
        edge_uplink::tail(commits, leader, cloud, stop).await;
    });
    Ok(())
}

/// What `edge_node::bundles` does on the leader, without opening models.
async fn follow_bundles(
    store: Store,
    cloud: CloudLink,
    leader: tokio::sync::watch::Receiver<bool>,
    pace: Pace,
) {
    let mut newest = cloud.newest();
    loop {
        let revision = *newest.borrow_and_update();
        if *leader.borrow()
            && revision > store.changes().borrow().revision
            && let Ok(Some(manifest)) = cloud.manifest().await
        {
            let activate = Command::Activate { manifest };
            // What failed is tried again at the next look.
            drop(store.propose(activate, Instant::now() + ACTIVATE_WITHIN).await);
        }
        // Either is a reason to look again.
        drop(tokio::time::timeout(pace.ms(500), newest.changed()).await);
    }
}

/// What the cloud is told by a simulated node.
pub fn reports() -> Reports {
    Reports { report: Arc::new(report), standing: Arc::new(Standing::default) }
}

/// What a simulated node says of itself.
fn report() -> NodeReport {
    NodeReport {
        role: Role::Follower,
        term: 0,
        applied: 0,
        last_log: 0,
        outbox: 0,
        revision: proto::Revision(0),
        retrieval: None,
        ranker: None,
        engine: String::new(),
        in_flight: 0,
        bundle_error: None,
        client_address: String::new(),
        unfit: proto::Revision(0),
        answers: AnswerCounts::default(),
    }
}
