//! What can go wrong for an app, each with its stable code: whose fault, and whether to try again.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use proto::{Code, ErrorReply};
use transport::LinkError;

use crate::queue::{AppendError, OpenError};

/// Why a call of the SDK failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SdkError {
    /// The configuration cannot work.
    #[error("configuration: {0}")]
    Config(String),
    /// The request or event is not allowed, or a node refused it for good.
    #[error("refused{}: {reply}", .node.as_ref().map(|node| format!(" by {node}")).unwrap_or_default())]
    Refused {
        /// The node's address; `None`: the SDK itself refused, and nothing was sent.
        node: Option<String>,
        /// What was said.
        reply: ErrorReply,
    },
    /// No node answered in time.
    #[error("no answer within {deadline_ms} ms, {asked} questions asked{}", because(.last))]
    Deadline {
        /// The request's deadline.
        deadline_ms: u64,
        /// How many questions were asked.
        asked: u32,
        /// The last thing that went wrong, if anything did.
        last: Option<Arc<SdkError>>,
    },
    /// No node could be asked, or every node asked failed.
    #[error("no node is available, {asked} questions asked{}", because(.last))]
    Unavailable {
        /// How many questions were asked.
        asked: u32,
        /// The last thing that went wrong, if anything did.
        last: Option<Arc<SdkError>>,
    },
    /// A connection failed.
    #[error("node {node}: {source}")]
    Link {
        /// The node's address.
        node: String,
        /// What happened.
        source: LinkError,
    },
    /// The node's reply does not belong to the request: it is not a node of this protocol.
    #[error("node {node} answered something else than was asked")]
    Unexpected {
        /// The node's address.
        node: String,
    },
    /// The queue has no room: nothing of the call was taken. Room comes back as events are delivered.
    #[error("the event queue is full: {bytes} of {bytes_max} bytes")]
    QueueFull {
        /// Bytes that wait.
        bytes: u64,
        /// Bytes that may wait.
        bytes_max: u64,
    },
    /// Another client uses the queue's folder.
    #[error("the queue in {} is in use by another client", dir.display())]
    QueueLocked {
        /// The folder.
        dir: PathBuf,
    },
    /// The queue's disk failed.
    #[error("event queue: {operation}: {source}")]
    Queue {
        /// What was tried.
        operation: String,
        /// What happened.
        source: Arc<io::Error>,
    },
    /// Events were not all acknowledged in time; they stay in the queue.
    #[error("{pending} events are not acknowledged yet")]
    NotFlushed {
        /// How many wait.
        pending: u64,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

fn because(error: &Option<Arc<SdkError>>) -> String {
    error.as_ref().map(|error| format!("; last: {error}")).unwrap_or_default()
}

impl SdkError {
    /// The stable code: [`Code::fault`] says whose fault it is, [`Code::retry`] whether to try again.
    pub fn code(&self) -> Code {
        match self {
            SdkError::Config(_) => Code::Invalid,
            SdkError::Refused { reply, .. } => reply.code,
            SdkError::Deadline { .. } | SdkError::NotFlushed { .. } => Code::DeadlineExceeded,
            SdkError::Unavailable { .. } => Code::Unavailable,
            SdkError::Link { source, .. } => source.code(),
            SdkError::Unexpected { .. } => Code::Malformed,
            SdkError::QueueFull { .. } => Code::Overloaded,
            SdkError::QueueLocked { .. } | SdkError::Closed => Code::Conflict,
            SdkError::Queue { .. } => Code::Internal,
        }
    }

    pub(crate) fn queue(operation: impl Into<String>, source: io::Error) -> Self {
        SdkError::Queue { operation: operation.into(), source: Arc::new(source) }
    }
}

impl From<OpenError> for SdkError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Locked { dir } => SdkError::QueueLocked { dir },
            OpenError::Io { operation, path, source } => {
                SdkError::Queue { operation: format!("{operation} {}", path.display()), source }
            }
        }
    }
}

impl From<AppendError> for SdkError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full { bytes, bytes_max } => SdkError::QueueFull { bytes, bytes_max },
            AppendError::Invalid(reply) => SdkError::Refused { node: None, reply },
            AppendError::Io(source) => SdkError::Queue { operation: "write events".into(), source },
            AppendError::Closed => SdkError::Closed,
        }
    }
}
