//! The replicated truth of a PoP: Raft (openraft) over a durable log, a pure state machine over sled, durable snapshots.
//!
//! The only crate that names openraft, raft-log and (for the state) sled. Everybody else holds a [`Store`].
//!
//! | module | what |
//! |---|---|
//! | [`machine`] | what a command does: pure |
//! | `state` | the threads that apply it, memory over sled, readers |
//! | `snapshot` | the whole state in one durable file |
//! | `log` | Raft's log and vote, durable before they count |
//! | `network` | Raft's messages over `transport` |
//! | `commit` | group commit, and the way to the leader |
//! | `membership` | form, join, leave, hand over |

mod commit;
mod config;
mod durable;
mod error;
mod freshness;
mod inner;
mod leadership;
mod log;
pub mod machine;
mod membership;
mod metrics;
mod network;
mod planted;
mod runtime;
#[cfg(feature = "sim")]
pub mod sim;
mod snapshot;
mod start;
mod state;
mod types;
mod weight;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::bundle::SignedManifest;
use proto::command::{Command, Effect};
use proto::control::Role;
use proto::peer::{MemberChange, PeerReply, PeerRequest};
use proto::profile::{Profile, View};
use proto::purge::Purges;
use proto::{Digest, Event, NodeId, Offset, Revision, VisitorId};
use tokio::sync::watch;
use tokio::time::Instant;

pub use config::StoreConfig;
pub use error::StoreError;

use inner::Inner;

/// What a write came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposed {
    /// Raft log index that holds it: the session token.
    pub index: u64,
    /// What applying it did.
    pub effect: Effect,
}

/// What this node has applied; changes with every batch of applied entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Raft log index.
    pub index: u64,
    /// Offset of the last event in the outbox; 0: none ever.
    pub last_offset: Offset,
    /// The cloud holds every event up to here.
    pub acknowledged: Offset,
    /// The active bundle; 0: none.
    pub revision: Revision,
}

/// Who leads, as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// Raft term.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// Whether it is this node.
    pub is_leader: bool,
    /// This node's part.
    pub role: Role,
}

/// A node of the PoP's Raft group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Its peer address, `host:port`.
    pub address: String,
    /// Whether it votes; a learner does not yet.
    pub voter: bool,
}

/// A node's place in its PoP.
pub use proto::control::Membership;

/// How the store is, for people and reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Raft term.
    pub term: u64,
    /// Highest log index held.
    pub last_log: u64,
    /// Log index applied.
    pub applied: u64,
    /// Highest log index known to be committed.
    pub committed: u64,
    /// Log index of the last durable snapshot; 0: none.
    pub snapshot: u64,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// This node's part.
    pub role: Role,
    /// The members, by id.
    pub members: Vec<Member>,
    /// Events that wait for the cloud.
    pub outbox_len: u64,
    /// Offset of the last event.
    pub last_offset: Offset,
    /// The cloud holds every event up to here.
    pub acknowledged: Offset,
    /// The active bundle; 0: none.
    pub revision: Revision,
    /// Proposals and notes that wait for a group.
    pub queue_len: usize,
}

/// A node's handle on the replicated truth. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl Store {
    /// Opens a node's store and starts its Raft. The node goes on in its group by itself, if it is in one.
    ///
    /// # Errors
    /// Where a setting cannot work, the folder is another node's, or its log is damaged: then the node has lost its data,
    /// and must join again under a new id.
    pub async fn open(
        config: StoreConfig,
        dialer: Arc<dyn transport::Dialer>,
        registry: &prometheus::Registry,
    ) -> Result<Store, StoreError> {
        let heartbeat = Duration::from_millis(config.heartbeat_ms);
        let inner = Arc::new(Inner::open(config, dialer, registry).await?);
        runtime::spawn(freshness::follow(Arc::downgrade(&inner), heartbeat, inner.stop.clone()));
        Ok(Store { inner })
    }

    /// Forms the group of these nodes and peer addresses, if it was not formed before. The same call on all of them at
    /// each start: nodes form by themselves on the first start, and go on by themselves afterwards. A node that is to
    /// join a group does not call it.
    ///
    /// # Errors
    /// Where this node is not among the members, or the store is closed.
    pub async fn form(&self, members: BTreeMap<NodeId, String>) -> Result<(), StoreError> {
        self.inner.members.form(members).await
    }

    /// Writes a command: durable on a majority and applied where it was ordered, when this returns. Many callers share one
    /// Raft entry; another node's leader is found by itself. A command that was refused is no error: see
    /// [`Proposed::effect`].
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] where too much waits (nothing was written), [`StoreError::Unknown`] where the deadline
    /// passed on the way: the write may or may not have happened. Events dedupe by id, so repeating it is safe.
    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<Proposed, StoreError> {
        let (index, effects) = self.inner.propose(vec![command], false, deadline).await?;
        let effect = effects.into_iter().next().ok_or(StoreError::Unknown("an entry without effect"))?;
        Ok(Proposed { index, effect })
    }

    /// Lets a command (`Served`) ride along with the next group, without waiting for it. False where too many wait; it is
    /// dropped and counted then.
    pub fn try_note(&self, command: Command) -> bool {
        self.inner.committer.try_note(command)
    }

    /// What this node knows of a visitor. A local read; where it fails, the visitor is as if unknown, and it is counted.
    pub fn view(&self, visitor: &VisitorId) -> View {
        self.inner.machine.hot().view(visitor).unwrap_or_else(|error| {
            self.inner.metrics.view_errors.inc();
            tracing::error!(%error, "a view cannot be read");
            View {
                visitor: visitor.clone(),
                profile: Profile::default(),
                applied: self.inner.machine.hot().applied(),
            }
        })
    }

    /// Waits until this node has applied a log index; false where it has not within the time.
    pub async fn wait_applied(&self, index: u64, within: Duration) -> bool {
        self.inner.wait_applied(index, within).await
    }

    /// Waits until every member of the PoP has applied a log index. Who has not said so within the time.
    pub async fn everyone_applied(&self, index: u64, within: Duration) -> Vec<NodeId> {
        self.inner.everyone_applied(index, within).await
    }

    /// What of the content cache was declared void, with the log index up to which this is known here.
    pub fn purges(&self) -> (u64, Arc<Purges>) {
        self.inner.machine.hot().purges()
    }

    /// How far this node knows the cloud's list of erasures to be carried out: the number of the last one.
    pub fn erasures(&self) -> u64 {
        self.inner.machine.hot().heads().erasures.0
    }

    /// How old a [`Store::view`] that is taken after this may be: what was acknowledged longer ago is in it. None: this node
    /// cannot say, because no leader has answered since it started. Some 0.3 s where all is well; grows while this node is
    /// cut off.
    pub fn age(&self) -> Option<Duration> {
        // Whoever was removed hears of nothing any more.
        if self.inner.membership_is_over() { None } else { self.inner.freshness.age() }
    }

    /// This node's place in its PoP, as far as it knows.
    pub fn membership(&self) -> Membership {
        self.inner.membership()
    }

    /// The log index that a linearizable read must have seen applied ([`Store::wait_applied`]), by asking the leader.
    ///
    /// # Errors
    /// [`StoreError::NoLeader`] where nobody who leads a majority answers before the deadline.
    pub async fn read_index(&self, deadline: Instant) -> Result<u64, StoreError> {
        self.inner.read_index(deadline).await
    }

    /// Events after an offset that the cloud has not acknowledged, in order, within both limits but one at least.
    ///
    /// # Errors
    /// Where the disk cannot be read.
    pub async fn outbox(
        &self,
        after: Offset,
        len_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Offset, Event)>, StoreError> {
        let hot = Arc::clone(self.inner.machine.hot());
        if hot.events_in_memory(after) {
            return Ok(hot.events(after, len_max, bytes_max)?);
        }
        let read = move || hot.events(after, len_max, bytes_max);
        Ok(runtime::blocking(read).await??)
    }

    /// The cloud holds every event up to here.
    pub fn acknowledged(&self) -> Offset {
        self.inner.machine.changes().borrow().acknowledged
    }

    /// What is applied; changes with every group.
    pub fn changes(&self) -> watch::Receiver<Applied> {
        self.inner.machine.changes().clone()
    }

    /// The active bundle's manifest.
    pub fn active_manifest(&self) -> Option<SignedManifest> {
        self.inner.machine.hot().heads().bundles.active.clone()
    }

    /// The manifest that was active before.
    pub fn previous_manifest(&self) -> Option<SignedManifest> {
        self.inner.machine.hot().heads().bundles.previous.clone()
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Answers a peer. Artifacts are not the store's.
    pub async fn handle(&self, from: NodeId, request: PeerRequest) -> PeerReply {
        self.inner.handle(from, request).await
    }

    /// Lets a node join, leave or move, wherever the leader is. A joining node must answer under its address and be empty, and
    /// catches up before it votes. Repeating a change that was made is no error.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where the change contradicts the members, or another one is running; [`StoreError::NotFound`] where
    /// a node that is to leave or move is no member; [`StoreError::Away`] where a node or a majority does not answer.
    pub async fn member(&self, change: MemberChange) -> Result<(), StoreError> {
        self.inner.members.change(change).await
    }

    /// Hands leadership to the voter that is closest behind. On the leader only.
    ///
    /// # Errors
    /// [`StoreError::NotLeader`] elsewhere, [`StoreError::Conflict`] where there is no other voter.
    pub async fn transfer_leadership(&self) -> Result<(), StoreError> {
        self.inner.members.transfer().await
    }

    /// Why this node's Raft has ended, if it has: a disk that failed, most often. The node acknowledges nothing any more; what
    /// it acknowledged is safe. Open the store again once the cause is gone.
    pub fn failure(&self) -> Option<String> {
        self.inner.failure()
    }

    /// The members, by id.
    pub fn members(&self) -> Vec<Member> {
        leadership::members(&self.inner.raft)
    }

    /// How the store is.
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// The whole applied keyspace in one number, with the index it stands for: equal on all nodes at equal index.
    ///
    /// # Errors
    /// Where the disk cannot be read.
    pub async fn digest(&self) -> Result<(u64, Digest), StoreError> {
        self.inner.machine.digest().await
    }

    /// Makes a durable snapshot now, and lets the log before it go.
    ///
    /// # Errors
    /// Where Raft has ended.
    pub async fn snapshot(&self) -> Result<(), StoreError> {
        self.inner.raft.trigger().snapshot().await.map_err(|fatal| StoreError::Closed(fatal.to_string()))
    }

    /// Ends Raft, writes what is in memory, and lets go of the files. Calls after this fail.
    pub async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}
