//! Nothing that waits grows without bound, whoever is slow or gone.

use std::time::Duration;

use super::{Fact, Invariant};

/// What waits at a node, and how much may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Proposals and notes that wait for a group, and their maximum.
    pub queue: (u64, u64),
    /// Entries in the log that are not applied, and their maximum.
    pub unapplied: (u64, u64),
    /// Events that wait for the cloud, and their maximum.
    pub outbox: (u64, u64),
}

/// Needs no memory: each length is judged on its own.
#[derive(Debug, Default)]
pub struct QueuesStayBounded;

impl Invariant for QueuesStayBounded {
    fn name(&self) -> &'static str {
        "queues_stay_bounded"
    }

    fn observe(&mut self, _: Duration, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Waits { node, lengths } = fact else { return Ok(()) };
        let all = [
            ("proposals", lengths.queue),
            ("unapplied entries", lengths.unapplied),
            ("events for the cloud", lengths.outbox),
        ];
        match all.iter().find(|(_, (len, max))| len > max) {
            Some((what, (len, max))) => Err(format!("{len} {what} wait at node {node}, at most {max} may")),
            None => Ok(()),
        }
    }
}
