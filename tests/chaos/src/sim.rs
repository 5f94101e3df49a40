//! Deterministic simulation: a PoP, its cloud and its clients in one process, on virtual time, from one seed.
//!
//! Real: openraft, the whole of `edge-store` above its files (`edge_store::sim` stands in for files, threads and signals), the
//! uplink, the in-memory [`transport::memory::Network`]. Simulated: the disk and its page cache, the machine's power, the
//! cloud's storage ([`cloud`]). Every fault comes from the seed; when the last is over, the PoP must heal.
//!
//! Why not turmoil: it gives each host a runtime whose clock only moves by ticks, which costs thousands of idle polls a virtual
//! second, and it cannot pause a host. Here a host is a set of tasks on one paused tokio clock: time jumps to the next thing
//! that happens, and SIGKILL, SIGSTOP and power cuts are one call each.

mod client;
mod cloud;
pub mod edges;
mod faults;
mod machine;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::invariants::Violation;

pub use faults::{ALL as FAULTS, Fault};

/// How long faults are injected, in virtual time.
const CHAOS: Duration = Duration::from_secs(20);
/// Within which everything must have healed after that, in virtual time.
pub const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// How much slower everything goes while the cloud is away for days: heartbeats of 20 s instead of 80 ms, and so on.
const AWAY_PACE: Pace = Pace(250);
/// And the clients' operations, so that what waits for the cloud can be looked through often.
const AWAY_THINK: Pace = Pace(2_500);

/// How many times slower a PoP, its clients and its faults go than by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace(u32);

impl Pace {
    const DEFAULT: Pace = Pace(1);

    fn of(self, duration: Duration) -> Duration {
        duration * self.0
    }

    fn ms(self, ms: u64) -> Duration {
        self.of(Duration::from_millis(ms))
    }
}

/// What to simulate.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Everything that happens follows from it.
    pub seed: u64,
    /// Print what happens.
    pub trace: bool,
    /// The cloud goes right after the start and stays away for so long; none: faults of all kinds for some seconds.
    pub away: Option<Duration>,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// SHA-256 of the event log: the same seed gives the same.
    pub log: String,
    /// Facts that were checked, by kind.
    pub checked: BTreeMap<String, u64>,
    /// Faults that took effect, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Promises that were broken.
    pub violations: Vec<Violation>,
}

/// Simulates one seed. Call it once in a process: what the standard library seeds once a process would differ the next time.
///
/// # Errors
/// Where the machine gives no temporary folder.
pub fn run(options: &Options) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(world::simulate(options))
}
