//! Some seconds after the last fault there is a leader, every node takes writes, no replica lags, and the cloud has caught up.

use std::time::Duration;

use super::{Fact, Invariant};

/// How things are when everything should have healed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healed {
    /// One node leads, and all others know it.
    pub leader: bool,
    /// Nodes that did not take a write.
    pub refusing: Vec<u64>,
    /// Nodes behind the leader.
    pub lagging: Vec<u64>,
    /// Events that the cloud lacks.
    pub outbox: u64,
    /// How long after the last fault.
    pub after: Duration,
}

/// Needs no memory: each healing is judged on its own.
#[derive(Debug, Default)]
pub struct HealsWhenFaultsStop;

impl Invariant for HealsWhenFaultsStop {
    fn name(&self) -> &'static str {
        "heals_when_faults_stop"
    }

    fn observe(&mut self, _: Duration, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Healed(healed) = fact else { return Ok(()) };
        let seconds = healed.after.as_secs();
        if !healed.leader {
            return Err(format!("no leader {seconds} s after the last fault"));
        }
        if !healed.refusing.is_empty() {
            return Err(format!(
                "nodes {:?} take no write {seconds} s after the last fault",
                healed.refusing
            ));
        }
        if !healed.lagging.is_empty() {
            return Err(format!("nodes {:?} lag {seconds} s after the last fault", healed.lagging));
        }
        if healed.outbox > 0 {
            return Err(format!("the cloud lacks {} events {seconds} s after the last fault", healed.outbox));
        }
        Ok(())
    }
}
