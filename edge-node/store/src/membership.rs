//! Who is in the group: forming it, joining, leaving, moving, handing over. One change at a time, by the leader.
//!
//! A node that joins is reached first, under the address that all others will use, and must be empty; then it catches up
//! without a vote, round by round (Ongaro 2014, 4.2.1), and only then it votes. So a name without a node never counts as a voter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::{BasicNode, ChangeMembers, ReadPolicy};
use proto::limits::MEMBERS_LEN_MAX;
use proto::peer::{MemberChange, PeerReply, PeerRequest};
use proto::{Code, ErrorReply, NodeId};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::error::StoreError;
use crate::leadership;
use crate::machine::members::REMOVED_LEN_MAX;
use crate::network::{Lane, Peers};
use crate::state::Hot;
use crate::types::{LogId, Raft, Types};
use crate::{Leadership, Member};

/// How long a change may take, catching up included.
const CHANGE_WITHIN: Duration = Duration::from_secs(120);
/// How long a group may be without a leader, before a change of its members is given up: an election takes a second.
const LEADERLESS_WITHIN: Duration = Duration::from_secs(15);
/// How long a node that joins or moves may take to answer under its address.
const REACHED_WITHIN: Duration = Duration::from_secs(5);
/// A round of catching up that is shorter leaves so little behind that the next write waits for it no longer than for an
/// election.
const ROUND_SHORT: Duration = Duration::from_millis(500);
/// Rounds of catching up.
const ROUNDS_MAX: usize = 20;
/// How long before the end of its time a change says how far it has come.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How long a new leader may take to take over.
const TRANSFER_WITHIN: Duration = Duration::from_secs(10);
/// Pause before a change is tried again with another leader.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

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
    /// The node that is joining, and how that is called off.
    pub joining: std::sync::Mutex<Option<(NodeId, CancellationToken)>>,
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
        self.peers.also_at(&members);
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
        let mut leaderless_since = None;
        loop {
            let present = *leadership.borrow_and_update();
            let result = match present.leader {
                _ if present.is_leader => self.change_here(&change, deadline).await,
                Some(leader) => self.change_there(leader, &change, deadline).await,
                None => Err(StoreError::NotLeader(None)),
            };
            let Err(StoreError::NotLeader(_)) = result else { return result };
            let since = *leaderless_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= LEADERLESS_WITHIN || Instant::now() >= deadline {
                return Err(StoreError::Away(self.leaderless()));
            }
            if !leadership::change(&mut leadership, RETRY_PAUSE).await {
                return Err(StoreError::Closed("Raft has ended".into()));
            }
        }
    }

    fn leaderless(&self) -> String {
        let voters = leadership::members(&self.raft).into_iter().filter(|member| member.voter);
        let voters: Vec<String> = voters.map(|member| member.node.to_string()).collect();
        format!(
            "nothing was changed: no leader was found within {} s; of the voters {} a majority must run and reach each other",
            LEADERLESS_WITHIN.as_secs(),
            voters.join(", ")
        )
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
            Ok(PeerReply::NoMember) => Err(StoreError::NoMember),
            Ok(_) => Err(StoreError::Unknown("the leader's reply is of another kind")),
            // A change that happened already is made again without harm.
            Err(_) => Err(StoreError::NotLeader(None)),
        }
    }

    async fn change_here(&self, change: &MemberChange, deadline: Instant) -> Result<(), StoreError> {
        let made = async {
            let _one = self.turn(change).await?;
            // What this node knows of members, past ones too, is then no older than what the group decided.
            timeout(LEADERLESS_WITHIN, self.raft.ensure_linearizable(ReadPolicy::ReadIndex))
                .await
                .map_err(|_| StoreError::NotLeader(None))?
                .map_err(|_| StoreError::NotLeader(None))?;
            // A change whose caller went away may still be on its way.
            let settled = self.raft.wait(Some(CHANGE_WITHIN));
            settled
                .metrics(|now| now.last_applied >= *now.membership_config.log_id(), "the members are settled")
                .await
                .map_err(|_| StoreError::NotLeader(None))?;
            match change {
                MemberChange::Join { node, address } => self.join(*node, address, deadline).await,
                MemberChange::Leave { node } => self.leave(*node).await,
                MemberChange::Move { node, address } => self.relocate(*node, address).await,
            }
        };
        let late =
            || StoreError::Unknown("the change of the members takes too long; ask again to go on with it");
        timeout_at(deadline, made).await.map_err(|_| late())?
    }

    /// One change at a time. To leave goes before to join: a node that does not come must not stand in the way of its own removal.
    async fn turn(&self, change: &MemberChange) -> Result<MutexGuard<'_, ()>, StoreError> {
        if let MemberChange::Leave { node } = change {
            let joining = self.joining.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some((_, call_off)) = joining.filter(|(joining, _)| joining == node) {
                call_off.cancel();
                return Ok(self.changing.lock().await);
            }
        }
        self.changing
            .try_lock()
            .map_err(|_| StoreError::Conflict("another change of the members is running".into()))
    }

    async fn join(&self, node: NodeId, address: &str, deadline: Instant) -> Result<(), StoreError> {
        let members = leadership::members(&self.raft);
        if !self.may_join(&members, node, address)? {
            return Ok(());
        }
        let held = self.reach(node, address).await?;
        if held > 0 && !members.iter().any(|member| member.node == node) {
            return Err(StoreError::Conflict(format!(
                "node {node} is not empty: it holds a log up to {held}; give it an empty folder and an id that was never used"
            )));
        }
        let call_off = CancellationToken::new();
        *self.joining.lock().unwrap_or_else(PoisonError::into_inner) = Some((node, call_off.clone()));
        let joined = call_off.run_until_cancelled(self.add(node, address, deadline)).await;
        self.joining.lock().unwrap_or_else(PoisonError::into_inner).take();
        joined
            .unwrap_or_else(|| Err(StoreError::Conflict(format!("node {node} was told to leave meanwhile"))))
    }

    async fn add(&self, node: NodeId, address: &str, deadline: Instant) -> Result<(), StoreError> {
        tracing::info!(%node, address, "a node joins: it catches up first");
        self.raft.add_learner(node.0, BasicNode::new(address), false).await.map_err(write_error)?;
        self.catch_up(node, deadline).await?;
        let voter = ChangeMembers::AddVoterIds(BTreeSet::from([node.0]));
        self.raft.change_membership(voter, true).await.map_err(write_error)?;
        tracing::info!(%node, "a node has joined");
        Ok(())
    }

    /// Asks a node under an address, by its certificate of this PoP, what it holds: the highest log index.
    async fn reach(&self, node: NodeId, address: &str) -> Result<u64, StoreError> {
        let away = |why: String| {
            let pop = self.peers.pop();
            StoreError::Away(format!(
                "nothing was changed: at {address} nobody answers as node {node} of {pop} ({why}); start it, and name its peer \
                 address as the other nodes reach it"
            ))
        };
        match self.peers.call_at(node, address, &PeerRequest::Standing, REACHED_WITHIN).await {
            Ok(PeerReply::Standing { last_log, .. }) => Ok(last_log),
            Ok(PeerReply::Error(ErrorReply { code: Code::Malformed, .. })) => {
                Err(away("it runs an older version, which cannot say how it stands".into()))
            }
            Ok(PeerReply::Error(reply)) => Err(away(reply.to_string())),
            Ok(_) => Err(away("its answer is of another kind".into())),
            Err(error) => Err(away(error.to_string())),
        }
    }

    /// Rounds: in each, the node gets all that is there when the round begins (Ongaro 2014, 4.2.1).
    async fn catch_up(&self, node: NodeId, deadline: Instant) -> Result<(), StoreError> {
        let until = deadline - LAST_WORD;
        for _ in 0..ROUNDS_MAX {
            let (began, target) = (Instant::now(), self.last_log());
            let left = until.saturating_duration_since(began);
            let waiting = self.raft.wait(Some(left));
            let round = waiting.metrics(
                |now| match &now.replication {
                    Some(progress) => index(progress.get(&node.0)) >= target,
                    None => true,
                },
                "the node catches up",
            );
            let reached = round.await.map_err(|_| self.behind(node))?;
            if reached.replication.is_none() {
                return Err(StoreError::NotLeader(reached.current_leader.map(NodeId)));
            }
            if began.elapsed() < ROUND_SHORT {
                return Ok(());
            }
        }
        Err(self.behind(node))
    }

    fn last_log(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().last_log_index
    }

    fn behind(&self, node: NodeId) -> StoreError {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let holds =
            metrics.replication.as_ref().and_then(|progress| index(progress.get(&node.0))).unwrap_or(0);
        StoreError::Away(format!(
            "node {node} has not caught up in time: it holds the log up to {holds} of {}, and has no vote; ask again to go on, or \
             let it leave",
            metrics.last_log_index.unwrap_or(0)
        ))
    }

    /// Whether there is something to do.
    fn may_join(&self, members: &[Member], node: NodeId, address: &str) -> Result<bool, StoreError> {
        let removed = &self.hot.heads().members.removed;
        if removed.contains(&node) {
            return Err(StoreError::Conflict(format!(
                "id {node} was a member's before: give the node a new one"
            )));
        }
        match members.iter().find(|member| member.node == node || member.address == address) {
            None if removed.len() >= REMOVED_LEN_MAX || members.len() >= MEMBERS_LEN_MAX => {
                Err(StoreError::Conflict("the group takes no more members".into()))
            }
            None => Ok(true),
            Some(same) if same.node == node && same.address == address => Ok(!same.voter),
            Some(other) => Err(StoreError::Conflict(format!(
                "node {} is at {}; `rockpool node move` changes a member's address",
                other.node, other.address
            ))),
        }
    }

    /// A member is reached elsewhere from now on, if it answers there.
    async fn relocate(&self, node: NodeId, address: &str) -> Result<(), StoreError> {
        let members = leadership::members(&self.raft);
        let Some(member) = members.iter().find(|member| member.node == node) else {
            return Err(self.no_member(node));
        };
        if member.address == address {
            return Ok(());
        }
        if let Some(other) = members.iter().find(|member| member.address == address) {
            return Err(StoreError::Conflict(format!("node {} is at {address}", other.node)));
        }
        if node != self.peers.node() {
            self.reach(node, address).await?;
        }
        let moved = ChangeMembers::SetNodes(BTreeMap::from([(node.0, BasicNode::new(address))]));
        self.raft.change_membership(moved, true).await.map_err(write_error)?;
        tracing::info!(%node, address, "a node has moved");
        Ok(())
    }

    fn no_member(&self, node: NodeId) -> StoreError {
        let members = leadership::members(&self.raft);
        let members: Vec<String> = members.iter().map(|member| member.node.to_string()).collect();
        StoreError::NotFound(format!(
            "node {node} is no member of {}; its members are {}",
            self.peers.pop(),
            members.join(", ")
        ))
    }

    async fn leave(&self, node: NodeId) -> Result<(), StoreError> {
        let members = leadership::members(&self.raft);
        let Some(member) = members.iter().find(|member| member.node == node) else {
            // A change that was made is made again without harm.
            let left = self.hot.heads().members.removed.contains(&node);
            return if left { Ok(()) } else { Err(self.no_member(node)) };
        };
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

/// The log index of a node's progress; none where nothing is known of it.
fn index(progress: Option<&Option<LogId>>) -> Option<u64> {
    progress?.as_ref().map(|id| id.index)
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
