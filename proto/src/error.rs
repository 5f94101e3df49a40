//! The closed set of error codes that every conversation uses, with whose fault each is and what a caller may do next.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::ERROR_MESSAGE_BYTES_MAX;

/// Whose fault an error is. It decides who is told: the caller, or whoever runs the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fault {
    /// The caller sent something that will never be right.
    Caller,
    /// The system could not do what it should.
    System,
    /// Nobody's: the system protects itself and asks the caller to come back.
    Load,
}

/// What a caller may do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Retry {
    /// The same request will fail again.
    Never,
    /// The same request may be sent again, to this node, after a pause.
    Later,
    /// The same request may be sent again at once, to another node.
    Elsewhere,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $fault:ident, $retry:ident;)*) => {
        /// A stable error code. New ones are added at the end; none changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code, in wire order.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// The code's stable text, for logs, metrics and JSON.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// Whose fault it is.
            pub fn fault(self) -> Fault {
                match self { $(Code::$name => Fault::$fault,)* }
            }

            /// Whether, and where, to try again.
            pub fn retry(self) -> Retry {
                match self { $(Code::$name => Retry::$retry,)* }
            }
        }
    };
}

codes! {
    /// The bytes are not a message of this protocol.
    Malformed = "malformed", Caller, Never;
    /// A frame, batch or body is larger than its limit.
    TooLarge = "too_large", Caller, Never;
    /// The message is well formed, but a field's value is not allowed.
    Invalid = "invalid", Caller, Never;
    /// No valid key or certificate was presented.
    Unauthenticated = "unauthenticated", Caller, Never;
    /// The identity is known, but may not do this.
    Forbidden = "forbidden", Caller, Never;
    /// What was named does not exist.
    NotFound = "not_found", Caller, Never;
    /// The request contradicts the present state.
    Conflict = "conflict", Caller, Never;
    /// The caller is over its quota.
    RateLimited = "rate_limited", Load, Later;
    /// The node is at its limit and sheds load.
    Overloaded = "overloaded", Load, Later;
    /// The deadline passed before an answer was ready.
    DeadlineExceeded = "deadline_exceeded", System, Elsewhere;
    /// No majority or no leader can be reached; the outcome of a write is unknown, so repeat it with the same event ids.
    Unavailable = "unavailable", System, Elsewhere;
    /// The node is draining or not ready yet.
    NotReady = "not_ready", System, Elsewhere;
    /// Offsets do not follow each other; the reply says which was expected.
    OutOfOrder = "out_of_order", Caller, Never;
    /// Stored or received bytes do not match their digest or signature.
    Corrupt = "corrupt", System, Never;
    /// A bug or a failing disk.
    Internal = "internal", System, Elsewhere;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as it is said on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ErrorReply {
    /// What kind.
    pub code: Code,
    /// What was wrong and what to do, for a person. Never a secret, never personal data.
    pub message: String,
    /// When to come back, in milliseconds, where [`Retry::Later`] applies.
    pub retry_after_ms: Option<u32>,
}

impl ErrorReply {
    /// An error with a message, cut to [`ERROR_MESSAGE_BYTES_MAX`] bytes.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if message.len() > ERROR_MESSAGE_BYTES_MAX {
            let cut = (0..=ERROR_MESSAGE_BYTES_MAX).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
            message.truncate(cut);
        }
        Self { code, message, retry_after_ms: None }
    }

    /// The same, with the time to come back after.
    pub fn retry_after_ms(mut self, ms: u32) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }
}
