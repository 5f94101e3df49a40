//! What is offered at this moment: links to edges watch it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cloud_storage::StoredBundle;
use proto::bundle::SignedManifest;
use proto::control::RolloutStage;
use proto::{Digest, PopId, Revision};

/// What a link to an edge has to know of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its number.
    pub revision: Revision,
    /// From when on it must not be activated any more, milliseconds since 1970 UTC.
    pub expires_at_ms: u64,
    /// What edges pull.
    pub signed: Arc<SignedManifest>,
    /// SHA-256 of the manifest: what a node serves from is told by it, not by its number.
    pub digest: Digest,
}

impl Offer {
    pub(crate) fn of(stored: &StoredBundle) -> Self {
        Self {
            revision: stored.revision,
            digest: Digest::of(&stored.signed.manifest),
            expires_at_ms: stored.manifest.expires_at_ms,
            signed: Arc::new(stored.signed.clone()),
        }
    }
}

/// What is offered to whom.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offers {
    /// The newest revision that was published; 0: none.
    pub newest: Revision,
    /// What every PoP is offered, but canaries during a trial.
    pub promoted: Option<Offer>,
    /// What is on trial.
    pub trial: Option<Offer>,
    /// The PoPs that it is tried on.
    pub canaries: Vec<PopId>,
    /// Trials that have ended since the start, by how.
    pub ended: BTreeMap<&'static str, u64>,
}

impl Offers {
    /// What this PoP is offered.
    pub fn to(&self, pop: &PopId) -> Option<&Offer> {
        let trial = self.trial.as_ref().filter(|_| self.canaries.contains(pop));
        trial.or(self.promoted.as_ref())
    }

    pub(crate) fn count(&mut self, stage: RolloutStage) {
        *self.ended.entry(stage.as_str()).or_default() += 1;
    }
}
