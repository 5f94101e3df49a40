//! The control conversation: JSON over HTTP between people's tools and the cloud.

mod events;
mod loss;

use serde::{Deserialize, Serialize};

use crate::bundle::ArtifactRef;
use crate::error::Code;
use crate::ids::{Digest, NodeId, Offset, PopId, Revision};

pub use events::{EraseVisitor, ErasureView, EventPage, EventView};
pub use loss::{AcceptLoss, Ahead, LossAccepted};

/// A node's part in its Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes writes.
    Leader,
    /// Follows a leader.
    Follower,
    /// Stands for election: no leader is known.
    Candidate,
    /// Catches up, without a vote.
    Learner,
}

/// A node's place in its PoP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// Not said: by a node of an older version.
    #[default]
    Unknown,
    /// A member that votes.
    Voter,
    /// A member that catches up, without a vote yet.
    Learner,
    /// It has an empty folder, and waits to be joined.
    Waiting,
    /// It was a member, and is none any more.
    Left,
    /// Its identity was revoked.
    Revoked,
}

/// How a node is, as it reports to the cloud and shows on its admin port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its part in the group.
    pub role: Role,
    /// Raft term.
    pub term: u64,
    /// Log index it has applied.
    pub applied: u64,
    /// Highest log index it holds.
    pub last_log: u64,
    /// Committed events that the cloud has not acknowledged.
    pub outbox: u64,
    /// The active bundle; 0: none.
    pub revision: Revision,
    /// Version of the loaded retrieval model.
    pub retrieval: Option<String>,
    /// Version of the loaded ranker.
    pub ranker: Option<String>,
    /// ONNX runtime in use, `ort` or `tract`.
    pub engine: String,
    /// Client requests in flight.
    pub in_flight: u64,
    /// Why the newest bundle was refused, if it was.
    pub bundle_error: Option<String>,
    /// Client address, `host:port`.
    pub client_address: String,
    /// The newest bundle that this node found unfit to serve; 0: none.
    #[serde(default)]
    pub unfit: Revision,
    /// How it answers from the active bundle, since that is active here.
    #[serde(default)]
    pub answers: AnswerCounts,
}

/// How recommendations were answered from one bundle. A restart begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AnswerCounts {
    /// Answers.
    pub answers: u64,
    /// Of them, those for which a model failed: an error, a number that is not finite, a panic.
    pub failed: u64,
    /// Of them, those that no model had a part in, for whatever reason: an unknown visitor, no time, a failure.
    pub fell_back: u64,
    /// How long all of them took together, in microseconds.
    pub took_us: u64,
}

impl AnswerCounts {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            answers: self.answers.saturating_add(other.answers),
            failed: self.failed.saturating_add(other.failed),
            fell_back: self.fell_back.saturating_add(other.fell_back),
            took_us: self.took_us.saturating_add(other.took_us),
        }
    }

    /// The share of answers that no model had a part in, from 0 to 1.
    pub fn fell_back_share(self) -> f64 {
        self.fell_back as f64 / self.answers.max(1) as f64
    }

    /// How long one answer took, in microseconds.
    pub fn mean_us(self) -> u64 {
        self.took_us / self.answers.max(1)
    }
}

/// Where a node stands in its PoP, and the PoP towards the cloud: beside each report.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    /// Its place in its PoP, as far as it knows.
    pub membership: Membership,
    /// Raft term.
    pub term: u64,
    /// Whether it leads, and has applied all that was committed before it led.
    pub leads: bool,
    /// The members as it knows them, by id; at most [`crate::limits::MEMBERS_LEN_MAX`]. Those of the leader count.
    pub members: Vec<NodeId>,
    /// SHA-256 of the manifest that it serves from; none before the first.
    pub serves: Option<Digest>,
    /// The bundle that is active in the PoP; 0: none.
    pub active: Revision,
    /// SHA-256 of its manifest.
    pub active_manifest: Option<Digest>,
    /// The cloud has acknowledged every event up to here, and the PoP has forgotten them.
    pub acknowledged: Offset,
    /// Offset of the last event; 0: none ever.
    pub last_offset: Offset,
    /// Why the uplink stands still, if it does: cloud and PoP contradict each other, and a person must act.
    pub diverged: Option<String>,
}

/// A node as the cloud knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Which.
    pub node: NodeId,
    /// When it last reported, milliseconds since 1970 UTC.
    pub seen_at_ms: u64,
    /// What it reported.
    pub report: NodeReport,
    /// Its place in its PoP: by the PoP's leader, else by its own word.
    #[serde(default)]
    pub membership: Membership,
}

/// A PoP as the cloud knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PopView {
    /// Which.
    pub pop: PopId,
    /// Last offset that is durable in the cloud.
    pub upto: Offset,
    /// Its nodes, by id.
    pub nodes: Vec<NodeView>,
    /// Set where the PoP has more than this cloud, which was restored from a backup.
    #[serde(default)]
    pub ahead: Option<Ahead>,
    /// Why its uplink stands still, by its leader's word.
    #[serde(default)]
    pub diverged: Option<String>,
    /// Events that were given up after a restore, all times together.
    #[serde(default)]
    pub lost: u64,
}

/// What to publish: artifacts that were uploaded before, by digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishBundle {
    /// Its files.
    pub artifacts: Vec<ArtifactRef>,
    /// Why, for the audit log.
    #[serde(default)]
    pub note: String,
}

/// A published bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BundleView {
    /// Its number.
    pub revision: Revision,
    /// When, milliseconds since 1970 UTC.
    pub published_at_ms: u64,
    /// The revision whose contents it repeats, if it is a roll-back.
    pub rollback_of: Option<Revision>,
    /// Why, as its publisher said.
    pub note: String,
    /// Its files.
    pub artifacts: Vec<ArtifactRef>,
}

/// How far a bundle has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStage {
    /// Offered to the canary PoPs only.
    Canary,
    /// Offered to every PoP.
    Promoted,
    /// Found bad, and never offered again.
    Stopped,
    /// A newer one came before its verdict.
    Superseded,
}

impl RolloutStage {
    /// Every stage.
    pub const ALL: [RolloutStage; 4] =
        [RolloutStage::Canary, RolloutStage::Promoted, RolloutStage::Stopped, RolloutStage::Superseded];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            RolloutStage::Canary => "canary",
            RolloutStage::Promoted => "promoted",
            RolloutStage::Stopped => "stopped",
            RolloutStage::Superseded => "superseded",
        }
    }
}

/// The rollout of one bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutView {
    /// Which bundle.
    pub revision: Revision,
    /// How far it has come.
    pub stage: RolloutStage,
    /// The PoPs that it is tried on, or was; empty while none has come yet, and where no trial was needed.
    pub canaries: Vec<PopId>,
    /// When it was published, milliseconds since 1970 UTC.
    pub began_at_ms: u64,
    /// When its verdict fell, milliseconds since 1970 UTC.
    pub ended_at_ms: Option<u64>,
    /// Why it came to where it is.
    pub reason: String,
    /// How the canaries answered from the bundle that they had before.
    pub before: AnswerCounts,
    /// How they answered from this one: until now, and at the verdict.
    pub during: AnswerCounts,
    /// Whether its catalog is another than that of the bundle before: then nobody's past means to it what it meant before, and how
    /// many are answered without a model says nothing.
    #[serde(default)]
    pub new_catalog: bool,
}

/// Promotes or stops a rollout by hand.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndRollout {
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
}

/// An artifact was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactStored {
    /// Its address.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Events that are durable in the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounts {
    /// All, each event id once.
    pub total: u64,
    /// By kind: impression, click, conversion, rating, custom; erased: those of visitors who were erased.
    pub by_kind: std::collections::BTreeMap<String, u64>,
    /// By PoP.
    pub by_pop: std::collections::BTreeMap<String, u64>,
}

/// An error of the control API (shaped after RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// HTTP status.
    pub status: u16,
    /// What was wrong and what to do.
    pub detail: String,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// Its number.
    pub seq: u64,
    /// When, milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// Who.
    pub who: String,
    /// What was asked for, for example `bundle.publish`.
    pub what: String,
    /// With what, and how it went.
    pub detail: String,
}

/// The public half of the key that signs bundles: edges must trust it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// Ed25519 (RFC 8032), 64 hex digits.
    pub ed25519: String,
}

/// Asks for a one-time token with which a node gets its first certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolNode {
    /// The PoP that the node belongs to.
    pub pop: PopId,
    /// The node's id, from 1.
    pub node: NodeId,
    /// DNS names and IP addresses that apps dial, for its certificates; at most [`crate::limits::PUBLIC_NAMES_MAX`].
    #[serde(default)]
    pub names: Vec<String>,
    /// For how long the token holds, in seconds; by default an hour.
    #[serde(default)]
    pub lifetime_s: Option<u64>,
}

/// A one-time token. It is shown once, and kept as its SHA-256 only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentToken {
    /// The secret: the node's `identity.token` file holds it.
    pub token: String,
    /// For which PoP.
    pub pop: PopId,
    /// For which node.
    pub node: NodeId,
    /// Until when, milliseconds since 1970 UTC.
    pub expires_at_ms: u64,
    /// Whether this cloud has heard of the PoP before.
    #[serde(default)]
    pub new_pop: bool,
}

// The token is a secret.
impl std::fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolmentToken")
            .field("pop", &self.pop)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Declares stored content void, on all nodes of a PoP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeContent {
    /// `https://…` as the origin has it, or `/c/{origin}/…`.
    #[serde(default)]
    pub urls: Vec<String>,
    /// All responses that have one of them in `Cache-Tag` or `Surrogate-Key`.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Everything.
    #[serde(default)]
    pub all: bool,
}

/// What was declared void is served no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentPurged {
    /// The log index that holds it.
    pub index: u64,
    /// Nodes that have not said that they know it: cut off as they are, they ask the origin before they serve anything, and serve what
    /// they have only where that is gone, too.
    pub unheard: Vec<NodeId>,
}

/// Revokes a node's identity, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeNode {
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Whether a node may be meant that this cloud has never heard of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unheard: bool,
}

/// A node whose identity was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedNode {
    /// Its PoP.
    pub pop: PopId,
    /// Which.
    pub node: NodeId,
    /// When, milliseconds since 1970 UTC.
    pub revoked_at_ms: u64,
    /// Why.
    pub reason: String,
}
