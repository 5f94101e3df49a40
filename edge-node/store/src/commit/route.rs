//! Brings a group to the leader, whoever that is, until it is written or its deadline has passed.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use proto::Code;
use proto::command::{Command, Effect};
use proto::peer::{PeerReply, PeerRequest};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::group::{Group, Proposal};
use crate::Leadership;
use crate::error::StoreError;
use crate::leadership;
use crate::metrics::Metrics;
use crate::network::{CallError, Lane, Peers};
use crate::planted;
use crate::types::{Batch, Raft};

/// How long notes alone are tried.
const NOTES_WITHIN: Duration = Duration::from_secs(2);
/// Entries that a leader takes beyond what is applied. One without a majority commits nothing, and purges nothing: without an
/// end its log would grow until the disk is full.
const UNAPPLIED_LEN_MAX: u64 = 512;

/// Knows the way to the leader.
#[derive(Debug, Clone)]
pub struct Router {
    raft: Raft,
    peers: Arc<Peers>,
    leadership: watch::Receiver<Leadership>,
    /// Before a group is tried again, unless the leader changes before.
    retry_pause: Duration,
    metrics: Metrics,
}

enum Outcome {
    Written(u64, Vec<Effect>),
    /// Surely not written: another try does no harm.
    NotWritten,
    /// May have been written.
    Unknown(&'static str),
    /// The leader will not write it.
    Refused(proto::ErrorReply),
    Closed(String),
}

impl Router {
    /// A router to wherever Raft says the leader is.
    pub fn new(
        raft: Raft,
        peers: Arc<Peers>,
        leadership: watch::Receiver<Leadership>,
        retry_pause: Duration,
        metrics: Metrics,
    ) -> Self {
        Self { raft, peers, leadership, retry_pause, metrics }
    }

    /// What the store counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Tries until all who wait are answered.
    pub async fn send(&self, mut group: Group) {
        let mut leadership = self.leadership.clone();
        let notes_until = Instant::now() + NOTES_WITHIN;
        loop {
            // A node whose Raft has ended passes nothing on either: whom it knew as leader may be none any more, and its apps are
            // to find another node at once.
            if leadership.has_changed().is_err() {
                return self.ended(group);
            }
            let present = *leadership.borrow_and_update();
            self.drop_dead(&mut group, present);
            let deadline = group.deadline().unwrap_or(notes_until);
            if group.len() == 0 || Instant::now() >= deadline {
                self.metrics.notes_dropped.inc_by(group.notes.len() as u64);
                return;
            }
            match self.attempt(&group, present, deadline).await {
                Outcome::Written(index, effects) => return group.written(index, effects),
                Outcome::NotWritten => {}
                Outcome::Unknown(reason) => {
                    if planted::on("retry_without_idempotency_key") {
                        group.commands_mut().for_each(renew_ids);
                    }
                    self.drop_unsafe(&mut group, reason);
                }
                Outcome::Refused(reply) => {
                    self.metrics.notes_dropped.inc_by(group.notes.len() as u64);
                    return group.answer_some(|_| Some(StoreError::Remote(reply.clone())));
                }
                Outcome::Closed(reason) => {
                    return group.answer_some(|_| Some(StoreError::Closed(reason.clone())));
                }
            }
            let pause = self.retry_pause.min(deadline.saturating_duration_since(Instant::now()));
            if !leadership::change(&mut leadership, pause).await {
                return self.ended(group);
            }
        }
    }

    fn ended(&self, mut group: Group) {
        self.metrics.notes_dropped.inc_by(group.notes.len() as u64);
        group.answer_some(|_| Some(StoreError::Closed("Raft has ended".into())));
    }

    async fn attempt(&self, group: &Group, present: Leadership, deadline: Instant) -> Outcome {
        match present.leader {
            _ if present.is_leader => self.write(group, deadline).await,
            Some(leader) => match leadership::address(&self.raft, leader) {
                Some(address) => {
                    let commands = group.commands().cloned().collect();
                    let forwarded = self.forward(leader, &address, commands, deadline);
                    let answer = leadership::while_it_leads(self.leadership.clone(), present, forwarded);
                    answer.await.unwrap_or(Outcome::Unknown("the leader changed"))
                }
                None => Outcome::NotWritten,
            },
            None => Outcome::NotWritten,
        }
    }

    async fn write(&self, group: &Group, deadline: Instant) -> Outcome {
        if self.unapplied_len() > UNAPPLIED_LEN_MAX {
            return Outcome::NotWritten;
        }
        let len = group.len();
        let batch = Batch::of(&group.commands().collect::<Vec<_>>());
        match timeout_at(deadline, self.raft.client_write(batch)).await {
            Err(_) => Outcome::Unknown("its deadline passed"),
            Ok(Ok(written)) if written.data.0.len() == len => {
                Outcome::Written(written.log_id.index, written.data.0)
            }
            Ok(Ok(_)) => Outcome::Closed("an entry was applied with too few effects".into()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Outcome::NotWritten,
            Ok(Err(RaftError::APIError(_))) => Outcome::Unknown("the leader changed"),
            Ok(Err(RaftError::Fatal(fatal))) => Outcome::Closed(fatal.to_string()),
        }
    }

    /// Entries that this leader's log holds beyond what was applied.
    fn unapplied_len(&self) -> u64 {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        metrics.last_log_index.unwrap_or(0).saturating_sub(applied)
    }

    async fn forward(
        &self,
        leader: proto::NodeId,
        address: &Arc<str>,
        commands: Vec<Command>,
        deadline: Instant,
    ) -> Outcome {
        let len = commands.len();
        let timeout = deadline.saturating_duration_since(Instant::now());
        let request = PeerRequest::Propose(commands);
        match self.peers.call(leader, address, Lane::Raft, &request, timeout).await {
            Ok(PeerReply::Proposed { index, effects }) if effects.len() == len => {
                Outcome::Written(index, effects)
            }
            Ok(PeerReply::NotLeader(_)) | Err(CallError::Away(_)) => Outcome::NotWritten,
            Ok(PeerReply::Error(reply)) if reply.code == Code::Unavailable => {
                Outcome::Unknown("the leader changed")
            }
            // It is ending, or its disk failed: another one will lead.
            Ok(PeerReply::Error(reply)) if reply.code == Code::NotReady => {
                Outcome::Unknown("the leader ended")
            }
            Ok(PeerReply::Error(reply)) => Outcome::Refused(reply),
            Ok(PeerReply::NoMember) => Outcome::Refused(StoreError::NoMember.into()),
            Ok(_) => Outcome::Unknown("the leader's reply is of another kind"),
            Err(CallError::Broken(_)) => Outcome::Unknown("the way to the leader broke"),
        }
    }

    /// Answers those whose time is over, and those that other nodes sent here for nothing.
    fn drop_dead(&self, group: &mut Group, present: Leadership) {
        let now = Instant::now();
        group.answer_some(|proposal| {
            if proposal.forwarded && !present.is_leader {
                Some(StoreError::NotLeader(present.leader))
            } else if proposal.deadline <= now || proposal.done.is_closed() {
                Some(StoreError::NoLeader)
            } else {
                None
            }
        });
    }

    /// What may have been written is not written again where that would be another thing.
    fn drop_unsafe(&self, group: &mut Group, reason: &'static str) {
        let unknown =
            |proposal: &Proposal| (!proposal.is_idempotent()).then_some(StoreError::Unknown(reason));
        group.answer_some(unknown);
        self.metrics.notes_dropped.inc_by(group.notes.len() as u64);
        group.notes.clear();
    }
}

/// The planted bug: a retry that nobody can tell from a new request.
fn renew_ids(command: &mut Command) {
    if let Command::Track { events, .. } = command {
        events
            .iter_mut()
            .for_each(|event| event.id.0 = uuid::Uuid::from_u128(event.id.0.as_u128() ^ (1 << 40)));
    }
}
