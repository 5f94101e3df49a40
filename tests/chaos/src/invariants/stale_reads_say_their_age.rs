//! A local read says how old it may be, and is never older: what was acknowledged before that is in it. And no node says an
//! age beyond the bound, but refuses to date the read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Consistency, Fact, Invariant, Serial, Visitor};

/// Acknowledged serials and when.
#[derive(Debug, Default)]
pub struct StaleReadsSayTheirAge {
    acknowledged: BTreeMap<Visitor, BTreeMap<Serial, Duration>>,
}

impl Invariant for StaleReadsSayTheirAge {
    fn name(&self) -> &'static str {
        "stale_reads_say_their_age"
    }

    fn observe(&mut self, at: Duration, fact: &Fact<'_>) -> Result<(), String> {
        if let Fact::Acknowledged { visitor, serial } = fact {
            self.acknowledged.entry(*visitor).or_default().entry(*serial).or_insert(at);
        }
        let Fact::Read(read) = fact else { return Ok(()) };
        let Consistency::Local { age: Some(age) } = read.consistency else { return Ok(()) };
        let Some(as_of) = read.began.checked_sub(age) else { return Ok(()) };
        let seen: BTreeSet<_> = read.seen.iter().copied().collect();
        let due = self.acknowledged.get(&read.visitor).into_iter().flatten();
        for (serial, since) in due.filter(|(_, since)| **since <= as_of) {
            if !seen.contains(serial) {
                return Err(format!(
                    "node {} said {} ms, and lacks event {serial} of visitor {}, acknowledged {} ms before",
                    read.node,
                    age.as_millis(),
                    read.visitor,
                    read.began.saturating_sub(*since).as_millis()
                ));
            }
        }
        Ok(())
    }
}
