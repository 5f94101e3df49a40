//! What is done to processes and to the network between them, drawn from the seed. Every fault ends: at its own time, or when the
//! chaos does.

use std::time::Duration;

use anyhow::Context as _;
use proto::NodeId;
use proto::peer::MemberChange;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::ailing::Ailing;
use super::gear::control;
use super::kinds::{Fault, kinds};
use super::members::{see_through, transfer};
use super::stage::Stage;
use super::watch::Node;
use crate::relay::{Direction, Faults, Kind, UdpRelay};

enum Undo {
    Boot(u64),
    Resume(u64),
    StartCloud,
    HealPeers(u64),
    HealUplink(u64),
    CloudBack,
    Plug(u64),
    Unspoil(u64),
    /// The next of these is to be upgraded, after another.
    Upgrade(Vec<u64>, Option<u64>),
}

/// Faults that take their own time, one of each at once.
type Slow<T> = Option<(T, JoinHandle<anyhow::Result<bool>>)>;

/// The schedule of a run, and what has not ended of it.
pub struct Schedule {
    random: SmallRng,
    deck: Vec<Fault>,
    undo: Vec<(Instant, Undo)>,
    change: Slow<u64>,
    ailing: Slow<(Node, Fault)>,
    seed: u64,
    /// Kinds that were injected.
    pub injected: Vec<Fault>,
}

impl Schedule {
    /// What is done follows from the seed; what comes of it, from the processes too.
    pub fn new(seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        let (deck, undo, injected) = (Vec::new(), Vec::new(), Vec::new());
        Self { random, deck, undo, change: None, ailing: None, seed, injected }
    }

    /// Injects faults until a time, and ends those whose time has come. Every kind comes once before any comes twice.
    ///
    /// # Errors
    /// Where a process did something that no fault explains: it ended by itself, it could not be started.
    pub async fn chaos(&mut self, stage: &mut Stage, until: Instant) -> anyhow::Result<()> {
        loop {
            let next = Instant::now() + Duration::from_millis(self.random.random_range(300..1_700));
            self.expire(stage, next.min(until)).await?;
            sleep_until(next.min(until)).await;
            if next >= until {
                return Ok(());
            }
            self.finish_change(stage, false).await?;
            self.finish_ailing(stage, false).await?;
            if self.deck.is_empty() {
                self.deck = kinds(stage.gear());
                self.deck.shuffle(&mut self.random);
            }
            let Some(fault) = self.deck.pop() else { continue };
            match self.inject(stage, fault).await? {
                Some(what) => {
                    stage.watch.note(&format!("fault: {}: {what}", fault.name()));
                    self.injected.push(fault);
                    if fault.at_once() {
                        stage.watch.fault(&fault.name(), 1);
                    }
                }
                // Not just now (no leader, say): after another one.
                None => self.deck.insert(0, fault),
            }
        }
    }

    async fn expire(&mut self, stage: &mut Stage, until: Instant) -> anyhow::Result<()> {
        loop {
            let due = self.undo.iter().enumerate().filter(|(_, (at, _))| *at <= until);
            let Some((first, at)) = due.min_by_key(|(_, (at, _))| *at).map(|(i, (at, _))| (i, *at)) else {
                return Ok(());
            };
            sleep_until(at).await;
            let (_, undo) = self.undo.remove(first);
            self.undo(stage, undo).await?;
        }
    }

    fn later(&mut self, min_ms: u64, max_ms: u64, undo: Undo) {
        let at = Instant::now() + Duration::from_millis(self.random.random_range(min_ms..max_ms));
        self.undo.push((at, undo));
    }

    async fn inject(&mut self, stage: &mut Stage, fault: Fault) -> anyhow::Result<Option<String>> {
        match fault {
            Fault::Kill | Fault::KillLeader | Fault::KillQuorum | Fault::KillAll => {
                self.kill(stage, fault).await
            }
            Fault::Pause | Fault::PauseLeader => {
                let Some(node) = self.victim(stage, fault == Fault::PauseLeader).await else {
                    return Ok(None);
                };
                stage.pause(node).await?;
                // Half to three elections of 0.6 s, as defaults are.
                self.later(300, 1_800, Undo::Resume(node));
                Ok(Some(format!("node {node}")))
            }
            Fault::Transfer => transfer(stage).await,
            Fault::KillCloud => {
                if !stage.deployment.cloud_runs() {
                    return Ok(None);
                }
                stage.watch.set_cloud_away(true);
                stage.deployment.kill_cloud().await?;
                self.later(300, 3_000, Undo::StartCloud);
                Ok(Some("the cloud".into()))
            }
            Fault::CutCloud => {
                stage.watch.set_cloud_away(true);
                for node in stage.members() {
                    silence(&stage.relays[&node].uplink, &Direction::BOTH)?;
                }
                self.later(500, 3_000, Undo::CloudBack);
                Ok(Some("all uplinks".into()))
            }
            Fault::Replace => self.replace(stage).await,
            Fault::Upgrade => {
                let begun = |(_, undo): &(Instant, Undo)| matches!(undo, Undo::Upgrade(..));
                if self.undo.iter().any(begun) {
                    return Ok(None);
                }
                let nodes = stage.members();
                self.later(1, 2, Undo::Upgrade(nodes.clone(), None));
                Ok(Some(format!("nodes {nodes:?}")))
            }
            Fault::DiskFull | Fault::DiskFails => self.ail(stage, fault).await,
            Fault::Unplug | Fault::Netem => self.cable(stage, fault).await,
            Fault::Network(kind) => self.spoil(stage, kind).await,
        }
    }

    fn shuffled(&mut self, stage: &Stage) -> Vec<u64> {
        let mut nodes: Vec<u64> = stage.members().into_iter().filter(|node| stage.runs(*node)).collect();
        nodes.shuffle(&mut self.random);
        nodes
    }

    /// The node whose disk is broken: until that has run its course, its process is let alone.
    fn spared(&self) -> Option<u64> {
        self.ailing.as_ref().map(|((node, _), _)| node.node)
    }

    /// Some node that runs and is not stopped, or the leader.
    async fn victim(&mut self, stage: &Stage, leader: bool) -> Option<u64> {
        let spared = self.spared();
        let stopped = |node: &u64| {
            Some(*node) == spared
                || self.undo.iter().any(|(_, undo)| matches!(undo, Undo::Resume(other) if other == node))
        };
        if leader {
            let found = timeout(Duration::from_secs(2), stage.deployment.leader()).await.ok()?.ok()?.0;
            return Some(found).filter(|node| !stopped(node));
        }
        let nodes: Vec<u64> = stage.members().into_iter().filter(|n| stage.runs(*n) && !stopped(n)).collect();
        (!nodes.is_empty()).then(|| nodes[self.random.random_range(0..nodes.len())])
    }

    async fn kill(&mut self, stage: &mut Stage, fault: Fault) -> anyhow::Result<Option<String>> {
        let mut nodes: Vec<u64> = match fault {
            Fault::Kill | Fault::KillLeader => {
                self.victim(stage, fault == Fault::KillLeader).await.into_iter().collect()
            }
            _ => self.shuffled(stage).into_iter().filter(|node| Some(*node) != self.spared()).collect(),
        };
        let all = stage.members().len();
        let least = match fault {
            Fault::KillQuorum => all / 2 + 1,
            Fault::KillAll => all,
            _ => 1,
        };
        if nodes.len() < least {
            return Ok(None);
        }
        if fault == Fault::KillQuorum {
            nodes.truncate(least);
        }
        for node in &nodes {
            stage.kill(*node).await?;
            self.later(100, 2_000, Undo::Boot(*node));
        }
        Ok(Some(format!("nodes {nodes:?}")))
    }

    /// One change at a time: a new node joins, then an old one leaves.
    async fn replace(&mut self, stage: &mut Stage) -> anyhow::Result<Option<String>> {
        if self.change.is_some() {
            return Ok(None);
        }
        let spared = self.spared();
        let members: Vec<u64> = stage.members().into_iter().filter(|node| Some(*node) != spared).collect();
        let leaves = members[self.random.random_range(0..members.len())];
        let Some((joins, address)) = stage.add().await? else { return Ok(None) };
        let steps = [
            MemberChange::Join { node: NodeId(joins), address },
            MemberChange::Leave { node: NodeId(leaves) },
        ];
        let (watch, dir) = (stage.watch.clone(), stage.deployment.dir().to_owned());
        let task = tokio::spawn(async move {
            for step in steps {
                see_through(&watch, &dir, &step).await?;
                watch.note(&format!("{step:?} is done"));
            }
            Ok(true)
        });
        self.change = Some((leaves, task));
        Ok(Some(format!("node {joins} for node {leaves}")))
    }

    /// Ends who has left, if the change is over; `wait` for it or not.
    async fn finish_change(&mut self, stage: &mut Stage, wait: bool) -> anyhow::Result<()> {
        let Some((leaves, task)) = self.change.take_if(|(_, task)| wait || task.is_finished()) else {
            return Ok(());
        };
        task.await.context("the change of members panicked")??;
        stage.watch.fault(&Fault::Replace.name(), 1);
        stage.retire(leaves).await
    }

    /// One disk at a time fails.
    async fn ail(&mut self, stage: &mut Stage, fault: Fault) -> anyhow::Result<Option<String>> {
        let leads = self.random.random_bool(0.5);
        let Some(node) = self.victim(stage, leads).await else { return Ok(None) };
        if self.ailing.is_some() || !stage.serves(node).await {
            return Ok(None);
        }
        let dir = stage.deployment.node_dir(NodeId(node));
        let (control, log) = (control(&dir)?, dir.join("edge-node.log"));
        let lasts = Duration::from_millis(self.random.random_range(2_000..5_000));
        let node = stage.revive(node, false);
        let (way, watch, seed) = (stage.way.clone(), stage.watch.clone(), self.seed);
        let ailing = Ailing { node: node.clone(), fault, lasts, control, log, way, watch, seed };
        let what = format!("node {}", node.node);
        self.ailing = Some(((node, fault), tokio::spawn(ailing.run())));
        Ok(Some(what))
    }

    /// A node whose disk works again is looked at again, from where it began anew.
    async fn finish_ailing(&mut self, stage: &mut Stage, wait: bool) -> anyhow::Result<()> {
        let Some(((node, fault), task)) = self.ailing.take_if(|(_, task)| wait || task.is_finished()) else {
            return Ok(());
        };
        let took_effect = task.await.context("what looked at an ailing disk panicked")??;
        stage.watch.fault(&fault.name(), u64::from(took_effect));
        if stage.watch.lives(&node) {
            stage.revive(node.node, true);
        }
        Ok(())
    }

    async fn cable(&mut self, stage: &Stage, fault: Fault) -> anyhow::Result<Option<String>> {
        let Some(namespaces) = &stage.gear().namespaces else { return Ok(None) };
        let Some(node) = self.shuffled(stage).first().copied() else { return Ok(None) };
        stage.watch.disturb(node);
        if fault == Fault::Unplug {
            namespaces.plug(node, false)?;
            self.later(500, 3_000, Undo::Plug(node));
        } else {
            namespaces.spoil(node, self.random.random_range(5..60), self.random.random_range(1..20))?;
            self.later(500, 4_000, Undo::Unspoil(node));
        }
        Ok(Some(format!("node {node}")))
    }

    async fn spoil(&mut self, stage: &Stage, kind: Kind) -> anyhow::Result<Option<String>> {
        let nodes = self.shuffled(stage);
        let Some(&node) = nodes.first() else { return Ok(None) };
        let everywhere = self.random.random_bool(0.3);
        let nodes = if everywhere { nodes } else { vec![node] };
        for node in &nodes {
            let relays = &stage.relays[node];
            match kind {
                Kind::Rebind => {
                    relays.peers.rebind().await?;
                    relays.uplink.rebind().await?;
                    continue;
                }
                Kind::Blackhole => silence(&relays.peers, &Direction::BOTH)?,
                Kind::OneWay => {
                    let way = Direction::BOTH[self.random.random_range(0..2)];
                    silence(&relays.peers, &[way])?;
                }
                _ => {
                    for direction in Direction::BOTH {
                        relays.peers.wire().set(direction, self.bad(kind))?;
                        relays.uplink.wire().set(direction, self.bad(kind))?;
                    }
                    self.later(500, 4_000, Undo::HealUplink(*node));
                }
            }
            self.later(500, 4_000, Undo::HealPeers(*node));
        }
        Ok(Some(format!("nodes {nodes:?}")))
    }

    fn bad(&mut self, kind: Kind) -> Faults {
        let mut ms = |from: u64, to: u64| Duration::from_millis(self.random.random_range(from..to));
        match kind {
            Kind::Delay => Faults { delay: ms(10, 150), ..Faults::default() },
            Kind::Jitter => Faults { jitter: ms(20, 150), ..Faults::default() },
            Kind::Reorder => Faults { reorder: 0.2, hold: ms(5, 60), ..Faults::default() },
            Kind::Loss => Faults { loss: self.random.random_range(0.05..0.4), ..Faults::default() },
            Kind::Duplicate => Faults { duplicate: self.random.random_range(0.1..0.6), ..Faults::default() },
            _ => {
                let rate = self.random.random_range(10_000..200_000);
                Faults { rate_bytes_per_s: Some(rate), ..Faults::default() }
            }
        }
    }

    async fn undo(&mut self, stage: &mut Stage, undo: Undo) -> anyhow::Result<()> {
        match undo {
            Undo::Boot(node) => stage.boot(node),
            Undo::Resume(node) => stage.resume(node).await,
            Undo::StartCloud => {
                if !stage.deployment.cloud_runs() {
                    stage.deployment.start_cloud().await?;
                }
                stage.watch.set_cloud_away(false);
                Ok(())
            }
            Undo::HealPeers(node) => {
                stage.relays[&node].peers.wire().heal();
                Ok(())
            }
            Undo::HealUplink(node) => {
                stage.relays[&node].uplink.wire().heal();
                Ok(())
            }
            Undo::CloudBack => {
                stage.relays.values().for_each(|relays| relays.uplink.wire().heal());
                stage.watch.set_cloud_away(!stage.deployment.cloud_runs());
                Ok(())
            }
            Undo::Plug(node) | Undo::Unspoil(node) => {
                let Some(namespaces) = &stage.gear().namespaces else { return Ok(()) };
                match undo {
                    Undo::Plug(_) => namespaces.plug(node, true)?,
                    _ => namespaces.unspoil(node)?,
                }
                stage.watch.disturb(node);
                Ok(())
            }
            Undo::Upgrade(mut nodes, before) => {
                let Some(node) = nodes.pop() else {
                    stage.watch.fault(&Fault::Upgrade.name(), 1);
                    return Ok(());
                };
                if self.spared() == Some(node) {
                    nodes.push(node);
                    self.later(500, 1_500, Undo::Upgrade(nodes, before));
                    return Ok(());
                }
                stage.upgrade(node, before).await?;
                self.later(500, 1_500, Undo::Upgrade(nodes, Some(node)));
                Ok(())
            }
        }
    }

    /// Ends all faults, and sees a change of members through.
    ///
    /// # Errors
    /// As [`Schedule::chaos`]; or where the change does not come to its end.
    pub async fn end(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        let is_upgrade = |(_, undo): &(Instant, Undo)| matches!(undo, Undo::Upgrade(..));
        let (upgrades, others) = std::mem::take(&mut self.undo).into_iter().partition(is_upgrade);
        self.undo = upgrades;
        for (_, undo) in others {
            self.undo(stage, undo).await?;
        }
        for relays in stage.relays.values() {
            relays.peers.wire().heal();
            relays.uplink.wire().heal();
        }
        for node in stage.members() {
            stage.boot(node)?;
        }
        stage.watch.set_cloud_away(false);
        self.finish_ailing(stage, true).await?;
        while let Some((_, undo)) = self.undo.pop() {
            self.undo(stage, undo).await?;
        }
        stage.watch.note("the last fault is over");
        self.finish_change(stage, true).await
    }
}

fn silence(relay: &UdpRelay, directions: &[Direction]) -> anyhow::Result<()> {
    relay.wire().heal();
    directions.iter().try_for_each(|direction| relay.wire().set(*direction, Faults::silent()))
}
