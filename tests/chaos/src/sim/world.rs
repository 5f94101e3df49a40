//! One simulation from its start to its judgement.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::{Digest, NodeId};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::memory::Network;

use super::client::{Client, Directory, linearizable};
use super::cloud::{self, Cloud};
use super::faults::{self, Ongoing};
use super::machine::{Machine, Process, Setting, address};
use super::{AWAY_PACE, AWAY_THINK, CHAOS, HEALED_WITHIN, Options, Outcome, Pace};
use crate::invariants::{Consistency, Fact, Healed, Lengths, Oracle, Read, Visitor};

/// Clients of a simulation.
const CLIENTS: u64 = 4;
/// Events that may wait for the cloud: few, so that it happens; or all of some days.
const OUTBOX_MAX: u64 = 100;
const OUTBOX_AWAY_MAX: u64 = 1_000_000;
/// How often nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// One look in so many also compares digests and queues.
const LOOK_CLOSELY: u32 = 25;
/// How long a node may take to say its digest.
const DIGEST_WITHIN: Duration = Duration::from_secs(2);
/// Entries that a leader may hold beyond what is applied: `edge-store` refuses at 512, and a few groups are on their way.
const UNAPPLIED_MAX: u64 = 512 + 64;
/// How long a write may take that shows that a node has healed.
const PROOF_WITHIN: Duration = Duration::from_secs(3);

/// The observer of a simulation: the oracle, the event log and the clock. Clones are the same one.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    trace: bool,
    oracle: Mutex<Oracle>,
    journal: Mutex<Sha256>,
    visitors: Mutex<Vec<Visitor>>,
    faults: Mutex<BTreeMap<String, u64>>,
    cloud_away: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Sees nothing yet.
    pub fn new(trace: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                began: Instant::now(),
                trace,
                oracle: Mutex::default(),
                journal: Mutex::default(),
                visitors: Mutex::default(),
                faults: Mutex::default(),
                cloud_away: AtomicBool::new(false),
            }),
        }
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Takes in a fact.
    pub fn observe(&self, fact: &Fact<'_>) {
        if let Fact::Acknowledged { visitor, .. } = fact {
            let mut visitors = lock(&self.shared.visitors);
            if visitors.last() != Some(visitor) && !visitors.contains(visitor) {
                visitors.push(*visitor);
            }
        }
        if !matches!(fact, Fact::Waits { .. } | Fact::Applied { .. } | Fact::Leads { .. }) {
            self.note(|| format!("{fact:?}"));
        }
        lock(&self.shared.oracle).observe(self.now(), fact);
    }

    /// Adds a line to the event log.
    #[expect(clippy::print_stdout, reason = "a trace is what was asked for")]
    pub fn note(&self, line: impl FnOnce() -> String) {
        let line = format!("{:>9.3} {}\n", self.now().as_secs_f64() * 1_000.0, line());
        lock(&self.shared.journal).update(&line);
        if self.shared.trace {
            print!("{line}");
        }
    }

    /// Counts a fault that took effect.
    pub fn fault(&self, kind: &str) {
        *lock(&self.shared.faults).entry(kind.to_owned()).or_default() += 1;
    }

    /// A visitor who has events.
    pub fn any_visitor(&self, random: &mut SmallRng) -> Option<Visitor> {
        let visitors = lock(&self.shared.visitors);
        (!visitors.is_empty()).then(|| visitors[random.random_range(0..visitors.len())])
    }

    fn visitors(&self) -> Vec<Visitor> {
        lock(&self.shared.visitors).clone()
    }

    /// Whether nodes cannot reach the cloud.
    pub fn set_cloud_away(&self, away: bool) {
        self.shared.cloud_away.store(away, Ordering::Relaxed);
    }
}

/// Everything that is simulated.
pub struct World {
    /// The schedule's randomness.
    pub random: SmallRng,
    /// What nodes share.
    pub setting: Setting,
    /// The machines, by node.
    pub machines: BTreeMap<u64, Machine>,
    /// Nodes that left: their ids are not used again.
    pub next_node: u64,
    /// The cloud.
    pub cloud: Cloud,
    /// The observer.
    pub watch: Watch,
    /// Faults that have not ended.
    pub ongoing: Ongoing,
    /// Where clients find nodes.
    directory: Directory,
    folder: TempDir,
}

/// Simulates one seed.
pub async fn simulate(options: &Options) -> anyhow::Result<Outcome> {
    let watch = Watch::new(options.trace);
    let mut world = World::new(options, watch.clone())?;
    let pace = world.setting.pace;
    world.cloud.start()?;
    world.cloud.publish();
    for node in world.machines.keys().copied().collect::<Vec<_>>() {
        world.boot(node).await;
    }
    let stop = CancellationToken::new();
    let clients = TaskTracker::new();
    for number in 1..=CLIENTS {
        let client = Client::new(number, &world.setting, world.directory.clone(), watch.clone());
        clients.spawn(client.run(stop.clone()));
    }
    let looking = tokio::spawn(look(world.directory.clone(), watch.clone(), pace));

    match options.away {
        Some(away) => world.without_cloud(away).await,
        None => world.chaos(&faults::EACH, Instant::now() + CHAOS).await,
    }
    world.heal().await;
    stop.cancel();
    clients.close();
    clients.wait().await;
    world.judge().await;
    looking.abort();
    if world.cloud.lost() > 0 {
        watch.fault("acknowledgement lost");
    }
    Ok(outcome(options.seed, &watch))
}

fn outcome(seed: u64, watch: &Watch) -> Outcome {
    let mut oracle = lock(&watch.shared.oracle);
    oracle.end(watch.now());
    let digest = lock(&watch.shared.journal).clone().finalize();
    Outcome {
        seed,
        log: Digest(digest.into()).to_string(),
        checked: oracle.checked().iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
        faults: lock(&watch.shared.faults).clone(),
        violations: oracle.violations().to_vec(),
    }
}

impl World {
    fn new(options: &Options, watch: Watch) -> anyhow::Result<Self> {
        let seed = options.seed;
        let mut random = SmallRng::seed_from_u64(seed);
        let network = Network::new(random.random());
        // Files that are synced at once anyway: memory is enough for them.
        let shm = std::path::Path::new("/dev/shm");
        let folder = if shm.is_dir() { TempDir::new_in(shm)? } else { TempDir::new()? };
        let nodes = if random.random_range(0..3) == 0 { 5 } else { 3 };
        let machine = |node| Machine::new(node, seed, folder.path().to_owned(), watch.shared.began);
        let machines = (1..=nodes).map(|node| (node, machine(node))).collect();
        let founders = (1..=nodes).map(|node| (NodeId(node), address(node))).collect();
        let cloud = Cloud::new(random.random(), network.clone(), watch.clone());
        let (pace, think, outbox_len_max) = match options.away {
            Some(_) => (AWAY_PACE, AWAY_THINK, OUTBOX_AWAY_MAX),
            None => (Pace::DEFAULT, Pace::DEFAULT, OUTBOX_MAX),
        };
        watch.note(|| format!("seed {seed}, {nodes} nodes"));
        Ok(Self {
            random,
            setting: Setting { pace, think, outbox_len_max, seed, network, founders },
            machines,
            next_node: nodes + 1,
            cloud,
            watch,
            ongoing: Ongoing::default(),
            directory: Directory::default(),
            folder,
        })
    }

    /// Adds a machine that no node was on before.
    pub fn add_machine(&mut self) -> u64 {
        let (node, seed) = (self.next_node, self.setting.seed);
        self.next_node += 1;
        let folder = self.folder.path().to_owned();
        self.machines.insert(node, Machine::new(node, seed, folder, self.watch.shared.began));
        node
    }

    /// Starts a node, if it does not run.
    pub async fn boot(&mut self, node: u64) {
        let Some(machine) = self.machines.get_mut(&node).filter(|machine| machine.process.is_none()) else {
            return;
        };
        let booted = machine.boot(&self.setting).await;
        // The folder has another name in each run, and an error may say it.
        let folder = format!("{}/", self.folder.path().display());
        self.watch.note(|| format!("node {node} starts: {booted:?}").replace(&folder, ""));
        if let Some(process) = &machine.process {
            lock(&self.directory).insert(node, process.clone());
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: u64) {
        lock(&self.directory).remove(&node);
        if let Some(machine) = self.machines.get_mut(&node) {
            machine.kill(&self.setting.network);
        }
    }

    /// The nodes that run.
    pub fn running(&self) -> Vec<(u64, Process)> {
        let running = self.machines.iter();
        running.filter_map(|(node, machine)| Some((*node, machine.process.clone()?))).collect()
    }

    /// The cloud is gone for days, and nodes fail meanwhile. Then all machines are switched off and on: what they serve and take then
    /// comes from their disks alone.
    async fn without_cloud(&mut self, away: Duration) {
        let until = Instant::now() + away;
        sleep(self.setting.pace.of(Duration::from_secs(2))).await;
        self.cut_off_cloud();
        self.chaos(&faults::WITHOUT_CLOUD, until).await;
        let nodes: Vec<u64> = self.machines.keys().copied().collect();
        nodes.iter().for_each(|node| self.kill(*node));
        for node in nodes {
            self.boot(node).await;
        }
        self.watch.note(|| "all start anew without the cloud".to_owned());
        for (node, process) in self.running() {
            let served = process.store.active_manifest().is_some();
            self.watch.observe(&Fact::AskedWithoutCloud { node, answered: served });
        }
        sleep(self.setting.pace.of(Duration::from_secs(5))).await;
    }

    /// Waits until everything has healed, and says how it is.
    async fn heal(&mut self) {
        self.stop_faults().await;
        let since = self.watch.now();
        loop {
            let healed = self.healed(since).await;
            let whole = Healed { leader: true, after: healed.after, ..Healed::default() };
            if healed == whole || healed.after >= self.setting.pace.of(HEALED_WITHIN) {
                self.watch.observe(&Fact::Healed(healed));
                return;
            }
            sleep(self.setting.pace.ms(100)).await;
            for node in self.machines.keys().copied().collect::<Vec<_>>() {
                self.boot(node).await;
            }
            // A node whose disk failed ended itself; whoever runs it starts it again.
            self.restart_ended().await;
        }
    }

    async fn healed(&self, since: Duration) -> Healed {
        let nodes = self.running();
        let views: Vec<_> = nodes.iter().map(|(_, process)| *process.store.leadership().borrow()).collect();
        let leaders: Vec<_> = views.iter().filter(|view| view.is_leader).collect();
        let leader = matches!(leaders[..], [leader] if views.iter().all(|view| view.leader == leader.leader));
        // A node that does not start is not healed.
        let down = self.machines.iter().filter(|(_, machine)| machine.process.is_none());
        let mut refusing: Vec<u64> = down.map(|(node, _)| *node).collect();
        for (node, process) in &nodes {
            if leader && !prove(process, self.setting.pace).await {
                refusing.push(*node);
            }
        }
        let applied: Vec<_> = nodes.iter().map(|(node, p)| (*node, *p.store.changes().borrow())).collect();
        let highest = applied.iter().map(|(_, applied)| applied.index).max().unwrap_or(0);
        // Writes go on: a replica that is a few groups behind does not lag.
        let lagging = applied.iter().filter(|(_, applied)| applied.index + 50 < highest);
        let lagging = lagging.map(|(node, _)| *node).collect();
        let outbox = applied.iter().map(|(_, applied)| applied.last_offset.0 - applied.acknowledged.0).min();
        let outbox = outbox.filter(|outbox| *outbox > 100).unwrap_or(0);
        Healed { leader, refusing, lagging, outbox, after: self.watch.now().saturating_sub(since) }
    }

    /// Everything is quiet: all must be everywhere.
    async fn judge(&mut self) {
        let since = self.watch.now();
        loop {
            let applied: Vec<_> = self.running().iter().map(|(_, p)| *p.store.changes().borrow()).collect();
            let equal = applied.windows(2).all(|pair| pair[0].index == pair[1].index);
            let sent = applied.iter().all(|applied| applied.last_offset == applied.acknowledged);
            let after = self.watch.now().saturating_sub(since);
            if equal && sent || after >= self.setting.pace.of(HEALED_WITHIN) {
                let outbox = applied.iter().map(|a| a.last_offset.0 - a.acknowledged.0).max().unwrap_or(0);
                let lagging = if equal { Vec::new() } else { applied.iter().map(|a| a.index).collect() };
                let healed = Healed { leader: true, refusing: Vec::new(), lagging, outbox, after };
                self.watch.observe(&Fact::Healed(healed));
                break;
            }
            sleep(self.setting.pace.ms(50)).await;
        }
        for (node, process) in self.running() {
            say_digest(&self.watch, node, &process).await;
            for visitor in self.watch.visitors() {
                let mut began = self.watch.now();
                let mut read = linearizable(&process, visitor, self.setting.pace).await;
                // What could not be had at the first try may be had at the next: the faults are over since a moment only.
                while read.is_none()
                    && self.watch.now().saturating_sub(since) < self.setting.pace.of(HEALED_WITHIN)
                {
                    sleep(self.setting.pace.ms(50)).await;
                    began = self.watch.now();
                    read = linearizable(&process, visitor, self.setting.pace).await;
                }
                let Some(seen) = read else {
                    let refusing = vec![node];
                    self.watch.observe(&Fact::Healed(Healed { leader: true, refusing, ..Healed::default() }));
                    return;
                };
                let consistency = Consistency::Linearizable;
                self.watch.observe(&Fact::Read(Read { node, visitor, began, consistency, seen: &seen }));
            }
        }
    }
}

/// Whether a node takes a write.
async fn prove(process: &Process, pace: Pace) -> bool {
    let (store, at_ms) = (process.store.clone(), process.clock.now_ms());
    let visitor =
        proto::VisitorId::Device(proto::DeviceId::new("proof").unwrap_or_else(|error| panic!("{error}")));
    let command = proto::command::Command::Served { visitor, items: Vec::new(), at_ms };
    let proposed = process
        .host
        .spawn(async move { store.propose(command, Instant::now() + pace.of(PROOF_WITHIN)).await });
    matches!(proposed.await, Ok(Ok(_)))
}

/// Looks at every node again and again.
async fn look(directory: Directory, watch: Watch, pace: Pace) {
    let mut count: u32 = 0;
    loop {
        sleep(pace.of(LOOK_EVERY)).await;
        count = count.wrapping_add(1);
        let nodes: Vec<_> = lock(&directory).iter().map(|(node, process)| (*node, process.clone())).collect();
        for (node, process) in nodes {
            look_at(&watch, node, &process);
            if count.is_multiple_of(LOOK_CLOSELY) {
                look_closely(&watch, node, &process).await;
            }
        }
    }
}

fn look_at(watch: &Watch, node: u64, process: &Process) {
    let leadership = *process.store.leadership().borrow();
    if leadership.is_leader {
        watch.observe(&Fact::Leads { node, term: leadership.term });
    }
    let applied = *process.store.changes().borrow();
    let (index, revision) = (applied.index, applied.revision);
    watch.observe(&Fact::Applied { node, life: process.life, index, revision });
}

async fn look_closely(watch: &Watch, node: u64, process: &Process) {
    let status = process.store.status();
    let leads = process.store.leadership().borrow().is_leader;
    // A follower that catches up holds what it was sent; what a leader takes is its own to bound.
    let unapplied = if leads { status.last_log.saturating_sub(status.applied) } else { 0 };
    let lengths = Lengths {
        queue: (status.queue_len as u64, process.queue_max),
        unapplied: (unapplied, UNAPPLIED_MAX),
        outbox: (status.outbox_len, process.outbox_max),
    };
    watch.observe(&Fact::Waits { node, lengths });
    if let Some(manifest) = process.store.active_manifest() {
        let revision = process.store.changes().borrow().revision;
        let (manifest, signed) = (cloud::digest(&manifest), cloud::is_signed(&manifest));
        watch.observe(&Fact::Serves { node, revision, manifest, signed });
    }
    if watch.shared.cloud_away.load(Ordering::Relaxed) {
        let visitor = lock(&watch.shared.visitors).last().copied().unwrap_or(0);
        // A node that was killed or stopped meanwhile is no witness.
        let answered = super::client::view(process, visitor).await || !process.host.runs();
        watch.observe(&Fact::AskedWithoutCloud { node, answered });
    }
    say_digest(watch, node, process).await;
}

async fn say_digest(watch: &Watch, node: u64, process: &Process) {
    let store = process.store.clone();
    let digest = process.host.spawn(async move { store.digest().await });
    if let Ok(Ok(Ok((index, digest)))) = timeout(DIGEST_WITHIN, digest).await {
        watch.observe(&Fact::Digest { node, index, digest });
    }
}
