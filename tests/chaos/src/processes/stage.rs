//! The deployment of a run, with relays where its processes meet.
//!
//! ```text
//! other nodes ──▶ peers relay of node 1 ──▶ node 1 ──▶ uplink relay of node 1 ──▶ cloud
//! ```
//! What node 1 is sent passes its own peers relay; what it sends passes the others'.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use inference::{Signer, testing};
use proto::NodeId;
use proto::bundle::ArtifactKind;
use rockpool::local::{Deployment, Options, Overrides};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::ailing::mend;
use super::client::{ITEMS, Way};
use super::gear::{Gear, control};
use super::look::{look, status};
use super::watch::{Node, Watch};
use crate::relay::{Kind, UdpRelay};

/// Nodes of the PoP.
pub const NODES: u64 = 3;
/// How long a deployment may take until all its nodes serve.
const READY: Duration = Duration::from_secs(90);
/// How long an upgrade waits for the node before, where that does not come to serve under the other faults.
const UPGRADE_WAITS: Duration = Duration::from_secs(2);
/// How often it is asked.
const POLL: Duration = Duration::from_millis(100);

/// A node's relays.
pub struct Relays {
    /// Before its door for peers.
    pub peers: UdpRelay,
    /// Between it and the cloud.
    pub uplink: UdpRelay,
}

/// The deployment, its relays, and who watches it.
pub struct Stage {
    /// The processes.
    pub deployment: Deployment,
    /// Relays by node, of nodes that left too.
    pub relays: BTreeMap<u64, Relays>,
    /// The observer.
    pub watch: Watch,
    /// How clients come to nodes.
    pub way: Way,
    lives: BTreeMap<u64, u64>,
    left: BTreeSet<u64>,
    lookers: JoinSet<()>,
    seed: u64,
    gear: Gear,
    upgraded: BTreeSet<u64>,
}

impl Stage {
    /// Starts a deployment in a folder, and waits until it serves.
    ///
    /// # Errors
    /// Where it does not come to serve: a binary is missing, a process ended.
    pub async fn start(dir: &Path, seed: u64, gear: Gear, watch: Watch) -> anyhow::Result<Self> {
        // Short logs, so that nodes that come back need snapshots too.
        let overrides =
            Overrides { node: vec![("store.snapshot_every".into(), 500.into())], ..Overrides::default() };
        let options = Options { dir: dir.to_owned(), nodes: NODES, overrides };
        let deployment = Deployment::prepare_on(options, gear.hosts())?;
        let way = Way::to(&deployment)?;
        let mut stage = Self {
            deployment,
            relays: BTreeMap::new(),
            watch,
            way,
            lives: BTreeMap::new(),
            left: BTreeSet::new(),
            lookers: JoinSet::new(),
            seed,
            gear,
            upgraded: BTreeSet::new(),
        };
        for node in 1..=NODES {
            stage.relay(node).await?;
        }
        stage.deployment.start_cloud().await?;
        for node in 1..=NODES {
            stage.boot(node)?;
        }
        let control = stage.deployment.control()?;
        rockpool::publish::publish(&control, artifacts(), "chaos").await?;
        stage.deployment.until_ready(READY).await?;
        Ok(stage)
    }

    /// Puts relays before and behind a node that has ports and does not run yet.
    async fn relay(&mut self, node: u64) -> anyhow::Result<()> {
        let id = NodeId(node);
        let ports = self.deployment.ports().get(&id).with_context(|| format!("there is no node {node}"))?;
        let seed = self.seed.wrapping_add(node << 8);
        let own = self.gear.own_address();
        let peers = UdpRelay::start(own, ports.peers.parse()?, seed).await?;
        let cloud = self.deployment.uplink_address().parse()?;
        let uplink = UdpRelay::start(own, cloud, seed.wrapping_add(16)).await?;
        self.deployment.announce_peers_at(id, &peers.address().to_string());
        self.deployment.override_one(id, "uplink.cloud", uplink.address().to_string().into());
        self.relays.insert(node, Relays { peers, uplink });
        Ok(())
    }

    /// Adds a node that nobody knows yet, and starts it. Returns its number and where peers reach it; none: there is no room.
    pub async fn add(&mut self) -> anyhow::Result<Option<(u64, String)>> {
        let node = self.relays.keys().next_back().copied().unwrap_or(0) + 1;
        if !self.gear.holds(node) {
            return Ok(None);
        }
        self.deployment.add_node(NodeId(node))?;
        self.relay(node).await?;
        self.boot(node)?;
        let address = self.deployment.peer_address(NodeId(node)).context("it has an address")?;
        Ok(Some((node, address.to_owned())))
    }

    /// What nodes are started with.
    pub fn gear(&self) -> &Gear {
        &self.gear
    }

    /// Whether a node runs and has begun: one whose disk fails at its start ends, and says why.
    pub async fn serves(&self, node: u64) -> bool {
        let now = self.watch.nodes().into_iter().find(|now| now.node == node);
        match now.filter(|_| self.runs(node)) {
            Some(now) => status(&now).await.is_some(),
            None => false,
        }
    }

    /// Starts a node, if it does not run and has not left.
    pub fn boot(&mut self, node: u64) -> anyhow::Result<()> {
        if self.runs(node) || self.left.contains(&node) {
            return Ok(());
        }
        let dir = self.deployment.node_dir(NodeId(node));
        mend(&control(&dir)?)?;
        let launch = self.gear.launch(&dir, node, self.upgraded.contains(&node))?;
        self.deployment.launch(NodeId(node), launch);
        self.deployment.start_node(NodeId(node))?;
        self.revive(node, true);
        Ok(())
    }

    /// Another life of a node begins: what it said before does not bind it. `looked_at`: how far it is, is checked from now on.
    pub fn revive(&mut self, node: u64, looked_at: bool) -> Node {
        let life = self.lives.entry(node).or_default();
        *life += 1;
        let ports = &self.deployment.ports()[&NodeId(node)];
        let (clients, admin) = (ports.clients.clone(), ports.admin.clone());
        let started = Node { node, life: *life, clients, admin, paused: 0 };
        self.watch.enter(started.clone());
        if looked_at {
            self.lookers.spawn(look(started.clone(), self.way.clone(), self.watch.clone()));
        }
        started
    }

    /// Stops a node in order, and starts it as the next binary; the node before must serve, or have had its time. One that does not
    /// run comes back as that.
    pub async fn upgrade(&mut self, node: u64, before: Option<u64>) -> anyhow::Result<()> {
        let before = before.filter(|before| self.runs(*before)).map(NodeId);
        if let Some(before) = before {
            let admin = self.deployment.admin(before)?;
            let serves = async {
                while admin.ready().await.is_err() {
                    sleep(POLL).await;
                }
            };
            // Under faults it may not come to that.
            let _ = timeout(UPGRADE_WAITS, serves).await;
        }
        self.upgraded.insert(node);
        if !self.runs(node) || self.left.contains(&node) {
            return Ok(());
        }
        self.resume(node).await?;
        mend(&control(&self.deployment.node_dir(NodeId(node)))?)?;
        self.watch.leave(node);
        self.deployment.stop_node(NodeId(node)).await?;
        self.boot(node)
    }

    /// SIGKILL, if it runs.
    pub async fn kill(&mut self, node: u64) -> anyhow::Result<()> {
        self.watch.leave(node);
        match self.runs(node) {
            true => self.deployment.kill_node(NodeId(node)).await,
            false => Ok(()),
        }
    }

    /// SIGSTOP.
    pub async fn pause(&self, node: u64) -> anyhow::Result<()> {
        self.watch.disturb(node);
        self.deployment.pause_node(NodeId(node)).await
    }

    /// SIGCONT, if it was not killed meanwhile.
    pub async fn resume(&self, node: u64) -> anyhow::Result<()> {
        match self.runs(node) {
            true => {
                let resumed = self.deployment.resume_node(NodeId(node)).await;
                self.watch.disturb(node);
                resumed
            }
            false => Ok(()),
        }
    }

    /// A node has left the PoP: it is ended for good.
    pub async fn retire(&mut self, node: u64) -> anyhow::Result<()> {
        self.left.insert(node);
        self.kill(node).await
    }

    /// Nodes that belong to the PoP, running or not.
    pub fn members(&self) -> Vec<u64> {
        self.relays.keys().copied().filter(|node| !self.left.contains(node)).collect()
    }

    /// Whether a node was started and not ended.
    pub fn runs(&self, node: u64) -> bool {
        self.deployment.process_id(NodeId(node)).is_some()
    }

    /// What the relays really did, by kind.
    pub fn relayed(&self) -> BTreeMap<Kind, u64> {
        let mut counts = BTreeMap::new();
        for relay in self.relays.values().flat_map(|relays| [&relays.peers, &relays.uplink]) {
            for kind in Kind::ALL {
                *counts.entry(*kind).or_default() += relay.wire().counts().of(*kind);
            }
        }
        counts
    }
}

/// Catalog, rules and two tiny models: exactly as many items as an answer may hold.
pub fn artifacts() -> Vec<(ArtifactKind, Vec<u8>)> {
    let bundle = testing::bundle(&Signer::from_seed(&[7; 32]), 1, ITEMS, 1);
    ArtifactKind::ALL.into_iter().filter_map(|kind| Some((kind, bundle.artifact(kind)?))).collect()
}
