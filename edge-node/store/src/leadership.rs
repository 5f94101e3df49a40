//! Who leads, as this node knows: Raft's many metrics, boiled down to what changes when the leader does.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use proto::NodeId;
use proto::control::Role;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::network::Peers;
use crate::types::Raft;
use crate::{Leadership, Member, runtime};

/// The present state.
pub fn now(raft: &Raft) -> Leadership {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let role = match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Follower => Role::Follower,
        ServerState::Learner | ServerState::Shutdown => Role::Learner,
    };
    Leadership {
        term: metrics.vote.leader_id.term,
        leader: metrics.current_leader.map(NodeId),
        is_leader: role == Role::Leader,
        role,
    }
}

/// The members, by id, as of the last membership entry held.
pub fn members(raft: &Raft) -> Vec<Member> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let member = |(node, at): (&u64, &openraft::BasicNode)| Member {
        node: NodeId(*node),
        address: at.addr.clone(),
        voter: voters.contains(node),
    };
    membership.nodes().map(member).collect()
}

/// Whether a node is a member, as of the last membership entry held.
pub fn is_member(raft: &Raft, node: NodeId) -> bool {
    let metrics = raft.server_metrics();
    metrics.borrow_watched().membership_config.membership().get_node(&node.0).is_some()
}

/// Where a member is reached.
pub fn address(raft: &Raft, node: NodeId) -> Option<Arc<str>> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.membership().get_node(&node.0).map(|at| at.addr.as_str().into())
}

/// Waits for a change, at most so long. False: there will be none any more, because Raft has ended.
pub async fn change(leadership: &mut watch::Receiver<Leadership>, within: Duration) -> bool {
    !matches!(timeout(within, leadership.changed()).await, Ok(Err(_)))
}

/// What a leader answers, or none as soon as another one is known: whoever waits for one that died would else wait until its
/// connection is given up, seconds after the next one leads.
pub async fn while_it_leads<T>(
    mut leadership: watch::Receiver<Leadership>,
    present: Leadership,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let another =
        |now: &Leadership| now.leader.is_some() && (now.leader, now.term) != (present.leader, present.term);
    tokio::select! {
        biased;
        answer = answer => Some(answer),
        Ok(_) = leadership.wait_for(another) => None,
    }
}

/// Tells of changes until cancelled, and `peers` of where members are reached.
pub fn follow(
    raft: Raft,
    peers: Arc<Peers>,
    metrics: Metrics,
    stop: CancellationToken,
) -> watch::Receiver<Leadership> {
    let (told, hears) = watch::channel(now(&raft));
    runtime::spawn(async move {
        let mut changes = raft.server_metrics();
        let mut known = Vec::new();
        loop {
            let present = members(&raft);
            if present != known {
                peers.members_at(&present);
                known = present;
            }
            let leadership = now(&raft);
            let before = *told.borrow();
            if before.leader != leadership.leader && leadership.leader.is_some() {
                metrics.leader_changes.inc();
                tracing::info!(leader = ?leadership.leader, term = leadership.term, "leader");
            }
            told.send_if_modified(|present| std::mem::replace(present, leadership) != leadership);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    });
    hears
}
