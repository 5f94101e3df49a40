//! All nodes have the same state at the same log index, whatever way they came there.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::Digest;

use super::{Fact, Invariant, Node};

/// The first digest seen at each index, and who had it.
#[derive(Debug, Default)]
pub struct ReplicasAgree {
    digests: BTreeMap<u64, (Digest, Node)>,
}

impl Invariant for ReplicasAgree {
    fn name(&self) -> &'static str {
        "replicas_agree"
    }

    fn observe(&mut self, _: Duration, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Digest { node, index, digest } = fact else { return Ok(()) };
        let (first, who) = self.digests.entry(*index).or_insert((*digest, *node));
        if first == digest {
            return Ok(());
        }
        Err(format!("at index {index} node {node} has {digest}, node {who} had {first}"))
    }
}
