//! What a node serves from is what the cloud published under that number, and carries the cloud's signature.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{Digest, Revision};

use super::{Fact, Invariant};

/// Manifests by revision.
#[derive(Debug, Default)]
pub struct ServedModelIsPublishedAndSigned {
    published: BTreeMap<Revision, Digest>,
}

impl Invariant for ServedModelIsPublishedAndSigned {
    fn name(&self) -> &'static str {
        "served_model_is_published_and_signed"
    }

    fn observe(&mut self, _: Duration, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Published { revision, manifest } => {
                self.published.insert(*revision, *manifest);
                Ok(())
            }
            Fact::Serves { node, revision, manifest, signed } => {
                if !signed {
                    return Err(format!(
                        "node {node} serves revision {revision}, whose signature is not the cloud's"
                    ));
                }
                match self.published.get(revision) {
                    Some(published) if published == manifest => Ok(()),
                    Some(_) => Err(format!("node {node} serves something else as revision {revision}")),
                    None => Err(format!("node {node} serves revision {revision}: it was never published")),
                }
            }
            _ => Ok(()),
        }
    }
}
