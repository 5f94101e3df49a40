//! Nodes of this PoP that were revoked, as the cloud said: kept on disk, so that a node that starts while the cloud is away
//! refuses them too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use proto::limits::REVOKED_NODES_MAX;
use proto::{NodeId, PopId};
use transport::Identity;
use transport::pki::Revoked;

/// Largest file, in bytes: ids of up to 20 digits, each with a comma.
const FILE_BYTES_MAX: u64 = 32 * REVOKED_NODES_MAX as u64;

/// The list and its file. Nobody is ever taken off it.
#[derive(Debug)]
pub struct RevokedFile {
    path: PathBuf,
    pop: PopId,
    nodes: BTreeSet<NodeId>,
    list: Revoked,
}

impl RevokedFile {
    /// Reads the file; there is none until somebody was revoked.
    pub fn open(path: &Path, pop: &PopId) -> anyhow::Result<Self> {
        let mut file = Self {
            path: path.to_owned(),
            pop: pop.clone(),
            nodes: BTreeSet::new(),
            list: Revoked::default(),
        };
        if path.exists() {
            let damaged = || {
                format!(
                    "cannot read {}, which says who was revoked: remove it only while the cloud can be reached, which \
                     then says it again",
                    path.display()
                )
            };
            let bytes = std::fs::metadata(path).with_context(damaged)?.len();
            anyhow::ensure!(bytes <= FILE_BYTES_MAX, "{}: {bytes} bytes", damaged());
            let text = std::fs::read(path).with_context(damaged)?;
            file.take_in(serde_json::from_slice(&text).with_context(damaged)?);
        }
        Ok(file)
    }

    /// The list that doors and dialers ask.
    pub fn list(&self) -> &Revoked {
        &self.list
    }

    /// How many nodes it holds, which is its version.
    pub fn len(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// Whether nobody was revoked.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds nodes: cut off at once, then written down. Returns those that were not known.
    pub fn add(&mut self, nodes: &[NodeId]) -> anyhow::Result<Vec<NodeId>> {
        let new: Vec<NodeId> = nodes.iter().filter(|node| !self.nodes.contains(node)).copied().collect();
        let room = REVOKED_NODES_MAX.saturating_sub(self.nodes.len());
        anyhow::ensure!(new.len() <= room, "the cloud says that {} more nodes were revoked", new.len());
        if new.is_empty() {
            return Ok(new);
        }
        self.take_in(new.iter().copied().collect());
        let text = serde_json::to_vec(&self.nodes)?;
        service::files::publish(&self.path, &text)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(new)
    }

    fn take_in(&mut self, nodes: BTreeSet<NodeId>) {
        self.list.add(nodes.iter().map(|node| Identity::Node { pop: self.pop.clone(), node: *node }));
        self.nodes.extend(nodes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_only_grows_and_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (path, pop) = (folder.path().join("revoked.json"), PopId::new("fra").unwrap());
        let node = |node| Identity::Node { pop: PopId::new("fra").unwrap(), node: NodeId(node) };
        let mut file = RevokedFile::open(&path, &pop).unwrap();
        assert!(file.is_empty() && !path.exists());
        assert_eq!(file.add(&[NodeId(4), NodeId(2)]).unwrap(), [NodeId(4), NodeId(2)]);
        assert!(file.add(&[NodeId(2)]).unwrap().is_empty());
        assert_eq!(file.add(&[NodeId(2), NodeId(9)]).unwrap(), [NodeId(9)]);
        let mut again = RevokedFile::open(&path, &pop).unwrap();
        assert_eq!(again.len(), 3);
        assert!(again.list().contains(&node(4)) && !again.list().contains(&node(5)));
        let far_too_many: Vec<NodeId> = (100..100 + REVOKED_NODES_MAX as u64).map(NodeId).collect();
        assert!(again.add(&far_too_many).is_err());
        assert_eq!(again.len(), 3);
        std::fs::write(&path, "nonsense").unwrap();
        let error = format!("{:#}", RevokedFile::open(&path, &pop).unwrap_err());
        assert!(error.contains("revoked.json"), "{error}");
    }
}
