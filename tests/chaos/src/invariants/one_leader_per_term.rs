//! A term has one leader at most (Ongaro 2014, 3.2, Election Safety).

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Fact, Invariant, Node};

/// Who led, by term.
#[derive(Debug, Default)]
pub struct OneLeaderPerTerm {
    leaders: BTreeMap<u64, Node>,
}

impl Invariant for OneLeaderPerTerm {
    fn name(&self) -> &'static str {
        "one_leader_per_term"
    }

    fn observe(&mut self, _: Duration, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Leads { node, term } = fact else { return Ok(()) };
        match *self.leaders.entry(*term).or_insert(*node) {
            leader if leader == *node => Ok(()),
            leader => Err(format!("nodes {leader} and {node} both led in term {term}")),
        }
    }
}
