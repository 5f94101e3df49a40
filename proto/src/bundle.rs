//! Bundles: the signed, numbered set of catalog, models and rules that comes down to the edges.

use std::collections::BTreeMap;

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
    /// As [`RuleSettings::caps`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub caps: BTreeMap<String, u16>,
    /// As [`RuleSettings::repeat_bought`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeat_bought: bool,
    /// As [`RuleSettings::explore_share`]. Left out where it is the default, so that nodes which do not know it read the rules.
    #[serde(default = "RuleSettings::explore_share_default", skip_serializing_if = "is_default_share")]
    pub explore_share: f32,
}

/// 1 - `share`, so that 0.85 leaves 0.15 and not 0.14999998, and the other way round.
fn complement(share: f32) -> f32 {
    (((1.0 - f64::from(share)) * 1e6).round() / 1e6) as f32
}

fn is_default_share(share: &f32) -> bool {
    *share == RuleSettings::explore_share_default()
}

/// What people decide of [`Rules`]; the rest is counted from data. The file of `rockpool bundle publish --rules` and
/// `rockpool rules set`, and the body of `/v1/rules`. What is left out has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleSettings {
    /// Items that are never served.
    pub block: Vec<ItemId>,
    /// Most items of one answer that share a value: of `category`, or of the item's attribute of that name, for example
    /// `{"category": 3, "brand": 2}`. At most [`crate::limits::CAPS_MAX`], each from 1.
    pub caps: BTreeMap<String, u16>,
    /// How much an answer's items shall differ in their categories, against how well each fits: 0 not at all, 1 before all else.
    pub diversity: f32,
    /// Share of an answer's places that new items get, from 0 to 1: those that nobody has dealt with, so that no model knows them.
    /// Those nearest to what the visitor liked come first.
    pub explore_share: f32,
    /// Whether what a visitor bought (a conversion) is offered again like anything else. False: only when nothing else is left.
    pub repeat_bought: bool,
    /// An item that a visitor saw this often without a click is no longer offered. 0: no cap.
    pub seen_max: u16,
}

impl RuleSettings {
    fn explore_share_default() -> f32 {
        0.1
    }
}

impl Default for RuleSettings {
    fn default() -> Self {
        Rules::default().settings()
    }
}

impl Rules {
    fn diversity_lambda_default() -> f32 {
        0.85
    }

    /// What people decided of them.
    pub fn settings(&self) -> RuleSettings {
        RuleSettings {
            block: self.blocked.clone(),
            caps: self.caps.clone(),
            diversity: complement(self.diversity_lambda),
            explore_share: self.explore_share,
            repeat_bought: self.repeat_bought,
            seen_max: self.seen_max,
        }
    }

    /// The same, as people decide now.
    #[must_use]
    pub fn with(self, settings: RuleSettings) -> Self {
        let RuleSettings { block, caps, diversity, explore_share, repeat_bought, seen_max } = settings;
        let diversity_lambda = complement(diversity);
        Self { blocked: block, caps, diversity_lambda, explore_share, repeat_bought, seen_max, ..self }
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
            caps: BTreeMap::new(),
            repeat_bought: false,
            explore_share: RuleSettings::explore_share_default(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_today_are_read_by_nodes_of_yesterday_until_a_new_one_is_used() {
        let text = serde_json::to_string(&Rules::default()).unwrap();
        for new in ["caps", "repeat_bought", "explore_share"] {
            assert!(!text.contains(new), "{text}");
        }
        let old: Rules = serde_json::from_str(r#"{"blocked": ["a"], "diversity_lambda": 0.5}"#).unwrap();
        assert_eq!((old.explore_share, old.repeat_bought, old.caps.len()), (0.1, false, 0));
    }

    #[test]
    fn settings_go_in_and_come_out() {
        let text = r#"{"block": ["a"], "caps": {"category": 3, "brand": 2}, "diversity": 0.3, "repeat_bought": true}"#;
        let settings: RuleSettings = serde_json::from_str(text).unwrap();
        assert_eq!((settings.explore_share, settings.seen_max), (0.1, 0), "what is left out has its default");
        let popular = vec![ItemId::new("p").unwrap()];
        let rules = Rules { popular: popular.clone(), ..Rules::default() }.with(settings.clone());
        assert_eq!((&rules.popular, rules.diversity_lambda), (&popular, 0.7));
        assert_eq!(rules.settings(), settings);
        assert_eq!(RuleSettings::default().diversity, 0.15);
        assert_eq!(Rules::default().with(RuleSettings::default()), Rules::default());
        assert!(serde_json::from_str::<RuleSettings>(r#"{"blocked": ["a"]}"#).is_err(), "no such field");
    }
}
