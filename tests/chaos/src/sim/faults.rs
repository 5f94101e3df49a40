//! What can go wrong, drawn from the seed. Every fault ends: at its own time, or when the chaos does.

mod cut;
mod members;
mod stranger;

use std::time::Duration;

use edge_store::sim::{Failing, Loss};
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use tokio::time::{Instant, sleep_until};

use super::cloud;
use super::machine::host_name;
use super::world::World;
use members::Change;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL of one node.
    Kill,
    /// SIGKILL of a majority.
    KillQuorum,
    /// A machine loses its power.
    PowerCut,
    /// All machines lose their power at once.
    PowerCutOfAll,
    /// SIGSTOP for half to three elections.
    Pause,
    /// Nothing passes from one node to another; the other way it does.
    PartitionOneWay,
    /// The leader is cut off from all others.
    PartitionLeader,
    /// The leader hears nobody, and all hear it.
    PartitionDeafLeader,
    /// Two halves see each other only through one node.
    PartitionBridge,
    /// A node is cut off and back, again and again.
    PartitionFlapping,
    /// One node after another is cut off, and they come back in another order.
    PartitionSwizzle,
    /// All links of a node break at once.
    LinksDropped,
    /// Syncs take long.
    SlowDisk,
    /// Writes and syncs fail.
    DiskFails,
    /// A wall clock jumps by up to an hour.
    ClockStep,
    /// A new node joins.
    MemberJoins,
    /// A node leaves for good.
    MemberLeaves,
    /// The leader makes a snapshot, and forgets the log before it.
    Snapshot,
    /// A node comes back while the leader makes a snapshot.
    SnapshotDuringCatchUp,
    /// The cloud publishes a bundle.
    Bundle,
    /// The cloud cannot be reached.
    CloudAway,
    /// The cloud's process ends and starts again.
    CloudKilled,
    /// The cloud takes batches, and its acknowledgements are lost.
    AcknowledgementsLost,
    /// The leader hands over.
    Transfer,
    /// A node of another PoP stands at the peers' doors, with a bundle that nobody published.
    Stranger,
}

/// All of them: a run of many seeds that lacks one has not covered what it claims.
pub const ALL: [(Fault, &str); 25] = [
    (Fault::Kill, "kill"),
    (Fault::KillQuorum, "kill of a quorum"),
    (Fault::PowerCut, "power cut"),
    (Fault::PowerCutOfAll, "power cut of all"),
    (Fault::Pause, "pause"),
    (Fault::PartitionOneWay, "partition, one way"),
    (Fault::PartitionLeader, "partition of the leader"),
    (Fault::PartitionDeafLeader, "partition, deaf leader"),
    (Fault::PartitionBridge, "partition, bridge"),
    (Fault::PartitionFlapping, "partition, flapping"),
    (Fault::PartitionSwizzle, "partition, swizzle"),
    (Fault::LinksDropped, "links dropped"),
    (Fault::SlowDisk, "slow disk"),
    (Fault::DiskFails, "disk fails"),
    (Fault::ClockStep, "clock step"),
    (Fault::MemberJoins, "member joins"),
    (Fault::MemberLeaves, "member leaves"),
    (Fault::Snapshot, "snapshot"),
    (Fault::SnapshotDuringCatchUp, "snapshot during catch-up"),
    (Fault::Bundle, "bundle"),
    (Fault::CloudAway, "cloud away"),
    (Fault::CloudKilled, "cloud killed"),
    (Fault::AcknowledgementsLost, "acknowledgement lost"),
    (Fault::Transfer, "leader transfer"),
    (Fault::Stranger, "stranger at the doors"),
];

/// Each as likely as any other.
pub const EACH: [Fault; ALL.len()] = {
    let (mut each, mut at) = ([Fault::Kill; ALL.len()], 0);
    while at < ALL.len() {
        each[at] = ALL[at].0;
        at += 1;
    }
    each
};

/// What happens to a PoP whose cloud is gone.
pub const WITHOUT_CLOUD: [Fault; 12] = [
    Fault::Kill,
    Fault::KillQuorum,
    Fault::PowerCut,
    Fault::PowerCutOfAll,
    Fault::Pause,
    Fault::PartitionLeader,
    Fault::PartitionOneWay,
    Fault::LinksDropped,
    Fault::ClockStep,
    Fault::Snapshot,
    Fault::SnapshotDuringCatchUp,
    Fault::Transfer,
];

impl Fault {
    /// What people call it.
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(fault, _)| *fault == self).map_or("?", |(_, name)| name)
    }
}

/// What ends a fault.
#[derive(Debug, Clone)]
pub enum Undo {
    /// Starts a node; whether the leader makes a snapshot just then.
    Boot(u64, bool),
    /// Lets a node go on.
    Resume(u64),
    /// Lets everything pass between these hosts again.
    Heal(Vec<(String, String)>),
    /// Cuts (true) or heals (false) a node, so many times more.
    Flap(u64, bool, u32),
    /// The disk is as it was; and whether its machine loses its power a moment later, as failing ones do.
    Disk(u64, bool),
    /// A machine that just came back loses its power.
    CutPower(u64),
    /// The cloud is back.
    Cloud,
    /// The cloud's process starts.
    CloudStarts,
    /// Acknowledgements arrive.
    Acknowledgements,
}

/// Faults that have not ended.
#[derive(Debug, Default)]
pub struct Ongoing {
    undo: Vec<(Instant, Undo)>,
    /// A change of members that is not seen through.
    change: Option<Change>,
}

impl World {
    /// Injects faults until a time, and ends those whose time has come.
    pub async fn chaos(&mut self, kinds: &[Fault], until: Instant) {
        while Instant::now() < until {
            let next = Instant::now() + self.setting.pace.ms(self.random.random_range(100..1_500));
            self.expire(next).await;
            sleep_until(next).await;
            let kind = kinds[self.random.random_range(0..kinds.len())];
            self.inject(kind).await;
        }
    }

    async fn expire(&mut self, until: Instant) {
        loop {
            let due = self.ongoing.undo.iter().enumerate().filter(|(_, (at, _))| *at <= until);
            let Some((first, at)) = due.min_by_key(|(_, (at, _))| *at).map(|(i, (at, _))| (i, *at)) else {
                return;
            };
            sleep_until(at).await;
            let (_, undo) = self.ongoing.undo.remove(first);
            self.undo(undo).await;
        }
    }

    fn later(&mut self, min_ms: u64, max_ms: u64, undo: Undo) {
        let at = Instant::now() + self.setting.pace.ms(self.random.random_range(min_ms..max_ms));
        self.ongoing.undo.push((at, undo));
    }

    fn any_running(&mut self) -> Option<u64> {
        let running: Vec<u64> = self.running().into_iter().map(|(node, _)| node).collect();
        (!running.is_empty()).then(|| running[self.random.random_range(0..running.len())])
    }

    fn leader(&self) -> Option<u64> {
        let mut running = self.running().into_iter();
        running.find(|(_, process)| process.store.leadership().borrow().is_leader).map(|(node, _)| node)
    }

    fn shuffled(&mut self) -> Vec<u64> {
        let mut nodes: Vec<u64> = self.machines.keys().copied().collect();
        nodes.shuffle(&mut self.random);
        nodes
    }

    async fn inject(&mut self, fault: Fault) {
        let injected = match fault {
            Fault::Kill | Fault::PowerCut | Fault::SnapshotDuringCatchUp | Fault::Pause => {
                self.hit_one(fault)
            }
            Fault::KillQuorum | Fault::PowerCutOfAll => self.hit_many(fault),
            Fault::PartitionOneWay
            | Fault::PartitionLeader
            | Fault::PartitionDeafLeader
            | Fault::PartitionBridge
            | Fault::PartitionFlapping
            | Fault::PartitionSwizzle
            | Fault::LinksDropped => self.cut(fault),
            Fault::SlowDisk | Fault::DiskFails => self.hit_disk(fault),
            Fault::ClockStep => self.step_clock(),
            Fault::MemberJoins | Fault::MemberLeaves => self.change_members(fault).await,
            Fault::Snapshot => self.snapshot().await,
            Fault::Transfer => self.transfer().await,
            Fault::Stranger => self.stranger(),
            Fault::Bundle | Fault::CloudAway | Fault::CloudKilled | Fault::AcknowledgementsLost => {
                self.hit_cloud(fault)
            }
        };
        // What the cloud really lost is counted at the end.
        if let Some(what) = injected
            && fault != Fault::AcknowledgementsLost
        {
            self.watch.fault(fault.name());
            self.watch.note(|| format!("fault: {}: {what}", fault.name()));
        }
    }

    fn hit_one(&mut self, fault: Fault) -> Option<String> {
        let node = self.any_running()?;
        match fault {
            Fault::Pause => {
                self.machines[&node].process.as_ref()?.host.pause();
                // Half to three elections: lease and timeout, as the defaults are.
                self.later(300, 2_400, Undo::Resume(node));
            }
            Fault::PowerCut => {
                let lost = self.cut_power(node);
                self.later(200, 4_000, Undo::Boot(node, false));
                return Some(format!("node {node}, {lost} writes lost"));
            }
            _ => {
                self.kill(node);
                self.later(200, 4_000, Undo::Boot(node, fault == Fault::SnapshotDuringCatchUp));
            }
        }
        Some(format!("node {node}"))
    }

    fn cut_power(&mut self, node: u64) -> usize {
        self.kill(node);
        let loss = if self.random.random_bool(0.5) { Loss::All } else { Loss::Tail };
        self.machines[&node].disk.cut_power(loss)
    }

    fn hit_many(&mut self, fault: Fault) -> Option<String> {
        let mut nodes = self.shuffled();
        if fault == Fault::KillQuorum {
            nodes.truncate(self.machines.len() / 2 + 1);
        }
        let mut lost = 0;
        for node in nodes.clone() {
            match fault {
                Fault::KillQuorum => self.kill(node),
                _ => lost += self.cut_power(node),
            }
            self.later(200, 3_000, Undo::Boot(node, false));
        }
        Some(format!("nodes {nodes:?}, {lost} writes lost"))
    }

    fn hit_disk(&mut self, fault: Fault) -> Option<String> {
        let node = self.any_running()?;
        let slow = Duration::from_millis(self.random.random_range(20..400));
        let failing = if self.random.random_bool(0.5) { Failing::Syncs } else { Failing::Writes };
        self.machines[&node].disk.set(|disk| match fault {
            Fault::SlowDisk => disk.sync_min = slow,
            _ => disk.failing = Some(failing),
        });
        let dies = fault == Fault::DiskFails && self.random.random_bool(0.5);
        self.later(300, 3_000, Undo::Disk(node, dies));
        let what = if fault == Fault::SlowDisk {
            format!("{} ms", slow.as_millis())
        } else {
            format!("{failing:?}")
        };
        Some(format!("node {node}: {what}"))
    }

    fn step_clock(&mut self) -> Option<String> {
        let node = self.any_running()?;
        let ms = self.random.random_range(-3_600_000..3_600_000);
        self.machines[&node].clock.step(ms);
        Some(format!("node {node} by {ms} ms"))
    }

    async fn snapshot(&mut self) -> Option<String> {
        let (node, process) = self.running().into_iter().find(|(node, _)| Some(*node) == self.leader())?;
        let store = process.store.clone();
        drop(process.host.spawn(async move { store.snapshot().await }));
        Some(format!("node {node}"))
    }

    async fn transfer(&mut self) -> Option<String> {
        let (node, process) = self.running().into_iter().find(|(node, _)| Some(*node) == self.leader())?;
        let store = process.store.clone();
        drop(process.host.spawn(async move { store.transfer_leadership().await }));
        Some(format!("from node {node}"))
    }

    fn hit_cloud(&mut self, fault: Fault) -> Option<String> {
        match fault {
            Fault::Bundle => self.cloud.publish(),
            Fault::CloudAway => {
                self.cut_off_cloud();
                self.later(500, 8_000, Undo::Cloud);
            }
            Fault::CloudKilled => {
                self.setting.network.kill(cloud::HOST);
                self.watch.set_cloud_away(true);
                self.later(200, 3_000, Undo::CloudStarts);
            }
            _ => {
                self.cloud.lose_acknowledgements(3);
                self.later(500, 3_000, Undo::Acknowledgements);
            }
        }
        Some("the cloud".to_owned())
    }

    /// No node reaches the cloud any more.
    pub fn cut_off_cloud(&self) {
        for node in self.machines.keys() {
            self.setting.network.isolate(cloud::HOST, &[&host_name(*node)]);
        }
        self.watch.set_cloud_away(true);
    }

    async fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Boot(node, snapshot) => {
                self.boot(node).await;
                if snapshot {
                    self.snapshot().await;
                }
            }
            Undo::Resume(node) => {
                if let Some(process) = self.machines.get(&node).and_then(|machine| machine.process.as_ref()) {
                    process.host.resume();
                }
            }
            Undo::Heal(pairs) => pairs.iter().for_each(|(from, to)| self.setting.network.heal(from, to)),
            Undo::Flap(node, cut, left) => {
                for (from, to) in self.around(node) {
                    match cut {
                        true => self.setting.network.partition(&from, &to),
                        false => self.setting.network.heal(&from, &to),
                    }
                }
                if left > 0 || cut {
                    self.later(20, 400, Undo::Flap(node, !cut, left.saturating_sub(1)));
                }
            }
            Undo::CutPower(node) => {
                if self.machines.contains_key(&node) {
                    self.watch.fault(Fault::PowerCut.name());
                    let lost = self.cut_power(node);
                    self.watch.note(|| format!("fault: power cut: node {node}, {lost} writes lost"));
                    self.later(100, 1_000, Undo::Boot(node, false));
                }
            }
            Undo::Disk(node, dies) => {
                let Some(machine) = self.machines.get(&node) else { return };
                machine.disk.set(|disk| {
                    disk.failing = None;
                    disk.sync_min = Duration::from_micros(200);
                });
                self.restart_ended().await;
                if dies {
                    self.later(1, 300, Undo::CutPower(node));
                }
            }
            Undo::Cloud => {
                for node in self.machines.keys() {
                    self.setting.network.heal(cloud::HOST, &host_name(*node));
                    self.setting.network.heal(&host_name(*node), cloud::HOST);
                }
                self.watch.set_cloud_away(false);
            }
            Undo::CloudStarts => {
                // It may have been killed twice, and started once already.
                drop(self.cloud.start());
                self.watch.set_cloud_away(false);
            }
            Undo::Acknowledgements => self.cloud.lose_acknowledgements(0),
        }
    }

    /// Starts nodes again that ended by themselves, as whoever runs them does.
    pub async fn restart_ended(&mut self) {
        let ended: Vec<u64> = self
            .running()
            .into_iter()
            .filter(|(_, process)| process.host.runs() && process.store.failure().is_some())
            .map(|(node, _)| node)
            .collect();
        for node in ended {
            self.watch.note(|| format!("node {node} ended by itself"));
            self.kill(node);
            self.boot(node).await;
        }
    }

    /// Ends all faults.
    pub async fn stop_faults(&mut self) {
        while let Some((_, undo)) = self.ongoing.undo.pop() {
            let undo = match undo {
                Undo::Flap(node, ..) => Undo::Flap(node, false, 0),
                other => other,
            };
            self.undo(undo).await;
        }
        self.setting.network.heal_all();
        for node in self.machines.keys().copied().collect::<Vec<_>>() {
            self.boot(node).await;
        }
        self.restart_ended().await;
        self.see_change_through().await;
        self.watch.note(|| "the last fault is over".to_owned());
    }
}
