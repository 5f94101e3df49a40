//! Raft's types, as this crate fills them in.

use std::fmt;

use bytes::Bytes;
use openraft::BasicNode;
use proto::codec::{self, CodecError};
use proto::command::{Command, Effect};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::GROUP_BYTES_CEILING;
use crate::runtime::Runtime;
use crate::snapshot::SnapshotFile;

openraft::declare_raft_types!(
    /// One leader a term, as in the dissertation; node ids are [`proto::NodeId`]'s numbers.
    pub Types:
        D = Batch,
        R = Effects,
        NodeId = u64,
        Node = BasicNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

type Leader = <<Types as openraft::RaftTypeConfig>::LeaderId as openraft::vote::RaftLeaderId>::Committed;

pub type Entry = <Types as openraft::RaftTypeConfig>::Entry;
pub type LogId = openraft::LogId<Leader>;
pub type Vote = <Types as openraft::RaftTypeConfig>::Vote;
pub type StoredMembership = openraft::StoredMembership<Leader, u64, BasicNode>;
pub type SnapshotMeta = openraft::SnapshotMeta<Leader, u64, BasicNode>;
pub type Snapshot = openraft::Snapshot<Leader, u64, BasicNode, SnapshotFile>;
pub type Membership = openraft::Membership<u64, BasicNode>;
pub type Raft = openraft::Raft<Types, crate::state::Machine>;

/// Commands that share one Raft entry. Encoded once, where they are proposed: log and wire carry the bytes as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch(Bytes);

impl Batch {
    /// Encodes commands.
    pub fn of(commands: &[&Command]) -> Self {
        // A sequence is encoded the same, whoever owns its elements.
        Self(codec::encode_any(&commands).into())
    }

    /// An encoding, as the log or a peer holds it.
    pub fn of_bytes(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Its encoding.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Bytes of its encoding.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The commands.
    pub fn commands(&self) -> Result<Vec<Command>, CodecError> {
        codec::decode(&self.0)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.0.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

// As a byte string, not as a sequence of numbers: it is on the path of every command, three times.
impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_byte_buf(BatchVisitor)
    }
}

struct BatchVisitor;

impl de::Visitor<'_> for BatchVisitor {
    type Value = Batch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {GROUP_BYTES_CEILING} bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Batch, E> {
        self.visit_byte_buf(bytes.to_vec())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Batch, E> {
        if bytes.len() > GROUP_BYTES_CEILING {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        Ok(Batch(bytes.into()))
    }
}

/// What applying an entry did: an effect a command, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Effects(pub Vec<Effect>);
