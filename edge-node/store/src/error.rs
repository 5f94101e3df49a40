//! Why the store could not do what was asked, and what the caller may do about it.

use std::io;
use std::path::PathBuf;

use proto::codec::CodecError;
use proto::{Code, ErrorReply, NodeId};

/// An operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A setting cannot work.
    #[error("store setting: {0}")]
    Config(&'static str),
    /// The folder belongs to another node or PoP, or to a newer version of the store.
    #[error("{path} is not this node's: {reason}")]
    Identity {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The log cannot be read: this node lost its data. It must leave the PoP and join again under a new id.
    #[error("the Raft log is damaged: this node lost its data, let it leave and join under a new id")]
    LogDamaged(#[source] io::Error),
    /// The state machine's base failed.
    #[error(transparent)]
    Machine(#[from] crate::machine::MachineError),
    /// Stored bytes are not what they should be.
    #[error("{what} is corrupt: {reason}")]
    Corrupt {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A metric is registered twice.
    #[error("metrics")]
    Metrics(#[from] prometheus::Error),
    /// Too much is waiting already.
    #[error("{what}: come back in {retry_after_ms} ms")]
    Overloaded {
        /// What is full.
        what: &'static str,
        /// When to come back.
        retry_after_ms: u32,
    },
    /// A command is larger than an entry may be, or breaks a limit.
    #[error("{0}")]
    Invalid(String),
    /// A command is larger than an entry may be.
    #[error("{len} bytes, at most {max} fit a Raft entry")]
    TooLarge {
        /// Its size.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Nobody leads, or the leader cannot be reached. Nothing was written.
    #[error("no leader could be reached in time")]
    NoLeader,
    /// This node does not lead. Nothing was written.
    #[error("not the leader")]
    NotLeader(Option<NodeId>),
    /// The deadline passed, or the connection broke, while the write was on its way: it may or may not have happened.
    #[error("the outcome of the write is unknown: {0}")]
    Unknown(&'static str),
    /// The request contradicts the present members or state.
    #[error("{0}")]
    Conflict(String),
    /// A node or a majority that is needed does not answer. Nothing was changed, or what was can be gone on with.
    #[error("{0}")]
    Away(String),
    /// What was named is not there.
    #[error("{0}")]
    NotFound(String),
    /// This node is no member of its PoP: it has left, or has not joined yet.
    #[error("this node is no member of its PoP: ask another one")]
    NoMember,
    /// The entry that makes a node a member is not committed yet.
    #[error("node {0} is not yet decided to be a member")]
    Undecided(NodeId),
    /// This folder is a copy from an earlier time: the node has acknowledged more than is in it, and could break what it promised.
    #[error(
        "{path} is an older copy: this node promised more ({promised}) than it holds ({held}). Nothing was changed; let the node \
         leave, and join with an empty folder under a new id"
    )]
    OlderCopy {
        /// The folder.
        path: PathBuf,
        /// What another node knows of it.
        promised: String,
        /// What the folder has.
        held: String,
    },
    /// Another node answered with an error.
    #[error("the leader answered: {0}")]
    Remote(ErrorReply),
    /// The store is shut down, or its disk failed.
    #[error("the store is closed: {0}")]
    Closed(String),
}

impl StoreError {
    /// The stable code, which says whose fault it is and whether to try again.
    pub fn code(&self) -> Code {
        match self {
            StoreError::Config(_) | StoreError::Invalid(_) => Code::Invalid,
            StoreError::TooLarge { .. } => Code::TooLarge,
            StoreError::Identity { .. } | StoreError::Conflict(_) => Code::Conflict,
            StoreError::LogDamaged(_) | StoreError::Corrupt { .. } | StoreError::OlderCopy { .. } => {
                Code::Corrupt
            }
            StoreError::NotFound(_) => Code::NotFound,
            StoreError::NoMember => Code::NotReady,
            StoreError::Away(_) | StoreError::Undecided(_) => Code::Unavailable,
            StoreError::Overloaded { .. } => Code::Overloaded,
            StoreError::NoLeader | StoreError::NotLeader(_) | StoreError::Unknown(_) => Code::Unavailable,
            StoreError::Remote(reply) => reply.code,
            StoreError::Closed(_) => Code::NotReady,
            StoreError::Io { .. } | StoreError::Machine(_) | StoreError::Metrics(_) => Code::Internal,
        }
    }

    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        StoreError::Io { operation, path: path.into(), source }
    }

    pub(crate) fn corrupt(what: &'static str, reason: impl ToString) -> Self {
        StoreError::Corrupt { what, reason: reason.to_string() }
    }
}

impl From<StoreError> for ErrorReply {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Remote(reply) => reply,
            StoreError::Overloaded { retry_after_ms, .. } => {
                ErrorReply::new(Code::Overloaded, error.to_string()).retry_after_ms(retry_after_ms)
            }
            // What a caller is told names no file of this node.
            StoreError::Io { .. } | StoreError::Machine(_) => {
                ErrorReply::new(error.code(), "the node's disk failed")
            }
            other => ErrorReply::new(other.code(), other.to_string()),
        }
    }
}

impl From<CodecError> for StoreError {
    fn from(error: CodecError) -> Self {
        StoreError::corrupt("a stored value", error)
    }
}
