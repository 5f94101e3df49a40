//! The replicated truth of a PoP: Raft (openraft) over a durable log, a pure state machine over sled, durable snapshots.
//!
//! The only crate that names openraft, raft-log and (for the state) sled. Everybody else holds a [`Store`].

mod config;
mod error;
pub mod machine;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::bundle::SignedManifest;
use proto::command::{Command, Effect};
use proto::control::Role;
use proto::peer::{MemberChange, PeerReply, PeerRequest};
use proto::profile::View;
use proto::{Digest, Event, NodeId, Offset, Revision, VisitorId};
use tokio::sync::watch;
use tokio::time::Instant;

pub use config::StoreConfig;
pub use error::StoreError;

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
#[derive(Clone)]
pub struct Store {
    inner: Arc<()>,
}

// Signatures first, so that the crates above can be written; the bodies follow in the next commits.
#[expect(unused_variables, clippy::unused_async, missing_docs, reason = "bodies follow")]
impl Store {
    pub async fn open(
        config: StoreConfig,
        dialer: Arc<dyn transport::Dialer>,
        registry: &prometheus::Registry,
    ) -> Result<Store, StoreError> {
        Err(StoreError::NoLeader)
    }
    /// The same call on all nodes at each start. Nodes form by themselves on the first start and go on afterwards.
    pub async fn form(&self, members: BTreeMap<NodeId, String>) -> Result<(), StoreError> {
        Err(StoreError::NoLeader)
    }
    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<Proposed, StoreError> {
        Err(StoreError::NoLeader)
    }
    pub fn try_note(&self, command: Command) -> bool {
        false
    }
    pub fn view(&self, visitor: &VisitorId) -> View {
        View { visitor: visitor.clone(), profile: Default::default(), applied: 0 }
    }
    pub async fn wait_applied(&self, index: u64, within: Duration) -> bool {
        false
    }
    pub async fn read_index(&self, deadline: Instant) -> Result<u64, StoreError> {
        Err(StoreError::NoLeader)
    }
    pub async fn outbox(
        &self,
        after: Offset,
        len_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Offset, Event)>, StoreError> {
        Err(StoreError::NoLeader)
    }
    pub fn acknowledged(&self) -> Offset {
        Offset(0)
    }
    pub fn changes(&self) -> watch::Receiver<Applied> {
        watch::channel(Applied::default()).1
    }
    pub fn active_manifest(&self) -> Option<SignedManifest> {
        None
    }
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        watch::channel(Leadership { term: 0, leader: None, is_leader: false, role: Role::Candidate }).1
    }
    pub async fn handle(&self, from: NodeId, request: PeerRequest) -> PeerReply {
        PeerReply::NotLeader(None)
    }
    pub async fn member(&self, change: MemberChange) -> Result<(), StoreError> {
        Err(StoreError::NoLeader)
    }
    pub async fn transfer_leadership(&self) -> Result<(), StoreError> {
        Err(StoreError::NoLeader)
    }
    pub fn members(&self) -> Vec<Member> {
        Vec::new()
    }
    pub fn status(&self) -> Status {
        Status {
            term: 0,
            last_log: 0,
            applied: 0,
            committed: 0,
            snapshot: 0,
            leader: None,
            role: Role::Candidate,
            members: Vec::new(),
            outbox_len: 0,
            last_offset: Offset(0),
            acknowledged: Offset(0),
            revision: Revision(0),
            queue_len: 0,
        }
    }
    pub async fn digest(&self) -> Result<(u64, Digest), StoreError> {
        Err(StoreError::NoLeader)
    }
    pub async fn shutdown(&self) {}
}
