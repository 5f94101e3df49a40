//! What is done to processes and to the network between them, drawn from the seed. Every fault ends: at its own time, or when the
//! chaos does.

use std::time::Duration;

use anyhow::Context as _;
use proto::NodeId;
use proto::peer::MemberChange;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng};
use rockpool::control::NodeAdmin;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::stage::Stage;
use super::watch::Watch;
use crate::relay::{Direction, Faults, Kind, UdpRelay};

/// How long one answer to a change of members is waited for. Who is stopped does not give it.
const CHANGE_ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long a change of members may take, with everything that stands in its way.
const CHANGE_WITHIN: Duration = Duration::from_secs(180);

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL of one node.
    Kill,
    /// SIGKILL of the leader.
    KillLeader,
    /// SIGKILL of a majority.
    KillQuorum,
    /// SIGKILL of all nodes.
    KillAll,
    /// SIGSTOP of one node for half to three elections.
    Pause,
    /// SIGSTOP of the leader for half to three elections.
    PauseLeader,
    /// The leader hands over.
    Transfer,
    /// SIGKILL of the cloud.
    KillCloud,
    /// Nothing passes between any node and the cloud.
    CutCloud,
    /// A new node joins, and another leaves.
    Replace,
    /// What a relay does to datagrams.
    Network(Kind),
}

/// All of them.
pub const ALL: [Fault; 19] = [
    Fault::Kill,
    Fault::KillLeader,
    Fault::KillQuorum,
    Fault::KillAll,
    Fault::Pause,
    Fault::PauseLeader,
    Fault::Transfer,
    Fault::KillCloud,
    Fault::CutCloud,
    Fault::Replace,
    Fault::Network(Kind::Delay),
    Fault::Network(Kind::Jitter),
    Fault::Network(Kind::Loss),
    Fault::Network(Kind::Duplicate),
    Fault::Network(Kind::Reorder),
    Fault::Network(Kind::OneWay),
    Fault::Network(Kind::Blackhole),
    Fault::Network(Kind::Rate),
    Fault::Network(Kind::Rebind),
];

impl Fault {
    /// What people call it.
    pub fn name(self) -> String {
        match self {
            Fault::Kill => "kill".into(),
            Fault::KillLeader => "kill of the leader".into(),
            Fault::KillQuorum => "kill of a quorum".into(),
            Fault::KillAll => "kill of all".into(),
            Fault::Pause => "pause".into(),
            Fault::PauseLeader => "pause of the leader".into(),
            Fault::Transfer => "leader transfer".into(),
            Fault::KillCloud => "kill of the cloud".into(),
            Fault::CutCloud => "cloud cut off".into(),
            Fault::Replace => "member replaced".into(),
            Fault::Network(kind) => format!("datagrams: {kind}"),
        }
    }
}

enum Undo {
    Boot(u64),
    Resume(u64),
    StartCloud,
    HealPeers(u64),
    HealUplink(u64),
    CloudBack,
}

/// The schedule of a run, and what has not ended of it.
pub struct Schedule {
    random: SmallRng,
    deck: Vec<Fault>,
    undo: Vec<(Instant, Undo)>,
    change: Option<(u64, JoinHandle<anyhow::Result<()>>)>,
    /// Kinds that were injected.
    pub injected: Vec<Fault>,
}

impl Schedule {
    /// What is done follows from the seed; what comes of it, from the processes too.
    pub fn new(seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self { random, deck: Vec::new(), undo: Vec::new(), change: None, injected: Vec::new() }
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
            if self.deck.is_empty() {
                self.deck = ALL.to_vec();
                self.deck.shuffle(&mut self.random);
            }
            let Some(fault) = self.deck.pop() else { continue };
            match self.inject(stage, fault).await? {
                Some(what) => {
                    stage.watch.note(&format!("fault: {}: {what}", fault.name()));
                    self.injected.push(fault);
                    if !matches!(fault, Fault::Network(_) | Fault::Replace) {
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
            Fault::Network(kind) => self.spoil(stage, kind).await,
        }
    }

    fn shuffled(&mut self, stage: &Stage) -> Vec<u64> {
        let mut nodes: Vec<u64> = stage.members().into_iter().filter(|node| stage.runs(*node)).collect();
        nodes.shuffle(&mut self.random);
        nodes
    }

    /// Some node that runs and is not stopped, or the leader.
    async fn victim(&mut self, stage: &Stage, leader: bool) -> Option<u64> {
        let stopped = |node: &u64| self.undo.iter().any(|(_, u)| matches!(u, Undo::Resume(n) if n == node));
        if leader {
            let found = timeout(Duration::from_secs(2), stage.deployment.leader()).await.ok()?.ok()?.0;
            return Some(found).filter(|node| !stopped(node));
        }
        let nodes: Vec<u64> = stage.members().into_iter().filter(|n| stage.runs(*n) && !stopped(n)).collect();
        (!nodes.is_empty()).then(|| nodes[self.random.random_range(0..nodes.len())])
    }

    async fn kill(&mut self, stage: &mut Stage, fault: Fault) -> anyhow::Result<Option<String>> {
        let mut nodes = match fault {
            Fault::Kill | Fault::KillLeader => {
                self.victim(stage, fault == Fault::KillLeader).await.into_iter().collect()
            }
            _ => self.shuffled(stage),
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
        let members = stage.members();
        let leaves = members[self.random.random_range(0..members.len())];
        let (joins, address) = stage.add().await?;
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
            Ok(())
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
        }
    }

    /// Ends all faults, and sees a change of members through.
    ///
    /// # Errors
    /// As [`Schedule::chaos`]; or where the change does not come to its end.
    pub async fn end(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        while let Some((_, undo)) = self.undo.pop() {
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
        stage.watch.note("the last fault is over");
        self.finish_change(stage, true).await
    }
}

fn silence(relay: &UdpRelay, directions: &[Direction]) -> anyhow::Result<()> {
    relay.wire().heal();
    directions.iter().try_for_each(|direction| relay.wire().set(*direction, Faults::silent()))
}

async fn transfer(stage: &Stage) -> anyhow::Result<Option<String>> {
    let Ok(Ok(leader)) = timeout(Duration::from_secs(2), stage.deployment.leader()).await else {
        return Ok(None);
    };
    let (admin, token) = (stage.deployment.admin(leader)?, stage.deployment.node_token(leader)?);
    // It may be cut off, and not able to.
    let done = matches!(timeout(Duration::from_secs(5), admin.transfer(&token)).await, Ok(Ok(())));
    Ok(done.then(|| format!("from node {leader}")))
}

/// Asks one node after the other, until one says that it is done.
async fn see_through(watch: &Watch, dir: &std::path::Path, change: &MemberChange) -> anyhow::Result<()> {
    let (MemberChange::Join { node: subject, .. } | MemberChange::Leave { node: subject }) = change;
    let until = Instant::now() + CHANGE_WITHIN;
    let mut last = String::from("nobody could be asked");
    while Instant::now() < until {
        for node in watch.nodes().into_iter().filter(|node| node.node != subject.0) {
            let asked = async {
                let token = service_token(dir, node.node)?;
                NodeAdmin::new(&node.admin)?.member(change, &token).await
            };
            match timeout(CHANGE_ANSWER_WITHIN, asked).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last = format!("node {}: {error:#}", node.node),
                Err(_) => last = format!("node {} did not answer", node.node),
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{change:?} was not done within {} s: {last}", CHANGE_WITHIN.as_secs())
}

fn service_token(dir: &std::path::Path, node: u64) -> anyhow::Result<String> {
    let path = dir.join(format!("node-{node}")).join("admin.token");
    let token = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(token.trim().to_owned())
}
