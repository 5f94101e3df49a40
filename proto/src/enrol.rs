//! The conversation of a node that has no certificate yet: it shows a one-time token and asks for its first one.
//!
//! The cloud shows its certificate, the node none. Its private key never leaves it: what it sends is a signing request
//! (PKCS #10, RFC 2986), which proves that it has the key.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::ErrorReply;
use crate::ids::{NodeId, PopId};

/// A one-time token. Not shown by `{:?}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The only request, on a stream of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The PoP that the token was made for.
    pub pop: PopId,
    /// The node that the token was made for.
    pub node: NodeId,
    /// The token, at most [`crate::limits::TOKEN_BYTES_MAX`] bytes.
    pub token: Token,
    /// Signing request, DER, at most [`crate::limits::SIGNING_REQUEST_BYTES_MAX`] bytes.
    pub request: Vec<u8>,
}

/// The cloud's reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrolReply {
    /// The certificate and what stands between it and the deployment's CA, PEM, the node's own first.
    Issued(String),
    /// Instead of it.
    Error(ErrorReply),
}
