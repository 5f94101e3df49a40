//! What can go wrong between two processes: one error type for every form of a link.

use std::io;
use std::sync::Arc;

use proto::codec::CodecError;
use proto::{Code, ErrorReply};

/// A link, a stream or a dial failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {operation} ({remote}): {kind}")]
pub struct LinkError {
    /// What was tried, for people: `dial`, `open a stream`, `receive` …
    pub operation: &'static str,
    /// The other side's address, or the own one where nobody else is concerned.
    pub remote: Arc<str>,
    /// What went wrong. Its text is part of this error's own, so it is not a source besides.
    pub kind: LinkErrorKind,
}

/// What went wrong with a link.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkErrorKind {
    /// Nobody listens there, or the listener is full.
    #[error("refused: {0}")]
    Refused(Arc<str>),
    /// Nothing was heard in time.
    #[error("no answer in time")]
    Timeout,
    /// The link was closed, by either side. Dial again.
    #[error("closed: {0}")]
    Closed(Arc<str>),
    /// The other side gave up this stream; the link is fine.
    #[error("stream reset by the other side{}", .0.map(|code| format!(": {code}")).unwrap_or_default())]
    Reset(Option<Code>),
    /// The stream ended where a message was due: the other side has nothing more to say.
    #[error("the stream ended where a message was due")]
    Finished,
    /// The stream ended in the middle of a frame.
    #[error("the stream ended within a frame, after {got} bytes")]
    Truncated {
        /// Bytes of the frame that had come.
        got: usize,
    },
    /// Half-received frames hold all the memory that they may; this stream was given up.
    #[error("frames being received hold all the memory they may ({max} bytes)")]
    Overloaded {
        /// The listener's or dialer's [`crate::quic::Settings::frame_bytes_max`].
        max: usize,
    },
    /// The bytes are not what the protocol allows here.
    #[error(transparent)]
    Protocol(#[from] CodecError),
    /// No certificate, or one that is expired, of another authority, or of another name.
    #[error("TLS: {0}")]
    Tls(Arc<str>),
    /// The certificate is good, but may not come through this door.
    #[error("forbidden: {0}")]
    Forbidden(Arc<str>),
    /// The address or the name to verify is not one.
    #[error("address: {0}")]
    Address(Arc<str>),
    /// Settings that cannot work.
    #[error("settings: {0}")]
    Settings(Arc<str>),
    /// The operating system refused.
    #[error("{0}")]
    Io(Arc<io::Error>),
}

impl LinkErrorKind {
    pub(crate) fn at(self, operation: &'static str, remote: impl Into<Arc<str>>) -> LinkError {
        LinkError { operation, remote: remote.into(), kind: self }
    }
}

impl LinkError {
    /// The stable code, which says whose fault it is and whether to try again.
    pub fn code(&self) -> Code {
        match &self.kind {
            LinkErrorKind::Timeout => Code::DeadlineExceeded,
            LinkErrorKind::Refused(_)
            | LinkErrorKind::Closed(_)
            | LinkErrorKind::Finished
            | LinkErrorKind::Io(_) => Code::Unavailable,
            LinkErrorKind::Reset(code) => code.unwrap_or(Code::Unavailable),
            LinkErrorKind::Truncated { .. } => Code::Malformed,
            LinkErrorKind::Overloaded { .. } => Code::Overloaded,
            LinkErrorKind::Protocol(CodecError::TooLarge { .. }) => Code::TooLarge,
            LinkErrorKind::Protocol(_) => Code::Malformed,
            LinkErrorKind::Tls(_) => Code::Unauthenticated,
            LinkErrorKind::Forbidden(_) => Code::Forbidden,
            LinkErrorKind::Address(_) | LinkErrorKind::Settings(_) => Code::Invalid,
        }
    }

    /// Whether the link itself is gone, so that every stream of it is: dial again.
    pub fn is_closed(&self) -> bool {
        matches!(self.kind, LinkErrorKind::Closed(_) | LinkErrorKind::Refused(_) | LinkErrorKind::Io(_))
    }
}

impl From<&LinkError> for ErrorReply {
    fn from(error: &LinkError) -> Self {
        ErrorReply::new(error.code(), error.to_string())
    }
}
