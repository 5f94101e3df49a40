//! Bundles: the signed, numbered set of catalog, models and rules that comes down to the edges.

use serde::{Deserialize, Serialize};

use crate::event::Attributes;
use crate::ids::{Digest, ItemId, Revision};

/// What an artifact is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// [`Catalog`] as JSON.
    Catalog,
    /// [`Rules`] as JSON.
    Rules,
    /// ONNX: history in, scored candidates out.
    RetrievalModel,
    /// Its model card as JSON (`inference::Card`).
    RetrievalCard,
    /// ONNX: features in, probability of a click out.
    RankerModel,
    /// Its model card as JSON (`inference::Card`).
    RankerCard,
}

impl ArtifactKind {
    /// Every kind.
    pub const ALL: [ArtifactKind; 6] = [
        ArtifactKind::Catalog,
        ArtifactKind::Rules,
        ArtifactKind::RetrievalModel,
        ArtifactKind::RetrievalCard,
        ArtifactKind::RankerModel,
        ArtifactKind::RankerCard,
    ];
}

/// One content-addressed file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// What it is for. A bundle has at most one of each kind.
    pub kind: ArtifactKind,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// What a bundle consists of. The signature covers its encoded bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The bundle's number.
    pub revision: Revision,
    /// When the cloud published it, milliseconds since 1970 UTC.
    pub published_at_ms: u64,
    /// From when on an edge must not activate it any more (it may go on serving it), milliseconds since 1970 UTC.
    pub expires_at_ms: u64,
    /// Its files.
    pub artifacts: Vec<ArtifactRef>,
}

impl Manifest {
    /// The file of one kind.
    pub fn artifact(&self, kind: ArtifactKind) -> Option<&ArtifactRef> {
        self.artifacts.iter().find(|artifact| artifact.kind == kind)
    }
}

/// A manifest with the cloud's signature. Trust nothing in `manifest` before the signature is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedManifest {
    /// A [`Manifest`], encoded by [`crate::codec::encode`].
    pub manifest: Vec<u8>,
    /// Ed25519 (RFC 8032) over `b"rockpool-manifest/1\0"` followed by `manifest`; 64 bytes.
    pub signature: Vec<u8>,
}

/// What the signature of a manifest covers before the manifest itself, so that it can never be taken for another's.
pub const MANIFEST_CONTEXT: &[u8] = b"rockpool-manifest/1\0";

/// All items with their attributes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Catalog {
    /// At most [`crate::limits::CATALOG_ITEMS_MAX`]; ids are unique.
    pub items: Vec<Item>,
    /// Pieces of content, and whatever else shall be there when the cloud or its origin is gone: nodes fetch it into their cache with the
    /// bundle, as they do items' pictures. At most [`crate::limits::CATALOG_ITEMS_MAX`], written as pictures are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content: Vec<String>,
}

/// One item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its id.
    pub id: ItemId,
    /// For people.
    pub title: String,
    /// Genres, departments, topics …
    #[serde(default)]
    pub categories: Vec<String>,
    /// Anything else that is known, for example `year`.
    #[serde(default)]
    pub attributes: Attributes,
    /// Its picture: `/c/{origin}/…`, or `https://…` of an origin of the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// What people decided, as opposed to what models learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Never served.
    #[serde(default)]
    pub blocked: Vec<ItemId>,
    /// Weight of relevance against diversity in MMR (Carbonell & Goldstein, 1998), from 0 to 1; 1 is relevance alone.
    #[serde(default = "Rules::diversity_lambda_default")]
    pub diversity_lambda: f32,
    /// An item that was seen this often without a click is no longer served. 0: no cap.
    #[serde(default)]
    pub seen_max: u16,
    /// What most visitors like, best first: the last fallback.
    #[serde(default)]
    pub popular: Vec<ItemId>,
    /// Visitors alike, and what they like. The first that matches counts.
    #[serde(default)]
    pub segments: Vec<Segment>,
}

impl Rules {
    fn diversity_lambda_default() -> f32 {
        0.85
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            blocked: Vec::new(),
            diversity_lambda: Self::diversity_lambda_default(),
            seen_max: 0,
            popular: Vec::new(),
            segments: Vec::new(),
        }
    }
}

/// Visitors that have these traits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// For people and metrics.
    pub name: String,
    /// All must be equal to the visitor's trait (or the request's context) of that name.
    pub when: Attributes,
    /// What they like, best first.
    pub popular: Vec<ItemId>,
}
