//! A linearizable read (budget, consent) shows what any linearizable read that ended before it began had shown, and nothing
//! that nobody sent. What was acknowledged before it began is `acked_write_survives`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Consistency, Fact, Invariant, Serial, Visitor};

/// What was sent, and when a linearizable read first showed it.
#[derive(Debug, Default)]
pub struct LinearizableReads {
    sent: BTreeSet<(Visitor, Serial)>,
    shown: BTreeMap<Visitor, BTreeMap<Serial, Duration>>,
}

impl Invariant for LinearizableReads {
    fn name(&self) -> &'static str {
        "linearizable_reads"
    }

    fn observe(&mut self, at: Duration, fact: &Fact<'_>) -> Result<(), String> {
        if let Fact::Sent { visitor, serial, .. } = fact {
            self.sent.insert((*visitor, *serial));
        }
        let Fact::Read(read) = fact else { return Ok(()) };
        if let Some(serial) = read.seen.iter().find(|serial| !self.sent.contains(&(read.visitor, **serial))) {
            let visitor = read.visitor;
            return Err(format!(
                "node {} shows event {serial} of visitor {visitor}: nobody sent it",
                read.node
            ));
        }
        if read.consistency != Consistency::Linearizable {
            return Ok(());
        }
        let seen: BTreeSet<_> = read.seen.iter().copied().collect();
        let shown = self.shown.entry(read.visitor).or_default();
        let gone = shown.iter().find(|(serial, since)| **since <= read.began && !seen.contains(serial));
        let verdict = match gone {
            Some((serial, _)) => Err(format!(
                "a read had shown event {serial} of visitor {}, a later one on node {} does not",
                read.visitor, read.node
            )),
            None => Ok(()),
        };
        for serial in seen {
            shown.entry(serial).or_insert(at);
        }
        verdict
    }
}
