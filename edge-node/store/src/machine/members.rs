//! Who is in the group, and who once was: a node id is never given twice, because a node that lost its data must not come
//! back as the one that promised (Ongaro 2014, 4.2: a server's votes and log are its identity).

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::NodeId;
use serde::{Deserialize, Serialize};

use super::{Base, State};

/// Most ids of nodes that left. Beyond it, nobody may join any more.
pub const REMOVED_LEN_MAX: usize = 65_536;

/// Members, as of the last membership entry applied.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Members {
    /// Raft's own membership, encoded by the driver: opaque here.
    pub membership: Vec<u8>,
    /// Ids of all nodes in it, learners included.
    pub nodes: BTreeSet<NodeId>,
    /// Ids of nodes that left.
    pub removed: BTreeSet<NodeId>,
}

impl<B: Base> State<B> {
    /// Takes in a membership entry.
    pub fn change_members(&mut self, membership: Vec<u8>, nodes: BTreeSet<NodeId>) {
        let members = Arc::make_mut(&mut self.heads.members);
        members.removed.extend(members.nodes.difference(&nodes));
        members.nodes = nodes;
        members.membership = membership;
    }
}
