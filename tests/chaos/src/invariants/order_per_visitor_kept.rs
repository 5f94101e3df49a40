//! A visitor's events are counted and reach the cloud in the order in which they were sent, where each was acknowledged
//! before the next was sent. (Of visitors whom several clients write, nobody waits for the others.)

use std::collections::BTreeMap;
use std::time::Duration;

use proto::EventId;

use super::{Fact, Invariant, SHARED_FROM, Serial, Visitor};

/// The last serial that the cloud took, by visitor.
#[derive(Debug, Default)]
pub struct OrderPerVisitorKept {
    sent: BTreeMap<EventId, (Visitor, Serial)>,
    taken: BTreeMap<Visitor, Serial>,
}

impl Invariant for OrderPerVisitorKept {
    fn name(&self) -> &'static str {
        "order_per_visitor_kept"
    }

    fn observe(&mut self, _: Duration, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Sent { visitor, serial, id } if *visitor < SHARED_FROM => {
                self.sent.insert(*id, (*visitor, *serial));
                Ok(())
            }
            Fact::Taken { id, .. } => {
                let Some((visitor, serial)) = self.sent.get(id) else { return Ok(()) };
                match self.taken.insert(*visitor, *serial) {
                    Some(before) if before >= *serial => {
                        Err(format!("the cloud took event {serial} of visitor {visitor} after {before}"))
                    }
                    _ => Ok(()),
                }
            }
            Fact::Read(read) if read.visitor < SHARED_FROM => {
                match read.seen.windows(2).find(|pair| pair[0] >= pair[1]) {
                    Some(pair) => Err(format!(
                        "node {} counted event {} of visitor {} before {}",
                        read.node, pair[0], read.visitor, pair[1]
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
