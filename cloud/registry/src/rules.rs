//! What people decide of a bundle's rules: read, and replaced by publishing the same bundle with other rules.

use cloud_storage::{Draft, StoredBundle};
use proto::bundle::{ArtifactKind, RuleSettings, Rules};
use proto::control::BundleView;

use crate::{Proof, Registry, RegistryError, check_note};

impl Registry {
    /// What holds in the bundle that was published last and not stopped.
    pub async fn rules(&self) -> Result<RuleSettings, RegistryError> {
        let base = self.base().await?;
        Ok(self.rules_of(&base).await?.settings())
    }

    /// Publishes that bundle's contents with these rules. What is counted from data (popular items, segments) stays.
    pub async fn set_rules(
        &self,
        settings: RuleSettings,
        note: String,
        who: &str,
        now_ms: u64,
    ) -> Result<BundleView, RegistryError> {
        check_note(&note)?;
        inference::bundle::check_settings(&settings).map_err(RegistryError::Rules)?;
        let newest = self.revision();
        let base = self.base().await?;
        let rules = self.rules_of(&base).await?.with(settings);
        let bytes = serde_json::to_vec(&rules).map_err(|e| RegistryError::Interrupted(e.to_string()))?;
        let kind = ArtifactKind::Rules;
        let mut upload =
            self.shared.storage.upload(kind, inference::bundle::artifact_bytes_max(kind)).await?;
        upload.write(&bytes).await?;
        let stored = upload.finish(None, who, now_ms).await?;
        let mut artifacts = base.manifest.artifacts;
        for artifact in artifacts.iter_mut().filter(|artifact| artifact.kind == kind) {
            (artifact.digest, artifact.size) = (stored.digest, stored.size);
        }
        let note = if note.is_empty() { format!("other rules for revision {}", base.revision) } else { note };
        let draft = Draft { note, rollback_of: None, published_at_ms: now_ms };
        self.publish_contents(artifacts, draft, "rules.set", who, Proof::OnTopOf(newest)).await
    }

    /// What is on trial, else what was promoted last.
    async fn base(&self) -> Result<StoredBundle, RegistryError> {
        let offers = self.shared.offers.borrow().clone();
        let offer = offers.trial.or(offers.promoted).ok_or(RegistryError::NothingPublished)?;
        let stored = self.shared.storage.bundle(offer.revision).await?;
        stored.ok_or(RegistryError::NoRevision(offer.revision))
    }

    async fn rules_of(&self, bundle: &StoredBundle) -> Result<Rules, RegistryError> {
        let artifact = bundle.manifest.artifact(ArtifactKind::Rules);
        let digest = artifact.ok_or(RegistryError::NoRevision(bundle.revision))?.digest;
        let storage = self.shared.storage.clone();
        let read = move || {
            let bytes = storage.artifacts().read_blocking(digest)?;
            inference::bundle::read_rules(&bytes).map_err(|error| RegistryError::Rules(error.to_string()))
        };
        tokio::task::spawn_blocking(read).await.map_err(|e| RegistryError::Interrupted(e.to_string()))?
    }
}
