//! Who is in the group: forming it, joining, leaving, handing over. One change at a time, by the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::{BasicNode, ChangeMembers, ReadPolicy};
use proto::NodeId;
use proto::peer::{MemberChange, PeerReply, PeerRequest};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::StoreError;
use crate::leadership;
use crate::machine::members::REMOVED_LEN_MAX;
use crate::network::{Lane, Peers};
use crate::state::Hot;
use crate::types::{Raft, Types};
use crate::{Leadership, Member};

/// How long a change may take, catching up included.
const CHANGE_WITHIN: Duration = Duration::from_secs(120);
/// How long a new leader may take to take over.
const TRANSFER_WITHIN: Duration = Duration::from_secs(10);
/// Pause before a change is tried again with another leader.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Nodes in a group, learners included.
const MEMBERS_LEN_MAX: usize = 15;

/// Changes the members.
#[derive(Debug)]
pub struct Members {
    /// Raft.
    pub raft: Raft,
    /// The way to the leader.
    pub peers: Arc<Peers>,
    /// What is applied.
    pub hot: Arc<Hot>,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Held while a change runs.
    pub changing: Mutex<()>,
}

type WriteError = RaftError<Types, ClientWriteError<Types>>;

impl Members {
    /// Forms the group, if it is not formed yet. The same call on all its nodes, at each start.
    pub async fn form(&self, members: BTreeMap<NodeId, String>) -> Result<(), StoreError> {
        let own = self.peers.node();
        if !members.contains_key(&own) {
            return Err(StoreError::Invalid(format!("node {own} is not among the members to form")));
        }
        if members.len() > MEMBERS_LEN_MAX {
            return Err(StoreError::Invalid(format!("{} members, at most {MEMBERS_LEN_MAX}", members.len())));
        }
        let nodes: BTreeMap<u64, BasicNode> =
            members.into_iter().map(|(node, address)| (node.0, BasicNode::new(address))).collect();
        match self.raft.initialize(nodes).await {
            // It was formed before, or another node's entries came first: either way there is a group.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
                Err(StoreError::Invalid(error.to_string()))
            }
            Err(RaftError::Fatal(fatal)) => Err(StoreError::Closed(fatal.to_string())),
        }
    }

    /// Makes a change, wherever the leader is.
    pub async fn change(&self, change: MemberChange) -> Result<(), StoreError> {
        let deadline = Instant::now() + CHANGE_WITHIN;
        let mut leadership = self.leadership.clone();
        loop {
            let present = *leadership.borrow_and_update();
            let result = match present.leader {
                _ if present.is_leader => self.change_here(&change, deadline).await,
                Some(leader) => self.change_there(leader, &change, deadline).await,
                None => Err(StoreError::NotLeader(None)),
            };
            match result {
                Err(StoreError::NotLeader(_)) if Instant::now() < deadline => {
                    if !leadership::change(&mut leadership, RETRY_PAUSE).await {
                        return Err(StoreError::Closed("Raft has ended".into()));
                    }
                }
                Err(StoreError::NotLeader(_)) => return Err(StoreError::NoLeader),
                other => return other,
            }
        }
    }

    /// Makes a change that another node's admin asked for.
    pub async fn change_as_leader(&self, change: &MemberChange) -> Result<(), StoreError> {
        let present = *self.leadership.borrow();
        if !present.is_leader {
            return Err(StoreError::NotLeader(present.leader));
        }
        self.change_here(change, Instant::now() + CHANGE_WITHIN).await
    }

    /// Hands leadership to the voter that is closest behind.
    pub async fn transfer(&self) -> Result<(), StoreError> {
        let target = self.successor()?;
        self.raft
            .trigger()
            .transfer_leader(target)
            .await
            .map_err(|fatal| StoreError::Closed(fatal.to_string()))?;
        let mut leadership = self.leadership.clone();
        let handed = leadership.wait_for(|present| !present.is_leader && present.leader.is_some());
        match timeout(TRANSFER_WITHIN, handed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(StoreError::Closed("shutting down".into())),
            Err(_) => Err(StoreError::Unknown("no other node took over in time")),
        }
    }

    fn successor(&self) -> Result<u64, StoreError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(replication) = &metrics.replication else {
            return Err(StoreError::NotLeader(metrics.current_leader.map(NodeId)));
        };
        let own = self.peers.node().0;
        let voters = metrics.membership_config.membership().voter_ids().filter(|voter| *voter != own);
        let matched = |voter: &u64| replication.get(voter).cloned().flatten();
        voters
            .max_by_key(|voter| matched(voter).map(|id| id.index))
            .ok_or_else(|| StoreError::Conflict("there is no other voter".into()))
    }

    async fn change_there(
        &self,
        leader: NodeId,
        change: &MemberChange,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let Some(address) = leadership::address(&self.raft, leader) else {
            return Err(StoreError::NotLeader(None));
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let request = PeerRequest::Member(change.clone());
        match self.peers.call(leader, &address, Lane::Raft, &request, left).await {
            Ok(PeerReply::Done) => Ok(()),
            Ok(PeerReply::NotLeader(leader)) => Err(StoreError::NotLeader(leader)),
            Ok(PeerReply::Error(reply)) => Err(StoreError::Remote(reply)),
            Ok(_) => Err(StoreError::Unknown("the leader's reply is of another kind")),
            // A change that happened already is made again without harm.
            Err(_) => Err(StoreError::NotLeader(None)),
        }
    }

    async fn change_here(&self, change: &MemberChange, deadline: Instant) -> Result<(), StoreError> {
        let busy = || StoreError::Conflict("another change of the members is running".into());
        let _one = self.changing.try_lock().map_err(|_| busy())?;
        let made = async {
            // What this node knows of members, past ones too, is then no older than what the group decided.
            self.raft
                .ensure_linearizable(ReadPolicy::ReadIndex)
                .await
                .map_err(|_| StoreError::NotLeader(None))?;
            // A change whose caller went away may still be on its way.
            let settled = self.raft.wait(Some(CHANGE_WITHIN));
            settled
                .metrics(|now| now.last_applied >= *now.membership_config.log_id(), "the members are settled")
                .await
                .map_err(|_| StoreError::NotLeader(None))?;
            match change {
                MemberChange::Join { node, address } => self.join(*node, address).await,
                MemberChange::Leave { node } => self.leave(*node).await,
            }
        };
        let late =
            || StoreError::Unknown("the change of the members takes too long; ask again to go on with it");
        timeout_at(deadline, made).await.map_err(|_| late())?
    }

    async fn join(&self, node: NodeId, address: &str) -> Result<(), StoreError> {
        let members = leadership::members(&self.raft);
        if !self.may_join(&members, node, address)? {
            return Ok(());
        }
        tracing::info!(%node, address, "a node joins: it catches up first");
        self.raft.add_learner(node.0, BasicNode::new(address), true).await.map_err(write_error)?;
        let voter = ChangeMembers::AddVoterIds(BTreeSet::from([node.0]));
        self.raft.change_membership(voter, true).await.map_err(write_error)?;
        tracing::info!(%node, "a node has joined");
        Ok(())
    }

    /// Whether there is something to do.
    fn may_join(&self, members: &[Member], node: NodeId, address: &str) -> Result<bool, StoreError> {
        let removed = &self.hot.heads().members.removed;
        if removed.contains(&node) {
            return Err(StoreError::Conflict(format!(
                "id {node} was a member's before: give the node a new one"
            )));
        }
        if removed.len() >= REMOVED_LEN_MAX || members.len() >= MEMBERS_LEN_MAX {
            return Err(StoreError::Conflict("the group takes no more members".into()));
        }
        match members.iter().find(|member| member.node == node || member.address == address) {
            None => Ok(true),
            Some(same) if same.node == node && same.address == address => Ok(!same.voter),
            Some(other) => Err(StoreError::Conflict(format!("node {} is at {}", other.node, other.address))),
        }
    }

    async fn leave(&self, node: NodeId) -> Result<(), StoreError> {
        let members = leadership::members(&self.raft);
        let Some(member) = members.iter().find(|member| member.node == node) else { return Ok(()) };
        let others = members.iter().filter(|member| member.voter && member.node != node).count();
        if member.voter && others == 0 {
            return Err(StoreError::Conflict("the last voter cannot leave".into()));
        }
        if node == self.peers.node() {
            // A leader does not remove itself: the next one does it.
            self.transfer().await?;
            return Err(StoreError::NotLeader(self.leadership.borrow().leader));
        }
        let ids = BTreeSet::from([node.0]);
        let change =
            if member.voter { ChangeMembers::RemoveVoters(ids) } else { ChangeMembers::RemoveNodes(ids) };
        self.raft.change_membership(change, false).await.map_err(write_error)?;
        tracing::info!(%node, "a node has left");
        Ok(())
    }
}

fn write_error(error: WriteError) -> StoreError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            StoreError::NotLeader(forward.leader_id.map(NodeId))
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => StoreError::NotLeader(None),
        RaftError::APIError(other) => StoreError::Conflict(other.to_string()),
        RaftError::Fatal(fatal) => StoreError::Closed(fatal.to_string()),
    }
}
