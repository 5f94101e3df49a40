//! A node answers reads while the cloud is away.

use std::time::Duration;

use super::{Fact, Invariant};

/// Needs no memory: each read is judged on its own.
#[derive(Debug, Default)]
pub struct ReadsAnswerWhileCloudIsGone;

impl Invariant for ReadsAnswerWhileCloudIsGone {
    fn name(&self) -> &'static str {
        "reads_answer_while_cloud_is_gone"
    }

    fn observe(&mut self, _: Duration, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::AskedWithoutCloud { node, answered: false } => {
                Err(format!("node {node} did not answer a read while the cloud was away"))
            }
            _ => Ok(()),
        }
    }
}
