//! Links within one process, with a seed: the same seam as QUIC, without sockets and certificates, for tests that must
//! repeat. Latency and jitter come from the seed; partitions, dropped links and deaths from the test.
//!
//! What it models is what QUIC shows to its user: bytes in order or not at all, late rather than lost, windows, stream
//! caps, silence that ends in a timeout, winding down. Under tokio's paused clock on a current-thread runtime, the same
//! seed and the same program give the same run.
//!
//! An address is `host:name`, for example `node-1:peer`. Partitions and deaths concern whole hosts.

mod ends;
mod link;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

pub use ends::{MemoryDialer, MemoryListener};
pub(crate) use link::RawStream;

use crate::error::{LinkError, LinkErrorKind};
use crate::identity::Identity;
use crate::link::Door;
use crate::stream::FrameBudget;
use ends::Entrance;
use wire::Wire;

/// Bytes that half-received frames of one network may hold.
const FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How a network behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Time that bytes take from one end to the other, at least.
    pub latency_ms: u64,
    /// What the seed may add to it, at most.
    pub jitter_ms: u64,
    /// A link is lost after this long a partition.
    pub idle_timeout_ms: u64,
    /// Streams that one side may have open at a time.
    pub max_bidi_streams: usize,
    /// Bytes that may wait unread on one stream.
    pub stream_window_bytes: usize,
    /// Links of one listener at a time.
    pub max_connections: usize,
    /// A link winds down at this age.
    pub connection_age_max_ms: u64,
    /// How long streams in flight may take to finish while a link winds down.
    pub drain_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            latency_ms: 1,
            jitter_ms: 2,
            idle_timeout_ms: 5_000,
            max_bidi_streams: 1_024,
            stream_window_bytes: 4 * 1024 * 1024,
            max_connections: 4_096,
            connection_age_max_ms: 60 * 60 * 1000,
            drain_ms: 10_000,
        }
    }
}

/// A network within this process. Clones are the same network.
#[derive(Debug, Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    seed: u64,
    budget: Arc<FrameBudget>,
    state: Mutex<State>,
    /// Listeners come and go, paths open.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    entrances: BTreeMap<String, Arc<Entrance>>,
    /// Ordered pairs of hosts, from and to, between which nothing passes.
    blocked: BTreeSet<(String, String)>,
    /// How often a host was killed: what it made before is dead.
    deaths: BTreeMap<String, u64>,
    wires: Vec<Weak<Wire>>,
    links_made: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and a test that fails elsewhere should fail there.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn live_wires(&mut self) -> Vec<Arc<Wire>> {
        self.wires.retain(|wire| wire.strong_count() > 0);
        self.wires.iter().filter_map(Weak::upgrade).collect()
    }

    fn is_blocked(&self, from: &str, to: &str) -> bool {
        self.blocked.contains(&(from.to_owned(), to.to_owned()))
    }

    fn deaths(&self, host: &str) -> u64 {
        self.deaths.get(host).copied().unwrap_or(0)
    }
}

impl Network {
    /// An empty network.
    pub fn new(seed: u64) -> Self {
        let shared = Shared {
            seed,
            budget: FrameBudget::new(FRAME_BYTES_MAX),
            state: Mutex::new(State::default()),
            changed: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Listens on `address` as `identity`, with default settings.
    ///
    /// # Errors
    /// [`LinkErrorKind::Io`] where somebody listens there already.
    pub fn listener(
        &self,
        address: &str,
        identity: Identity,
        door: Door,
    ) -> Result<MemoryListener, LinkError> {
        self.listener_with(address, identity, door, Settings::default())
    }

    /// Listens on `address` as `identity`; `settings` hold for every link made there.
    ///
    /// # Errors
    /// [`LinkErrorKind::Io`] where somebody listens there already.
    pub fn listener_with(
        &self,
        address: &str,
        identity: Identity,
        door: Door,
        settings: Settings,
    ) -> Result<MemoryListener, LinkError> {
        let mut state = self.shared.lock();
        if state.entrances.contains_key(address) {
            let taken = std::io::Error::from(std::io::ErrorKind::AddrInUse);
            return Err(LinkErrorKind::Io(Arc::new(taken)).at("listen", address));
        }
        let entrance = Arc::new(Entrance::new(address, identity, door, settings));
        state.entrances.insert(address.to_owned(), Arc::clone(&entrance));
        drop(state);
        self.shared.changed.notify_waiters();
        Ok(MemoryListener::new(self.clone(), entrance))
    }

    /// Dials from `host`, showing `identity` where asked.
    pub fn dialer(&self, host: &str, identity: Option<Identity>) -> MemoryDialer {
        let deaths = self.shared.lock().deaths(host);
        MemoryDialer::new(self.clone(), host.to_owned(), identity, deaths)
    }

    /// From now on nothing passes from host `from` to host `to`; the other direction stays as it is.
    pub fn partition(&self, from: &str, to: &str) {
        let mut state = self.shared.lock();
        state.blocked.insert((from.to_owned(), to.to_owned()));
        state.live_wires().iter().for_each(|wire| wire.set_blocked(from, to, true));
    }

    /// Nothing passes between `host` and `others`, in either direction.
    pub fn isolate(&self, host: &str, others: &[&str]) {
        for other in others {
            self.partition(host, other);
            self.partition(other, host);
        }
    }

    /// Everything passes again from `from` to `to`. What was sent meanwhile arrives now, unless its link is lost.
    pub fn heal(&self, from: &str, to: &str) {
        let mut state = self.shared.lock();
        state.blocked.remove(&(from.to_owned(), to.to_owned()));
        state.live_wires().iter().for_each(|wire| wire.set_blocked(from, to, false));
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// [`Network::heal`] for every pair of hosts.
    pub fn heal_all(&self) {
        let blocked = std::mem::take(&mut self.shared.lock().blocked);
        blocked.iter().for_each(|(from, to)| self.heal(from, to));
    }

    /// Closes every link between two hosts at once, on both sides.
    pub fn drop_links(&self, a: &str, b: &str) {
        for wire in self.shared.lock().live_wires() {
            if wire.connects(a, b) {
                wire.end_both("dropped by the test");
            }
        }
    }

    /// The host dies, as by kill −9: its own links and listeners end at once, and nobody is told. Who was linked to it
    /// hears nothing until the idle timeout. New listeners and dialers of the host are its next life.
    pub fn kill(&self, host: &str) {
        let mut state = self.shared.lock();
        *state.deaths.entry(host.to_owned()).or_default() += 1;
        state.live_wires().iter().for_each(|wire| wire.kill(host));
        state.entrances.retain(|_, entrance| {
            let lives = entrance.host() != host;
            if !lives {
                entrance.end();
            }
            lives
        });
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

/// What stands before the last colon.
fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// SplitMix64 (Steele, Lea & Flood, 2014): small, seeded, good enough for jitter.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}
