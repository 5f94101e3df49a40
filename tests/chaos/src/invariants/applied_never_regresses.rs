//! What a node has applied, it has applied as long as it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Fact, Invariant, Node};

/// Index by node and life.
#[derive(Debug, Default)]
pub struct AppliedNeverRegresses {
    applied: BTreeMap<(Node, u64), u64>,
}

impl Invariant for AppliedNeverRegresses {
    fn name(&self) -> &'static str {
        "applied_never_regresses"
    }

    fn observe(&mut self, _: Duration, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Applied { node, life, index, .. } = fact else { return Ok(()) };
        let before = self.applied.entry((*node, *life)).or_default();
        if index < before {
            return Err(format!("node {node} went back from {before} to {index}"));
        }
        *before = *index;
        Ok(())
    }
}
