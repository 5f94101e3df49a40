//! The registry over a real storage, with tiny models.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

mod publish;
mod refuse;
mod rules;
mod trials;

use std::collections::HashMap;
use std::path::PathBuf;

use cloud_registry::{Config, Registry};
use cloud_storage::Storage;
use inference::{Engine, Signer, testing};
use proto::bundle::{ArtifactKind, ArtifactRef};
use proto::control::PublishBundle;

pub(crate) const NOW_MS: u64 = 1_760_000_000_000;
pub(crate) const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A registry in a folder of its own.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) storage: Storage,
    pub(crate) registry: Registry,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn in_folder(folder: tempfile::TempDir) -> Self {
        let storage = Storage::open(folder.path(), &cloud_storage::Config::default()).await.unwrap();
        let registry = open(&folder, &storage).await.unwrap();
        Self { folder, storage, registry }
    }

    /// Ends it and begins again in the same folder.
    pub(crate) async fn restart(self) -> Self {
        self.storage.close().await;
        Self::in_folder(self.folder).await
    }

    /// Uploads files.
    pub(crate) async fn upload(&self, files: &HashMap<ArtifactKind, Vec<u8>>) -> Vec<ArtifactRef> {
        let mut refs = Vec::new();
        for (kind, bytes) in files {
            let mut upload = self.storage.upload(*kind, u64::MAX).await.unwrap();
            upload.write(bytes).await.unwrap();
            let stored = upload.finish(None, "admin", NOW_MS).await.unwrap();
            refs.push(ArtifactRef { kind: *kind, digest: stored.digest, size: stored.size });
        }
        refs.sort_by_key(|artifact| artifact.kind);
        refs
    }

    /// Uploads and publishes.
    pub(crate) async fn publish(
        &self,
        files: &HashMap<ArtifactKind, Vec<u8>>,
    ) -> Result<proto::control::BundleView, cloud_registry::RegistryError> {
        let bundle = PublishBundle { artifacts: self.upload(files).await, note: "a test".into() };
        self.registry.publish(bundle, "admin", NOW_MS).await
    }
}

pub(crate) fn key(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("signing.key")
}

pub(crate) async fn open(
    folder: &tempfile::TempDir,
    storage: &Storage,
) -> Result<Registry, cloud_registry::RegistryError> {
    // Both runtimes, where this machine has both.
    let engines = vec![Engine::choose(None), Engine::tract()];
    Registry::open(storage.clone(), &key(folder), engines, Config::default(), rollout(), NOW_MS).await
}

/// Short, for tests that play with the clock.
pub(crate) fn rollout() -> cloud_registry::rollout::Config {
    cloud_registry::rollout::Config { canary_pops: Vec::new(), hold_s: 10, verdict_within_s: 100 }
}

/// Files that are fit to be published; another seed, other models.
pub(crate) fn files(seed: u64) -> HashMap<ArtifactKind, Vec<u8>> {
    testing::bundle(&Signer::from_seed(&[7; 32]), 1, 20, seed).artifacts
}
