//! A node's place in its PoP: who may ask what, and how a node that was removed comes to know it.

use std::sync::Arc;
use std::time::Duration;

use proto::NodeId;
use proto::peer::{MemberChange, PeerReply, PeerRequest, RaftCall};

use super::Inner;
use crate::network::Lane;
use crate::{Membership, leadership};

/// How long a member may take to say whether this node was removed.
const STANDING_WITHIN: Duration = Duration::from_secs(2);

impl Inner {
    /// What only members may ask. Raft's messages, but for one that left and would vote on (Ongaro 2014, 4.2.3), say for themselves
    /// what they are worth.
    pub(super) fn may_ask(&self, from: NodeId, request: &PeerRequest) -> bool {
        match request {
            PeerRequest::Raft { call: RaftCall::Vote, .. } => !self.was_removed(from),
            PeerRequest::Propose(_) | PeerRequest::ReadIndex => {
                !self.leadership.borrow().is_leader || leadership::is_member(&self.raft, from)
            }
            PeerRequest::Member(MemberChange::Leave { node }) if *node == from => true,
            PeerRequest::Member(_) => leadership::is_member(&self.raft, from),
            _ => true,
        }
    }

    pub(super) fn was_removed(&self, node: NodeId) -> bool {
        self.machine.hot().members().removed.contains(&node)
    }

    /// This node's place in its PoP, as far as it knows.
    pub fn membership(&self) -> Membership {
        let own = self.peers.node();
        match leadership::members(&self.raft).iter().find(|member| member.node == own) {
            _ if self.outside.is_known() => Membership::Left,
            Some(member) if member.voter => Membership::Voter,
            Some(_) => Membership::Learner,
            None if self.log.last_index() == 0 => Membership::Waiting,
            None => Membership::Left,
        }
    }

    /// Whether this node was told that it is no member.
    pub fn membership_is_over(&self) -> bool {
        self.outside.is_known()
    }

    /// Asks the members that this node knows whether it was removed: nobody tells one that was.
    pub async fn ask_whether_removed(&self) {
        let own = self.peers.node();
        let others = leadership::members(&self.raft).into_iter().filter(|member| member.node != own);
        for member in others {
            let address = Arc::from(member.address);
            let asked =
                self.peers.call(member.node, &address, Lane::Raft, &PeerRequest::Standing, STANDING_WITHIN);
            if let Ok(PeerReply::Standing { removed: true, .. }) = asked.await {
                return self.outside.learn();
            }
        }
    }
}
