//! Which folder each peer had when it was first heard of.
//!
//! A node's vote and log are its identity: one that lost them and comes back under its old id could elect a leader that
//! lacks what was acknowledged. So every Raft message names its sender's folder, and a peer whose folder changed is not
//! heard any more. It leaves, and joins under a new id.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use proto::NodeId;

use crate::durable::{self, Incarnation};
use crate::error::StoreError;
use crate::runtime;

/// Bytes before the body of every Raft message.
pub const HEAD_BYTES: usize = 16;
/// Most peers that are remembered.
const PINS_LEN_MAX: usize = 65_536;

/// The folders of the peers.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
    own: Incarnation,
    known: RwLock<BTreeMap<NodeId, Incarnation>>,
    writing: tokio::sync::Mutex<()>,
}

impl Pins {
    /// Reads what was remembered.
    pub fn open(path: &Path, own: Incarnation) -> Result<Self, StoreError> {
        let mut known = BTreeMap::new();
        for line in durable::read_file(path)?.unwrap_or_default().lines() {
            let pin = line.split_once(' ').and_then(|(node, number)| {
                Some((NodeId(node.parse().ok()?), Incarnation(u128::from_str_radix(number, 16).ok()?)))
            });
            known.extend([pin.ok_or_else(|| StoreError::corrupt("the file of pins", line))?]);
        }
        Ok(Self { path: path.to_owned(), own, known: RwLock::new(known), writing: Default::default() })
    }

    /// A message's bytes, with this node's folder before them.
    pub fn seal(&self, body: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(HEAD_BYTES + body.len());
        sealed.extend_from_slice(&self.own.0.to_be_bytes());
        sealed.extend_from_slice(body);
        sealed
    }

    /// A message's bytes, if its sender has the folder that it always had. Who is heard of for the first time is
    /// remembered, durably.
    pub async fn open_from<'a>(&self, from: NodeId, sealed: &'a [u8]) -> Result<&'a [u8], StoreError> {
        let (head, body) = sealed
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or_else(|| StoreError::Invalid("a message without head".into()))?;
        let named = Incarnation(u128::from_be_bytes(*head));
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&from).copied();
        match known {
            Some(known) if known == named => Ok(body),
            Some(_) => Err(StoreError::Conflict(format!(
                "node {from} lost its data: let it leave, and join under a new id"
            ))),
            None => self.remember(from, named).await.map(|()| body),
        }
    }

    async fn remember(&self, from: NodeId, named: Incarnation) -> Result<(), StoreError> {
        // One at a time: what is written last must be what is known last.
        let _writing = self.writing.lock().await;
        let text = {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if known.get(&from).is_some_and(|known| *known != named) {
                return Err(StoreError::Conflict(format!(
                    "node {from} was heard of with two folders at once"
                )));
            }
            if known.len() >= PINS_LEN_MAX {
                return Err(StoreError::Conflict("too many nodes were members once".into()));
            }
            known.insert(from, named);
            known.iter().map(|(node, number)| format!("{node} {:032x}\n", number.0)).collect::<String>()
        };
        let path = self.path.clone();
        let write = move || durable::write_file(&path, text.as_bytes());
        runtime::blocking(write).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_lost_its_data_is_not_heard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let (before, after) = (Incarnation(7), Incarnation(8));
        let peer = |own| Pins::open(&dir.path().join("peer"), own).unwrap();
        let pins = Pins::open(&path, Incarnation(1)).unwrap();
        assert_eq!(pins.open_from(NodeId(2), &peer(before).seal(b"hello")).await.unwrap(), b"hello");
        assert_eq!(pins.open_from(NodeId(2), &peer(before).seal(b"again")).await.unwrap(), b"again");
        assert!(pins.open_from(NodeId(2), &peer(after).seal(b"hello")).await.is_err());
        assert_eq!(pins.open_from(NodeId(3), &peer(after).seal(b"hello")).await.unwrap(), b"hello");
        // And it is remembered.
        let pins = Pins::open(&path, Incarnation(1)).unwrap();
        assert!(pins.open_from(NodeId(2), &peer(after).seal(b"hello")).await.is_err());
        assert!(pins.open_from(NodeId(2), &[0; HEAD_BYTES - 1]).await.is_err());
    }
}
