//! A PoP in one process: real stores on real disks, joined by the in-memory network. Time is real, because disks are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edge_store::{Proposed, Store, StoreConfig, StoreError};
use proto::command::{Command, Effect};
use proto::event::EventKind;
use proto::peer::{PeerReply, PeerRequest};
use proto::{Event, EventId, ItemId, NodeId, PopId, TraceId, UserId, VisitorId};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transport::memory::Network;
use transport::{Door, Identity, Link, Listener};

/// Nothing here takes this long, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Node {
    pub store: Store,
    pub registry: prometheus::Registry,
    serving: JoinHandle<()>,
}

impl Node {
    pub fn counter(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == format!("rockpool_store_{name}"));
        let metric = &family.unwrap_or_else(|| panic!("no metric {name}")).get_metric()[0];
        let observed = metric.get_histogram().get_sample_count() as f64;
        metric.get_counter().get_value() + metric.get_gauge().get_value() + observed
    }
}

pub struct Pop {
    pub network: Network,
    pub nodes: BTreeMap<u64, Node>,
    dirs: BTreeMap<u64, TempDir>,
    founders: BTreeMap<NodeId, String>,
    tune: fn(&mut StoreConfig),
}

fn pop_id() -> PopId {
    PopId::new("pop").unwrap()
}

fn host(node: u64) -> String {
    format!("node-{node}")
}

pub fn address(node: u64) -> String {
    format!("node-{node}:peer")
}

impl Pop {
    /// A PoP of `len` nodes that have formed.
    pub async fn start(len: u64, tune: fn(&mut StoreConfig)) -> Self {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(len * 7 + 1);
        println!("SEED={seed}");
        let founders = (1..=len).map(|node| (NodeId(node), address(node))).collect();
        let mut pop = Self {
            network: Network::new(seed),
            nodes: BTreeMap::new(),
            dirs: BTreeMap::new(),
            founders,
            tune,
        };
        for node in 1..=len {
            pop.boot(node).await;
        }
        pop.leader().await;
        pop
    }

    pub fn dir(&mut self, node: u64) -> PathBuf {
        self.dirs.entry(node).or_insert_with(|| tempfile::tempdir().unwrap()).path().to_owned()
    }

    /// Starts a node on the folder it has, or a new one. Founders form, as at each start.
    pub async fn boot(&mut self, node: u64) {
        self.boot_at(node, &address(node)).await;
    }

    /// The same, at another address.
    pub async fn boot_at(&mut self, node: u64, address: &str) {
        let (store, registry) = self.open(node).await.unwrap();
        let listener = self.network.listener(address, self.identity(node), self.door()).unwrap();
        let serving = tokio::spawn(serve(store.clone(), Arc::new(listener)));
        if self.founders.contains_key(&NodeId(node)) {
            store.form(self.founders.clone()).await.unwrap();
        }
        self.nodes.insert(node, Node { store, registry, serving });
    }

    /// Opens a node's store, and nothing around it.
    pub async fn open(&mut self, node: u64) -> Result<(Store, prometheus::Registry), StoreError> {
        let mut config = StoreConfig::new(pop_id(), NodeId(node), self.dir(node), address(node));
        config.heartbeat_ms = 100;
        config.election_min_ms = 600;
        config.election_max_ms = 1_200;
        config.cache_bytes = 32 << 20;
        (self.tune)(&mut config);
        let dialer = Arc::new(self.network.dialer(&host(node), Some(self.identity(node))));
        let registry = prometheus::Registry::new();
        Ok((Store::open(config, dialer, &registry).await?, registry))
    }

    pub fn identity(&self, node: u64) -> Identity {
        Identity::Node { pop: pop_id(), node: NodeId(node) }
    }

    pub fn door(&self) -> Door {
        Door::Peers { pop: pop_id() }
    }

    /// Somebody who answers as an empty node, and then says nothing more.
    pub fn silent(&self, node: u64) -> JoinHandle<()> {
        let listener = self.network.listener(&address(node), self.identity(node), self.door()).unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Some(link) = listener.accept().await {
                let Ok(mut stream) = link.accept().await else { continue };
                if let Ok(PeerRequest::Standing) = stream.recv::<PeerRequest>().await {
                    stream.send(&PeerReply::Standing { last_log: 0, removed: false }).await.unwrap();
                }
                kept.push((link, stream));
            }
        })
    }

    /// A copy of a node's folder.
    pub fn copy(&mut self, node: u64) -> TempDir {
        copy(&self.dir(node))
    }

    /// Puts a folder in the place of a node's. Gives that one.
    pub fn put_back(&mut self, node: u64, folder: TempDir) -> TempDir {
        self.dirs.insert(node, folder).unwrap()
    }

    /// As kill −9: the node's links die, and it starts again from what its files held at that moment.
    pub async fn crash(&mut self, node: u64) {
        self.network.kill(&host(node));
        let dead = self.nodes.remove(&node).unwrap();
        let copy = copy(&self.dir(node));
        dead.serving.abort();
        dead.store.shutdown().await;
        self.dirs.insert(node, copy);
    }

    /// Stops a node in order.
    pub async fn stop(&mut self, node: u64) {
        let stopped = self.nodes.remove(&node).unwrap();
        stopped.store.shutdown().await;
        self.network.kill(&host(node));
        stopped.serving.abort();
    }

    /// The node's folder is gone.
    pub fn wipe(&mut self, node: u64) {
        self.dirs.remove(&node);
    }

    pub fn isolate(&self, node: u64) {
        let others: Vec<_> =
            self.nodes.keys().filter(|other| **other != node).map(|other| host(*other)).collect();
        self.network.isolate(&host(node), &others.iter().map(String::as_str).collect::<Vec<_>>());
    }

    pub fn store(&self, node: u64) -> &Store {
        &self.nodes[&node].store
    }

    /// Waits until one node leads, and all others that run follow it.
    pub async fn leader(&self) -> u64 {
        self.leader_of(&self.nodes.keys().copied().collect::<Vec<_>>()).await
    }

    /// The same, of some of the nodes.
    pub async fn leader_of(&self, nodes: &[u64]) -> u64 {
        let since = Instant::now();
        loop {
            let views: Vec<_> = nodes.iter().map(|node| *self.store(*node).leadership().borrow()).collect();
            let leaders: Vec<_> =
                nodes.iter().zip(&views).filter(|(_, view)| view.is_leader).map(|(node, _)| *node).collect();
            if let [leader] = leaders[..]
                && views.iter().all(|view| view.leader == Some(NodeId(leader)))
            {
                return leader;
            }
            assert!(since.elapsed() < PATIENCE, "no leader: {views:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a condition holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let since = Instant::now();
        while !holds(self) {
            assert!(since.elapsed() < PATIENCE, "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn followers(&self, leader: u64) -> Vec<u64> {
        self.nodes.keys().copied().filter(|node| *node != leader).collect()
    }

    /// Tracks events at a node, as a client does: until acknowledged, repeating what is unknown.
    pub async fn track(&self, node: u64, events: Vec<Event>) -> Proposed {
        let since = Instant::now();
        loop {
            let command = Command::Track { events: events.clone(), received_at_ms: 1 };
            match self.store(node).propose(command, Instant::now() + Duration::from_secs(5)).await {
                Ok(proposed) => {
                    assert!(matches!(proposed.effect, Effect::Tracked { .. }), "{:?}", proposed.effect);
                    return proposed;
                }
                Err(error) => assert!(since.elapsed() < PATIENCE, "{error}"),
            }
        }
    }

    /// Waits until all nodes have applied the same, and says what their keyspaces come to.
    pub async fn assert_equal(&self) {
        let since = Instant::now();
        loop {
            let mut digests = Vec::new();
            for node in self.nodes.values() {
                digests.push(node.store.digest().await.unwrap());
            }
            let same_index = digests.iter().all(|(index, _)| *index == digests[0].0);
            if same_index {
                assert!(digests.iter().all(|digest| *digest == digests[0]), "replicas differ: {digests:?}");
                return;
            }
            assert!(since.elapsed() < PATIENCE, "replicas do not come together: {digests:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub fn visitor(number: u64) -> VisitorId {
    VisitorId::User(UserId::new(format!("visitor-{number}")).unwrap())
}

pub fn event(id: u128, who: u64) -> Event {
    let kind = EventKind::Rating { item: ItemId::new(format!("item-{}", id % 50)).unwrap(), stars: 4.0 };
    let id = EventId(uuid::Uuid::from_u128(id));
    Event { id, visitor: visitor(who), at_ms: 1, trace: TraceId::default(), kind }
}

pub fn events(ids: std::ops::Range<u128>, who: u64) -> Vec<Event> {
    ids.map(|id| event(id, who)).collect()
}

/// What the gateway does at the peers' door.
async fn serve(store: Store, listener: Arc<dyn Listener>) {
    while let Some(link) = listener.accept().await {
        tokio::spawn(serve_link(store.clone(), link));
    }
}

async fn serve_link(store: Store, link: Arc<dyn Link>) {
    let Some(Identity::Node { node, .. }) = link.remote().identity.clone() else { return };
    while let Ok(mut stream) = link.accept().await {
        let store = store.clone();
        tokio::spawn(async move {
            let Ok(request) = stream.recv::<PeerRequest>().await else { return };
            let reply: PeerReply = store.handle(node, request).await;
            if stream.send(&reply).await.is_ok() {
                stream.finish();
            }
        });
    }
}

pub fn is_unavailable(error: &StoreError) -> bool {
    error.code() == proto::Code::Unavailable
}

fn copy(dir: &Path) -> TempDir {
    fn walk(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                walk(&path, &target);
            } else if let Err(error) = fs::copy(&path, &target) {
                // A file that was removed meanwhile is what a crash would not have left, either.
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", path.display());
            }
        }
    }
    let copy = tempfile::tempdir().unwrap();
    walk(dir, copy.path());
    copy
}
