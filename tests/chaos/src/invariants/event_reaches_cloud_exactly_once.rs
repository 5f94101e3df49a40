//! Every acknowledged event is in the cloud once, at one offset, and offsets have no holes: with the cloud away, the leader
//! killed, batches cut in half.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::{EventId, Offset};

use super::{Fact, Invariant};

/// What the cloud has, and what it owes.
#[derive(Debug, Default)]
pub struct EventReachesCloudExactlyOnce {
    sent: BTreeMap<EventId, (u64, u64)>,
    acknowledged: BTreeSet<(u64, u64)>,
    taken: BTreeMap<EventId, Offset>,
    last: Offset,
}

impl Invariant for EventReachesCloudExactlyOnce {
    fn name(&self) -> &'static str {
        "event_reaches_cloud_exactly_once"
    }

    fn observe(&mut self, _: Duration, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Sent { visitor, serial, id } => {
                self.sent.insert(*id, (*visitor, *serial));
                Ok(())
            }
            Fact::Acknowledged { visitor, serial } => {
                self.acknowledged.insert((*visitor, *serial));
                Ok(())
            }
            Fact::Taken { offset, id } => {
                if offset.0 != self.last.0 + 1 {
                    return Err(format!("the cloud took offset {offset} after {}", self.last));
                }
                self.last = *offset;
                if !self.sent.contains_key(id) {
                    return Err(format!("the cloud took event {id} at {offset}: nobody sent it"));
                }
                match self.taken.insert(*id, *offset) {
                    Some(before) => Err(format!("event {id} is at offset {before} and at {offset}")),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn end(&self) -> Result<(), String> {
        let mut there = BTreeMap::new();
        for id in self.taken.keys() {
            if let Some(key) = self.sent.get(id)
                && let Some(other) = there.insert(key, id)
            {
                let (visitor, serial) = key;
                return Err(format!(
                    "event {serial} of visitor {visitor} is in the cloud as {other} and as {id}"
                ));
            }
        }
        match self.acknowledged.iter().find(|key| !there.contains_key(key)) {
            Some((visitor, serial)) => {
                Err(format!("event {serial} of visitor {visitor} was acknowledged, and is not in the cloud"))
            }
            None => Ok(()),
        }
    }
}
