//! A PoP in one process: real stores on real folders, joined by the in-memory network. Time is real, because disks are.
//!
//! It stands at the peers' door as the gateway does, and so sees what a node promises to another: [`Promise`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edge_store::{Store, StoreConfig, StoreError};
use proto::peer::{PeerReply, PeerRequest, RaftCall};
use proto::{NodeId, PopId, codec};
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use transport::memory::Network;
use transport::{Door, Identity, Link, Listener};

/// Bytes before the body of a Raft message: the sender's folder.
const SEAL_BYTES: usize = 16;
/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(2);

/// The boot in which everything begins.
pub const FIRST_BOOT: &str = "boot 1";

/// The boot after a boot.
pub fn next_boot(boot: &str) -> String {
    let number = boot.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
    format!("boot {}", number + 1)
}

/// What a node must not take back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// It gave another node its vote.
    Vote {
        /// Who.
        node: u64,
        /// In which term.
        term: u64,
        /// To whom.
        candidate: u64,
    },
    /// It says that it leads, and so voted for itself.
    Leads {
        /// Who.
        node: u64,
        /// In which term.
        term: u64,
    },
}

/// Hears of promises before anybody else does.
pub type Witness = Arc<dyn Fn(Promise) + Send + Sync>;

/// How a PoP is made.
#[derive(Clone)]
pub struct Settings {
    /// Nodes, from 1 on; each has a folder of its number.
    pub nodes: u64,
    /// Of the network.
    pub seed: u64,
    /// Raft entries between two snapshots.
    pub snapshot_every: u64,
    /// Raft entries kept behind a snapshot.
    pub log_keep: u64,
    /// Size of the log's files.
    pub log_chunk_bytes_max: usize,
    /// Shortest election timeout; the longest is twice that.
    pub election_ms: u64,
    /// The boot of the machine in which the nodes run.
    pub boot: String,
    /// Nodes that run in a later one.
    pub rebooted: BTreeSet<u64>,
    /// Who hears of promises.
    pub witness: Witness,
}

impl Settings {
    /// Short files, frequent snapshots: much happens in little time.
    pub fn busy(nodes: u64, seed: u64, witness: Witness) -> Self {
        Self {
            nodes,
            seed,
            snapshot_every: 40,
            log_keep: 10,
            log_chunk_bytes_max: 48 * 1024,
            election_ms: 250,
            boot: FIRST_BOOT.into(),
            rebooted: BTreeSet::new(),
            witness,
        }
    }
}

struct Node {
    store: Store,
    tasks: [JoinHandle<()>; 2],
}

/// Nodes that run, and what became of those that do not.
pub struct Pop {
    settings: Settings,
    dir: PathBuf,
    network: Network,
    nodes: BTreeMap<u64, Node>,
    refused: BTreeMap<u64, StoreError>,
}

fn pop_id() -> Result<PopId> {
    Ok(PopId::new("pop")?)
}

/// A node's folder below that of the PoP.
pub fn folder(dir: &Path, node: u64) -> PathBuf {
    dir.join(format!("node-{node}"))
}

impl Pop {
    /// A PoP on the folders below `dir`. Nodes are started by [`Pop::boot`].
    pub fn new(dir: impl Into<PathBuf>, settings: Settings) -> Self {
        let network = Network::new(settings.seed);
        Self { settings, dir: dir.into(), network, nodes: BTreeMap::new(), refused: BTreeMap::new() }
    }

    /// Starts a node on the folder it has, or a new one. A store that refuses to open is noted.
    ///
    /// # Errors
    /// Where the harness itself fails.
    pub async fn boot(&mut self, node: u64) -> Result<()> {
        let (pop, address) = (pop_id()?, format!("node-{node}:peer"));
        let identity = Identity::Node { pop: pop.clone(), node: NodeId(node) };
        let mut config = StoreConfig::new(pop.clone(), NodeId(node), folder(&self.dir, node), &address);
        config.heartbeat_ms = self.settings.election_ms / 5;
        config.election_min_ms = self.settings.election_ms;
        config.election_max_ms = self.settings.election_ms * 2;
        config.boot_id = match self.settings.rebooted.contains(&node) {
            true => next_boot(&self.settings.boot),
            false => self.settings.boot.clone(),
        };
        config.cache_bytes = 16 << 20;
        config.snapshot_every = self.settings.snapshot_every;
        config.log_keep = self.settings.log_keep;
        config.log_chunk_bytes_max = self.settings.log_chunk_bytes_max;
        let dialer = Arc::new(self.network.dialer(&format!("node-{node}"), Some(identity.clone())));
        let opened = Store::open(config, dialer, &prometheus::Registry::new()).await;
        let store = match opened {
            Ok(store) => store,
            Err(error) => {
                self.refused.insert(node, error);
                return Ok(());
            }
        };
        self.refused.remove(&node);
        let listener = self.network.listener(&address, identity, Door::Peers { pop })?;
        let witness = Arc::clone(&self.settings.witness);
        let tasks = [
            tokio::spawn(serve(store.clone(), node, Arc::new(listener), Arc::clone(&witness))),
            tokio::spawn(follow(store.clone(), node, witness)),
        ];
        self.nodes.insert(node, Node { store, tasks });
        Ok(())
    }

    /// Lets nobody hear of anybody, until [`Pop::heal`].
    pub fn partition(&self) {
        let hosts: Vec<String> = (1..=self.settings.nodes).map(|node| format!("node-{node}")).collect();
        for host in &hosts {
            let others: Vec<&str> = hosts.iter().filter(|other| *other != host).map(String::as_str).collect();
            self.network.isolate(host, &others);
        }
    }

    /// Lets all hear of each other again.
    pub fn heal(&self) {
        self.network.heal_all();
    }

    /// Forms the group, as every node does at each start.
    ///
    /// # Errors
    /// Where a store refuses the members.
    pub async fn form(&self) -> Result<()> {
        let members: BTreeMap<_, _> =
            (1..=self.settings.nodes).map(|node| (NodeId(node), format!("node-{node}:peer"))).collect();
        for node in self.nodes.values() {
            node.store.form(members.clone()).await?;
        }
        Ok(())
    }

    /// Stops a node in order.
    pub async fn stop(&mut self, node: u64) {
        if let Some(stopped) = self.nodes.remove(&node) {
            stopped.store.shutdown().await;
            self.network.kill(&format!("node-{node}"));
            stopped.tasks.iter().for_each(JoinHandle::abort);
        }
    }

    /// Stops all nodes.
    pub async fn stop_all(&mut self) {
        for node in 1..=self.settings.nodes {
            self.stop(node).await;
        }
    }

    /// The stores that run, by node.
    pub fn stores(&self) -> BTreeMap<u64, Store> {
        self.nodes.iter().map(|(node, running)| (*node, running.store.clone())).collect()
    }

    /// The stores that did not open, and why.
    pub fn refused(&self) -> &BTreeMap<u64, StoreError> {
        &self.refused
    }

    /// Waits until one of the running nodes leads, and says which.
    ///
    /// # Errors
    /// Where none does in time.
    pub async fn leader(&self, within: Duration) -> Result<(u64, Store)> {
        let until = Instant::now() + within;
        loop {
            let leads = |node: &&Node| node.store.leadership().borrow().is_leader;
            let leader = self.nodes.iter().find(|(_, node)| leads(node));
            if let Some((node, leader)) = leader {
                return Ok((*node, leader.store.clone()));
            }
            if Instant::now() >= until {
                bail!("nobody leads after {within:?}");
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until the running nodes have applied the same, and compares their keyspaces.
    ///
    /// # Errors
    /// Where they differ at one index, or do not come together in time.
    pub async fn agree(&self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        loop {
            let mut digests = Vec::new();
            for node in self.nodes.values() {
                digests.push(node.store.digest().await.context("a digest")?);
            }
            if digests.windows(2).all(|two| two[0].0 == two[1].0) {
                return match digests.windows(2).all(|two| two[0] == two[1]) {
                    true => Ok(()),
                    false => bail!("replicas differ at one index: {digests:?}"),
                };
            }
            if Instant::now() >= until {
                bail!("replicas do not come together in {within:?}: {digests:?}");
            }
            sleep(PAUSE).await;
        }
    }
}

async fn follow(store: Store, node: u64, witness: Witness) {
    let mut leadership = store.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        if now.is_leader {
            witness(Promise::Leads { node, term: now.term });
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

async fn serve(store: Store, node: u64, listener: Arc<dyn Listener>, witness: Witness) {
    while let Some(link) = listener.accept().await {
        tokio::spawn(serve_link(store.clone(), node, link, Arc::clone(&witness)));
    }
}

async fn serve_link(store: Store, node: u64, link: Arc<dyn Link>, witness: Witness) {
    let Some(Identity::Node { node: from, .. }) = link.remote().identity.clone() else { return };
    while let Ok(mut stream) = link.accept().await {
        let (store, witness) = (store.clone(), Arc::clone(&witness));
        tokio::spawn(async move {
            let Ok(request) = stream.recv::<PeerRequest>().await else { return };
            let asked = ballot(&request);
            let reply: PeerReply = store.handle(from, request).await;
            // Before the reply is sent: nobody hears of a vote that was not witnessed.
            if let Some(promise) = asked.and_then(|asked| granted(node, &asked, &reply)) {
                witness(promise);
            }
            if stream.send(&reply).await.is_ok() {
                stream.finish();
            }
        });
    }
}

/// Of Raft's messages, what a vote is (`edge-node/store/src/network.rs`).
#[derive(Debug, Deserialize)]
struct Ballot {
    pre: bool,
    vote: Vote,
    _last: Option<(u64, u64)>,
    _transfer: bool,
}

#[derive(Debug, Deserialize)]
struct Vote {
    term: u64,
    candidate: Option<u64>,
    _committed: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    _vote: Vote,
    granted: bool,
    _last: Option<(u64, u64)>,
}

fn ballot(request: &PeerRequest) -> Option<Ballot> {
    let PeerRequest::Raft { call: RaftCall::Vote, body } = request else { return None };
    let ballot = codec::decode_any(body.get(SEAL_BYTES..)?);
    Some(ballot.expect("a vote is not encoded as it was: bring `Ballot` along with the store's"))
}

fn granted(node: u64, asked: &Ballot, reply: &PeerReply) -> Option<Promise> {
    let PeerReply::Raft(body) = reply else { return None };
    let answer: Answer = codec::decode_any(body.get(SEAL_BYTES..)?)
        .expect("a vote's answer is not encoded as it was: bring `Answer` along with the store's");
    let Vote { term, candidate, .. } = asked.vote;
    (answer.granted && !asked.pre).then_some(Promise::Vote { node, term, candidate: candidate? })
}
