//! What a run observes: the oracle behind a lock, the clock, and the nodes as clients find them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use crate::invariants::{Fact, Oracle, SHARED_FROM, Serial, Violation, Visitor};
use crate::linear::{History, Limits, Operation, Verdicts};

/// A node that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub node: u64,
    /// How often it was started.
    pub life: u64,
    /// Where apps reach it.
    pub clients: String,
    /// Where admins do.
    pub admin: String,
    /// How often it was stopped and let go on in this life.
    pub paused: u64,
}

/// The observer of a run. Clones are the same one.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    oracle: Mutex<Oracle>,
    history: Mutex<History>,
    /// The visitor whom all clients write at present, and its last serial.
    common: Mutex<(Visitor, Serial)>,
    directory: Mutex<BTreeMap<u64, Node>>,
    visitors: Mutex<Vec<Visitor>>,
    faults: Mutex<BTreeMap<String, u64>>,
    /// The highest log index that anybody was told of.
    horizon: AtomicU64,
    cloud_away: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                began: Instant::now(),
                oracle: Mutex::default(),
                history: Mutex::default(),
                common: Mutex::new((SHARED_FROM, 0)),
                directory: Mutex::default(),
                visitors: Mutex::default(),
                faults: Mutex::default(),
                horizon: AtomicU64::new(0),
                cloud_away: AtomicBool::new(false),
            }),
        }
    }
}

impl Watch {
    /// Time since the start.
    pub fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Takes in a fact, of now.
    pub fn observe(&self, fact: &Fact<'_>) {
        if let Fact::Sent { visitor, .. } = fact {
            let mut visitors = lock(&self.shared.visitors);
            if !visitors.contains(visitor) {
                visitors.push(*visitor);
            }
        }
        let mut oracle = lock(&self.shared.oracle);
        // The time is taken under the lock: facts come to the oracle in the order of their times.
        oracle.observe(self.now(), fact);
    }

    /// Takes in what a client did to a visitor, for the search at the end.
    pub fn record(&self, visitor: Visitor, operation: Operation) {
        lock(&self.shared.history).add(visitor, operation);
    }

    /// Serials of the visitor whom all clients write: so many, from one on, of at most `max` a visitor.
    pub fn common(&self, count: u64, max: u64) -> (Visitor, Serial) {
        let mut common = lock(&self.shared.common);
        if common.1 + count > max {
            *common = (common.0 + 1, 0);
        }
        let first = common.1 + 1;
        common.1 += count;
        (common.0, first)
    }

    /// The visitor whom all clients write at present.
    pub fn common_visitor(&self) -> Visitor {
        lock(&self.shared.common).0
    }

    /// Looks for an order of what clients did to each visitor. `held`: what is there in the end.
    pub fn judge(&self, held: impl Fn(Visitor, Serial) -> bool) -> Verdicts {
        lock(&self.shared.history).judge(held, Limits::default())
    }

    /// Counts a fault that took effect, so many times.
    pub fn fault(&self, kind: &str, times: u64) {
        if times > 0 {
            *lock(&self.shared.faults).entry(kind.to_owned()).or_default() += times;
        }
    }

    /// Says what happens, in the log of this program.
    pub fn note(&self, line: &str) {
        tracing::info!(at_ms = self.now().as_millis(), "{line}");
    }

    /// Somebody was told of a log index.
    pub fn heard(&self, index: u64) {
        self.shared.horizon.fetch_max(index, Ordering::SeqCst);
    }

    /// The highest log index that anybody was told of: a read at least there is linearizable.
    pub fn horizon(&self) -> u64 {
        self.shared.horizon.load(Ordering::SeqCst)
    }

    /// Everybody who has events.
    pub fn visitors(&self) -> Vec<Visitor> {
        lock(&self.shared.visitors).clone()
    }

    /// Somebody who has events.
    pub fn any_visitor(&self, random: &mut SmallRng) -> Option<Visitor> {
        let visitors = lock(&self.shared.visitors);
        (!visitors.is_empty()).then(|| visitors[random.random_range(0..visitors.len())])
    }

    /// Whether nodes cannot reach the cloud.
    pub fn set_cloud_away(&self, away: bool) {
        self.shared.cloud_away.store(away, Ordering::SeqCst);
    }

    /// Whether nodes cannot reach the cloud.
    pub fn cloud_away(&self) -> bool {
        self.shared.cloud_away.load(Ordering::SeqCst)
    }

    /// The nodes that run, paused ones too.
    pub fn nodes(&self) -> Vec<Node> {
        lock(&self.shared.directory).values().cloned().collect()
    }

    /// One that runs.
    pub fn any_node(&self, random: &mut SmallRng) -> Option<Node> {
        let directory = lock(&self.shared.directory);
        let at = random.random_range(0..directory.len().max(1));
        directory.values().nth(at).cloned()
    }

    /// Whether a node runs as it did: it was neither ended nor stopped meanwhile.
    pub fn undisturbed(&self, node: &Node) -> bool {
        lock(&self.shared.directory).get(&node.node) == Some(node)
    }

    /// Whether a node is still in the same life.
    pub fn lives(&self, node: &Node) -> bool {
        lock(&self.shared.directory).get(&node.node).is_some_and(|now| now.life == node.life)
    }

    /// A node was started.
    pub fn enter(&self, node: Node) {
        lock(&self.shared.directory).insert(node.node, node);
    }

    /// A node ends.
    pub fn leave(&self, node: u64) {
        lock(&self.shared.directory).remove(&node);
    }

    /// A node is about to be stopped, or was let go on.
    pub fn disturb(&self, node: u64) {
        if let Some(node) = lock(&self.shared.directory).get_mut(&node) {
            node.paused += 1;
        }
    }

    /// Judges the whole. True: no promise was broken. Once, and only where the run came to its end.
    pub fn end(&self) -> bool {
        let mut oracle = lock(&self.shared.oracle);
        oracle.end(self.now());
        oracle.violations().is_empty()
    }

    /// Facts checked by kind, faults by kind, and what was broken.
    pub fn outcome(&self) -> (BTreeMap<String, u64>, BTreeMap<String, u64>, Vec<Violation>) {
        let oracle = lock(&self.shared.oracle);
        let checked = oracle.checked().iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        (checked, lock(&self.shared.faults).clone(), oracle.violations().to_vec())
    }
}
