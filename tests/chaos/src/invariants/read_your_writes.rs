//! A read that brought its session's token, and was told that it is fresh, shows the session's own acknowledged writes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Consistency, Fact, Invariant, Serial, Visitor};

/// Acknowledged serials. One client writes for a visitor, so its session is the visitor's.
#[derive(Debug, Default)]
pub struct ReadYourWrites {
    acknowledged: BTreeMap<Visitor, BTreeMap<Serial, Duration>>,
}

impl Invariant for ReadYourWrites {
    fn name(&self) -> &'static str {
        "read_your_writes"
    }

    fn observe(&mut self, at: Duration, fact: &Fact<'_>) -> Result<(), String> {
        if let Fact::Acknowledged { visitor, serial } = fact {
            self.acknowledged.entry(*visitor).or_default().entry(*serial).or_insert(at);
        }
        let Fact::Read(read) = fact else { return Ok(()) };
        if read.consistency != Consistency::Session {
            return Ok(());
        }
        let seen: BTreeSet<_> = read.seen.iter().copied().collect();
        let own = self.acknowledged.get(&read.visitor).into_iter().flatten();
        for (serial, _) in own.filter(|(_, at)| **at <= read.began) {
            if !seen.contains(serial) {
                return Err(format!(
                    "node {} said fresh, and lacks the session's event {serial} of visitor {}",
                    read.node, read.visitor
                ));
            }
        }
        Ok(())
    }
}
