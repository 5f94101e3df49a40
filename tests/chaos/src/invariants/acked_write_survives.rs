//! A write that was acknowledged is there ever after: in every linearizable read that begins later, and on every node in the
//! end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Consistency, Fact, Invariant, Read, Serial, Visitor};

/// Acknowledged serials, by visitor.
#[derive(Debug, Default)]
pub struct AckedWriteSurvives {
    acknowledged: BTreeMap<Visitor, BTreeMap<Serial, Duration>>,
}

impl AckedWriteSurvives {
    fn lost(&self, read: &Read<'_>) -> Option<Serial> {
        let seen: BTreeSet<_> = read.seen.iter().copied().collect();
        let acknowledged = self.acknowledged.get(&read.visitor)?;
        acknowledged.iter().find(|(serial, at)| **at <= read.began && !seen.contains(serial)).map(|(s, _)| *s)
    }
}

impl Invariant for AckedWriteSurvives {
    fn name(&self) -> &'static str {
        "acked_write_survives"
    }

    fn observe(&mut self, at: Duration, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Acknowledged { visitor, serial } => {
                self.acknowledged.entry(*visitor).or_default().entry(*serial).or_insert(at);
                Ok(())
            }
            Fact::Read(read) if read.consistency == Consistency::Linearizable => match self.lost(read) {
                Some(serial) => Err(format!(
                    "event {serial} of visitor {} was acknowledged, and node {} does not have it",
                    read.visitor, read.node
                )),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
