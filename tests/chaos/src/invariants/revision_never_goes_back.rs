//! The active revision only grows: on each node while it runs, and along the log for all of them, restarts included.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::Revision;

use super::{Fact, Invariant, Node};

/// Revisions by log index and by node.
#[derive(Debug, Default)]
pub struct RevisionNeverGoesBack {
    /// The highest revision known to be active at or before an index, by index.
    along_log: BTreeMap<u64, Revision>,
    of_node: BTreeMap<(Node, u64), Revision>,
}

impl Invariant for RevisionNeverGoesBack {
    fn name(&self) -> &'static str {
        "revision_never_goes_back"
    }

    fn observe(&mut self, _: Duration, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Applied { node, life, index, revision } = fact else { return Ok(()) };
        let before = self.of_node.insert((*node, *life), *revision).unwrap_or(Revision(0));
        if *revision < before {
            return Err(format!("node {node} went back from revision {before} to {revision}"));
        }
        if let Some((at, known)) = self.along_log.range(..=*index).next_back()
            && revision < known
        {
            return Err(format!(
                "node {node} has revision {revision} at index {index}, but {known} was active at index {at}"
            ));
        }
        self.along_log.insert(*index, *revision);
        Ok(())
    }
}
