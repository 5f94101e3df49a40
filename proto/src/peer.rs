//! The conversation between the nodes of one PoP. Both ends have shown a certificate of this PoP.
//!
//! Raft's own messages are opaque here: `edge-store` is the only crate that knows them.

use serde::{Deserialize, Serialize};

use crate::codec::byte_string;
use crate::command::{Command, Effect};
use crate::error::ErrorReply;
use crate::ids::{Digest, NodeId};

/// One request on a stream of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PeerRequest {
    /// A message of Raft.
    Raft {
        /// Which.
        call: RaftCall,
        /// Its body, encoded by the store.
        #[serde(with = "byte_string")]
        body: Vec<u8>,
    },
    /// A follower hands commands to the leader.
    Propose(Vec<Command>),
    /// What index must a linearizable read have seen? (ReadIndex; Ongaro 2014, 6.4)
    ReadIndex,
    /// Change the members, as an admin asked.
    Member(MemberChange),
    /// A part of an artifact, for a node that cannot reach the cloud.
    Artifact {
        /// Which.
        digest: Digest,
        /// From which byte.
        offset: u64,
    },
    /// Say so once you have applied this log index.
    Applied {
        /// Raft log index.
        index: u64,
        /// Not later than then, in milliseconds from now.
        within_ms: u32,
    },
    /// How do you stand? Asked of a node that is to join, and of members by one that may have left.
    Standing,
    /// What do you know that I have promised? Asked by a node that starts, before it votes again.
    Promised,
}

/// Raft's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RaftCall {
    /// AppendEntries.
    Append,
    /// RequestVote, pre-vote included.
    Vote,
    /// A part of a snapshot.
    Snapshot,
    /// The leader hands over.
    Transfer,
}

/// One node joins or leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// Add a node that runs and is empty.
    Join {
        /// Its id, never used before in this PoP.
        node: NodeId,
        /// Its peer address, `host:port`.
        address: String,
    },
    /// Remove a node.
    Leave {
        /// Which.
        node: NodeId,
    },
    /// A member is reached elsewhere from now on.
    Move {
        /// Which.
        node: NodeId,
        /// Its new peer address, `host:port`; it must answer there.
        address: String,
    },
}

impl MemberChange {
    /// The node that joins, leaves or moves.
    pub fn node(&self) -> NodeId {
        match self {
            MemberChange::Join { node, .. }
            | MemberChange::Leave { node }
            | MemberChange::Move { node, .. } => *node,
        }
    }
}

/// What a node promised, as far as another one knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Promise {
    /// The highest Raft term in which it was heard.
    pub term: u64,
    /// The highest log index that it acknowledged in that term; 0: none.
    pub matched: u64,
    /// The highest log index that it acknowledged and that was committed, in whatever term; 0: none.
    pub committed: u64,
}

/// The reply on the same stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PeerReply {
    /// To [`PeerRequest::Raft`]: the body, encoded by the store.
    Raft(#[serde(with = "byte_string")] Vec<u8>),
    /// To [`PeerRequest::Propose`]: the log index that holds the commands, and an effect for each.
    Proposed {
        /// Raft log index.
        index: u64,
        /// One a command, in order.
        effects: Vec<Effect>,
    },
    /// To [`PeerRequest::ReadIndex`].
    ReadIndex(u64),
    /// To [`PeerRequest::Member`] and [`PeerRequest::Applied`].
    Done,
    /// To [`PeerRequest::Artifact`].
    Artifact {
        /// Length of the whole, in bytes.
        size: u64,
        /// At most [`crate::limits::ARTIFACT_PART_BYTES`].
        #[serde(with = "byte_string")]
        part: Vec<u8>,
    },
    /// Not the leader; here is who is, if known.
    NotLeader(Option<NodeId>),
    /// Instead of any of them.
    Error(ErrorReply),
    /// To [`PeerRequest::Standing`].
    Standing {
        /// The highest log index that the node holds; 0: it is empty.
        last_log: u64,
        /// Whether the node that asks was a member and was removed.
        removed: bool,
    },
    /// To [`PeerRequest::Promised`].
    Promised(Promise),
    /// To what only members may ask: the node that asks is none, and nothing was done.
    NoMember,
}
