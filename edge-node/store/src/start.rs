//! Whether a node may start on the folder it has: one that promised more than it holds must not.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use proto::NodeId;
use proto::peer::{PeerReply, PeerRequest, Promise};

use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::log::LogStore;
use crate::network::{Lane, Peers, kept};
use crate::types::StoredMembership;

/// How long another node may take to say what it knows. Where a whole PoP starts, none answers.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// What a folder holds.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    term: u64,
    last_log: u64,
}

impl Held {
    /// Of a log.
    pub fn of(log: &LogStore) -> Self {
        Self { term: log.vote().map_or(0, |vote| vote.leader_id.term), last_log: log.last_index() }
    }
}

/// Asks the other members what this node promised.
///
/// # Errors
/// [`StoreError::OlderCopy`] where that is more than it holds.
pub async fn check(
    config: &StoreConfig,
    members: &StoredMembership,
    peers: &Peers,
    held: Held,
) -> Result<(), StoreError> {
    if held.last_log == 0 {
        // An empty folder is told by its number, which is new. An older copy of one that was empty then is not: nothing in it names
        // the members that would know.
        return Ok(());
    }
    let others = members.membership().nodes().filter(|(node, _)| **node != config.node.0);
    let asked = others.map(|(node, at)| async move {
        let address = Arc::from(at.addr.as_str());
        let asked = peers.call(NodeId(*node), &address, Lane::Raft, &PeerRequest::Promised, ASKED_WITHIN);
        match asked.await {
            Ok(PeerReply::Promised(promise)) => Some((*node, promise)),
            _ => None,
        }
    });
    for (node, promise) in join_all(asked).await.into_iter().flatten() {
        if !kept(promise, held.term, held.last_log) {
            let Promise { term, matched, committed } = promise;
            return Err(StoreError::OlderCopy {
                path: config.dir.clone(),
                promised: format!(
                    "node {node} heard it in term {term}, with the log up to {}",
                    matched.max(committed)
                ),
                held: format!("term {}, the log up to {}", held.term, held.last_log),
            });
        }
    }
    Ok(())
}
