//! The conversation from a node to the cloud. The node has shown a certificate that names its PoP; the cloud takes PoP and
//! node from the certificate, never from a message.

use serde::{Deserialize, Serialize};

use crate::bundle::SignedManifest;
use crate::control::{NodeReport, Standing};
use crate::error::ErrorReply;
use crate::event::Event;
use crate::ids::{Digest, NodeId, Offset, Revision, VisitorId};

/// One request on a stream of its own; [`UplinkRequest::Subscribe`] keeps its stream and hears many replies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum UplinkRequest {
    /// Where did this PoP's leader stop? Replied to with [`UplinkReply::Ack`].
    Position,
    /// Committed events, in order, without holes.
    Append {
        /// Offset of the first.
        first: Offset,
        /// At most [`crate::limits::APPEND_EVENTS_MAX`].
        events: Vec<Event>,
    },
    /// Tell me at once when a newer revision exists.
    Subscribe,
    /// The newest manifest.
    Manifest,
    /// A part of an artifact.
    Artifact {
        /// Which.
        digest: Digest,
        /// From which byte.
        offset: u64,
    },
    /// How the node is.
    Report(NodeReport),
    /// A new certificate for the node that asks: a signing request (PKCS #10, DER) with a new key, at most
    /// [`crate::limits::SIGNING_REQUEST_BYTES_MAX`] bytes. Replied to with [`UplinkReply::Issued`].
    Renew(Vec<u8>),
    /// Which nodes of this PoP were revoked, if there are more than this many? Replied to with [`UplinkReply::Revoked`].
    Revoked {
        /// How many the node knows. None is ever taken back, so the number is the list's version.
        known: u64,
    },
    /// Where the node stands, beside each report. Replied to with [`UplinkReply::Noted`].
    Standing(Standing),
    /// Which visitors are to be erased? This PoP's Raft group has erased all of them up to this number. Replied to with
    /// [`UplinkReply::Erasures`].
    Erasures {
        /// Number of the last one that it carried out; 0: none.
        after: u64,
    },
}

/// A visitor of whom nothing is to be known any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// Its number; it only grows.
    pub number: u64,
    /// Who.
    pub visitor: VisitorId,
    /// What happened up to then is erased, also what arrives later. Milliseconds since 1970 UTC.
    pub at_ms: u64,
}

/// The cloud's reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum UplinkReply {
    /// Every event up to and including `upto` is durable in the cloud.
    Ack {
        /// The last durable offset; 0: none.
        upto: Offset,
        /// The newest revision. If it is newer than the active one, pull it.
        control_revision: Revision,
    },
    /// To [`UplinkRequest::Subscribe`], once at the start and then at every change.
    Newer(Revision),
    /// To [`UplinkRequest::Manifest`]; none if nothing was published yet.
    Manifest(Option<SignedManifest>),
    /// To [`UplinkRequest::Artifact`].
    Artifact {
        /// Length of the whole, in bytes.
        size: u64,
        /// At most [`crate::limits::ARTIFACT_PART_BYTES`].
        part: Vec<u8>,
    },
    /// To [`UplinkRequest::Report`] and [`UplinkRequest::Standing`].
    Noted,
    /// Instead of any of them.
    Error(ErrorReply),
    /// To [`UplinkRequest::Renew`]: the certificate and what stands between it and the deployment's CA, PEM, the node's
    /// own first.
    Issued(String),
    /// To [`UplinkRequest::Revoked`]: all of them, or none where the node knows all. At most
    /// [`crate::limits::REVOKED_NODES_MAX`].
    Revoked(Vec<NodeId>),
    /// To [`UplinkRequest::Erasures`]: the next of them, by number, at most [`crate::limits::ERASURES_MAX`].
    Erasures(Vec<Erasure>),
}
