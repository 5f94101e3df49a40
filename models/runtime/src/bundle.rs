//! Bundles: who signed the manifest, whether its files are the ones it names, and whether they are fit to serve.

mod keys;
mod matching;
mod probe;
mod stages;

use std::collections::HashSet;
use std::sync::Arc;

use proto::bundle::{
    ArtifactKind, ArtifactRef, Catalog, MANIFEST_CONTEXT, Manifest, RuleSettings, Rules, SignedManifest,
};
use proto::limits::{ARTIFACT_BYTES_MAX, BUNDLE_ARTIFACTS_MAX, CAPS_MAX, CATALOG_ITEMS_MAX};
use proto::{Digest, ItemId, codec};

pub use self::keys::{PublicKey, Signer};
pub use self::matching::SHARE_MIN;
pub use self::stages::{RankScratch, RankerStage, RetrievalStage};
use crate::card::CARD_BYTES_MAX;
use crate::catalog::IndexedCatalog;
use crate::engine::Engine;
use crate::error::{BundleError, ModelError};

/// Largest signed manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024;
/// Largest rules, in bytes of JSON.
pub const RULES_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Most segments in the rules.
pub const SEGMENTS_MAX: usize = 1000;
/// Most items in one list of popular items.
pub const POPULAR_MAX: usize = 10_000;

/// Largest artifact of a kind, in bytes.
pub fn artifact_bytes_max(kind: ArtifactKind) -> u64 {
    match kind {
        ArtifactKind::Catalog => ARTIFACT_BYTES_MAX,
        ArtifactKind::Rules => RULES_BYTES_MAX,
        ArtifactKind::RetrievalCard | ArtifactKind::RankerCard => CARD_BYTES_MAX as u64,
        ArtifactKind::RetrievalModel | ArtifactKind::RankerModel => crate::vet::MODEL_BYTES_MAX,
    }
}

/// Checks the signature by any of the `trusted` keys, then the manifest itself: sizes, no kind twice, catalog and rules
/// there, models with their cards.
pub fn verify(signed: &SignedManifest, trusted: &[PublicKey]) -> Result<Manifest, BundleError> {
    if signed.manifest.len() > MANIFEST_BYTES_MAX {
        let (len, max) = (signed.manifest.len() as u64, MANIFEST_BYTES_MAX as u64);
        return Err(BundleError::TooLarge { what: "the manifest, in bytes".to_owned(), len, max });
    }
    let message = [MANIFEST_CONTEXT, &signed.manifest].concat();
    if !trusted.iter().any(|key| key.verifies(&message, &signed.signature)) {
        return Err(BundleError::Signature(trusted.len()));
    }
    let manifest: Manifest =
        codec::decode(&signed.manifest).map_err(|error| BundleError::Manifest(error.to_string()))?;
    check_manifest(&manifest)?;
    Ok(manifest)
}

/// Checks what a signature does not say: sizes, no kind twice, catalog and rules there, models with their cards.
pub fn check_manifest(manifest: &Manifest) -> Result<(), BundleError> {
    let refuse = |reason: String| Err(BundleError::Manifest(reason));
    if manifest.artifacts.len() > BUNDLE_ARTIFACTS_MAX {
        return refuse(format!("at most {BUNDLE_ARTIFACTS_MAX} artifacts, not {}", manifest.artifacts.len()));
    }
    let mut kinds = HashSet::new();
    for artifact in &manifest.artifacts {
        let (len, max) = (artifact.size, artifact_bytes_max(artifact.kind));
        if len > max {
            let what = format!("artifact {:?}, in bytes", artifact.kind);
            return Err(BundleError::TooLarge { what, len, max });
        }
        if !kinds.insert(artifact.kind) {
            return refuse(format!("artifact {:?} is there twice", artifact.kind));
        }
    }
    for kind in [ArtifactKind::Catalog, ArtifactKind::Rules] {
        if !kinds.contains(&kind) {
            return refuse(format!("artifact {kind:?} is not there"));
        }
    }
    for (model, card) in PAIRS {
        if kinds.contains(&model) != kinds.contains(&card) {
            return refuse(format!("{model:?} and {card:?} go together"));
        }
    }
    if manifest.revision.0 == 0 || manifest.expires_at_ms <= manifest.published_at_ms {
        return refuse("revision 0, or it expires before it was published".to_owned());
    }
    Ok(())
}

const PAIRS: [(ArtifactKind, ArtifactKind); 2] = [
    (ArtifactKind::RetrievalModel, ArtifactKind::RetrievalCard),
    (ArtifactKind::RankerModel, ArtifactKind::RankerCard),
];

/// Checks that `bytes` are those that the manifest names.
pub fn verify_artifact(artifact: &ArtifactRef, bytes: &[u8]) -> Result<(), BundleError> {
    let corrupt = |reason: String| Err(BundleError::Corrupt { kind: artifact.kind, reason });
    if bytes.len() as u64 != artifact.size {
        return corrupt(format!("{} bytes, the manifest says {}", bytes.len(), artifact.size));
    }
    let digest = Digest::of(bytes);
    if digest != artifact.digest {
        return corrupt(format!("SHA-256 {digest}, the manifest says {}", artifact.digest));
    }
    Ok(())
}

/// A reference to bytes, for a manifest.
pub fn artifact_ref(kind: ArtifactKind, bytes: &[u8]) -> ArtifactRef {
    ArtifactRef { kind, digest: Digest::of(bytes), size: bytes.len() as u64 }
}

/// Everything that serving needs, checked.
#[derive(Debug)]
pub struct Bundle {
    /// What it was made of.
    pub manifest: Manifest,
    /// All items.
    pub catalog: Arc<IndexedCatalog>,
    /// What people decided.
    pub rules: Rules,
    /// The retrieval model, if there is one.
    pub retrieval: Option<RetrievalStage>,
    /// The ranker with its encoder, if there is one.
    pub ranker: Option<RankerStage>,
}

impl Bundle {
    /// Reads and checks every artifact of a manifest that was [`verify`]ed. `artifacts` gives an artifact's bytes; digests
    /// are checked here; models must answer a few fixed questions with sense, and know the catalog's items. Takes as long as loading the models takes: not for
    /// an async worker.
    pub fn open(
        manifest: Manifest,
        artifacts: impl Fn(ArtifactKind) -> Option<Vec<u8>>,
        engine: &Engine,
    ) -> Result<Self, BundleError> {
        check_manifest(&manifest)?;
        let bytes = |kind: ArtifactKind| -> Result<Option<Vec<u8>>, BundleError> {
            let Some(artifact) = manifest.artifact(kind) else { return Ok(None) };
            let bytes = artifacts(kind).ok_or(BundleError::Missing(kind))?;
            verify_artifact(artifact, &bytes)?;
            Ok(Some(bytes))
        };
        let required = |kind: ArtifactKind| bytes(kind)?.ok_or(BundleError::Missing(kind));
        let catalog = Arc::new(read_catalog(&required(ArtifactKind::Catalog)?)?);
        let rules = read_rules(&required(ArtifactKind::Rules)?)?;
        let retrieval = match (bytes(ArtifactKind::RetrievalModel)?, bytes(ArtifactKind::RetrievalCard)?) {
            (Some(onnx), Some(card)) => Some(RetrievalStage::load(engine, &onnx, &card, &catalog)?),
            _ => None,
        };
        let ranker = match (bytes(ArtifactKind::RankerModel)?, bytes(ArtifactKind::RankerCard)?) {
            (Some(onnx), Some(card)) => Some(RankerStage::load(engine, &onnx, &card, &catalog)?),
            _ => None,
        };
        matching::check(&catalog, retrieval.as_ref(), ranker.as_ref())?;
        Ok(Self { manifest, catalog, rules, retrieval, ranker })
    }
}

/// Says in which of the two files the fault lies.
fn model_error(model: ArtifactKind, card: ArtifactKind, error: ModelError) -> BundleError {
    let of_card = match &error {
        ModelError::Schema { .. } => true,
        ModelError::Malformed { what, .. } | ModelError::Refused { what, .. } => {
            matches!(*what, "the card" | "the feature spec")
        }
        _ => false,
    };
    BundleError::Model { kind: if of_card { card } else { model }, error }
}

/// Reads a catalog and checks it.
pub fn read_catalog(bytes: &[u8]) -> Result<IndexedCatalog, BundleError> {
    let kind = ArtifactKind::Catalog;
    let catalog: Catalog = read_json(kind, bytes)?;
    IndexedCatalog::new(catalog).map_err(|reason| BundleError::Contents { kind, reason })
}

/// Reads rules and checks them.
pub fn read_rules(bytes: &[u8]) -> Result<Rules, BundleError> {
    let kind = ArtifactKind::Rules;
    let rules: Rules = read_json(kind, bytes)?;
    check_rules(&rules).map_err(|reason| BundleError::Contents { kind, reason })?;
    Ok(rules)
}

fn read_json<T: serde::de::DeserializeOwned>(kind: ArtifactKind, bytes: &[u8]) -> Result<T, BundleError> {
    let (len, max) = (bytes.len() as u64, artifact_bytes_max(kind));
    if len > max {
        return Err(BundleError::TooLarge { what: format!("artifact {kind:?}, in bytes"), len, max });
    }
    serde_json::from_slice(bytes).map_err(|error| BundleError::Contents { kind, reason: error.to_string() })
}

/// Checks what people decide of rules. The error says what would be right.
pub fn check_settings(settings: &RuleSettings) -> Result<(), String> {
    for (name, share) in [("diversity", settings.diversity), ("explore_share", settings.explore_share)] {
        if !(0.0..=1.0).contains(&share) {
            return Err(format!("{name} must be from 0 to 1, not {share}"));
        }
    }
    if settings.block.len() > CATALOG_ITEMS_MAX {
        return Err(format!("block: at most {CATALOG_ITEMS_MAX} items, not {}", settings.block.len()));
    }
    if settings.caps.len() > CAPS_MAX {
        return Err(format!("caps: at most {CAPS_MAX}, not {}", settings.caps.len()));
    }
    match settings.caps.iter().find(|(name, max)| name.is_empty() || **max == 0) {
        Some((name, max)) => Err(format!(
            "caps: {name:?} is {max}, but a cap has a name (category, or an attribute's) and is from 1 up; to serve nothing of a kind, \
             block its items"
        )),
        None => Ok(()),
    }
}

fn check_rules(rules: &Rules) -> Result<(), String> {
    if !(0.0..=1.0).contains(&rules.diversity_lambda) {
        return Err(format!("diversity_lambda must be from 0 to 1, not {}", rules.diversity_lambda));
    }
    check_settings(&rules.settings())?;
    if rules.segments.len() > SEGMENTS_MAX {
        return Err(format!("at most {SEGMENTS_MAX} segments, not {}", rules.segments.len()));
    }
    let short = |popular: &[ItemId]| popular.len() <= POPULAR_MAX;
    if !short(&rules.popular) || !rules.segments.iter().all(|segment| short(&segment.popular)) {
        return Err(format!("a list of popular items has at most {POPULAR_MAX}"));
    }
    for segment in &rules.segments {
        proto::event::check_attributes(&segment.when)
            .map_err(|error| format!("segment `{}`: {}", segment.name, error.message))?;
    }
    Ok(())
}
