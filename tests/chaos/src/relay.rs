//! A relay between two processes that makes the network between them bad: for UDP (and so QUIC) and for TCP, in user space, on
//! loopback, because the kernel here has no `tc netem` and toxiproxy speaks TCP only.
//!
//! | module | what |
//! |---|---|
//! | [`faults`] | what is done to a direction, and counters of what was really done |
//! | [`lane`] | decides about each datagram: pure, from a seed and a given time |
//! | `queue` | what waits for its time, within limits |
//! | [`udp`], [`tcp`] | the drivers |
//!
//! ```text
//! node 1 ──▶ relay 127.0.0.9:p ── lane up ──▶ node 2
//!        ◀──                  ◀── lane down ──
//! ```
//! Faults are switched at run time. What a run claims to have done, it must show: [`Counts::require`].

pub mod faults;
pub mod lane;
mod queue;
pub mod tcp;
pub mod udp;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

pub use faults::{Counts, Direction, Faults, Kind};
pub use tcp::TcpRelay;
pub use udp::UdpRelay;

use lane::{Lane, Verdict};

/// Both directions of a relay: the faults in force, and what they have done.
#[derive(Debug)]
pub struct Wire {
    faults: Mutex<[Faults; 2]>,
    lanes: [Mutex<Lane>; 2],
    counts: Arc<Counts>,
}

impl Wire {
    /// A good network; what happens on it later follows from the seed.
    pub fn new(seed: u64) -> Self {
        Self {
            faults: Mutex::default(),
            lanes: [Mutex::new(Lane::new(seed)), Mutex::new(Lane::new(seed.wrapping_add(1)))],
            counts: Arc::default(),
        }
    }

    /// Sets what is done to one direction from now on.
    ///
    /// # Errors
    /// Where a share is not from 0 to 1, or a time or rate cannot be kept.
    pub fn set(&self, direction: Direction, faults: Faults) -> anyhow::Result<()> {
        faults.check()?;
        locked(&self.faults)[direction as usize] = faults;
        Ok(())
    }

    /// Makes the network good again, in both directions. What was held back goes its way.
    pub fn heal(&self) {
        *locked(&self.faults) = Default::default();
    }

    /// What was really done so far.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// The faults of a direction, and how silence in it is called.
    fn faults(&self, direction: Direction) -> (Faults, Kind) {
        let both = locked(&self.faults);
        let silence = if both.iter().all(|faults| faults.silent) { Kind::Blackhole } else { Kind::OneWay };
        (both[direction as usize].clone(), silence)
    }

    /// What becomes of `len` bytes that came now. A stream's bytes are never lost, doubled or overtaken: its own retransmission
    /// would hide it.
    fn decide(&self, direction: Direction, len: usize, stream: bool) -> Verdict {
        let (mut faults, silence) = self.faults(direction);
        if stream {
            faults = Faults { loss: 0.0, duplicate: 0.0, reorder: 0.0, silent: false, ..faults };
        }
        let verdict = locked(&self.lanes[direction as usize]).decide(&faults, silence, len, Instant::now());
        if let Verdict::Drop(kind) = &verdict {
            self.counts.add(*kind);
        }
        self.counts.come();
        verdict
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
