//! The registry: nothing unvalidated is published.
//!
//! A bundle is opened here exactly as an edge node will open it ([`inference::Bundle::open`]: sizes, digests, graph, shapes,
//! golden answers), once in every runtime that an edge may use, before it gets a revision. Revisions only grow, also when
//! older contents are published again. A manifest is signed with Ed25519 and expires, so that nobody can offer an old one
//! for ever; contents that are still the newest are signed again in time ([`Registry::renew_if_due`]).

pub mod config;
pub mod error;
mod key;
mod validate;

use std::path::Path;
use std::sync::Arc;

use cloud_storage::{Change, Draft, Storage, StoredBundle};
use inference::{Engine, PublicKey, Signer};
use proto::Revision;
use proto::bundle::{ArtifactRef, Manifest, SignedManifest};
use proto::control::{BundleView, PublishBundle};
use tokio::sync::{Semaphore, watch};

pub use config::Config;
pub use error::RegistryError;

/// Longest note, in bytes of UTF-8.
pub const NOTE_BYTES_MAX: usize = 1_024;
/// Bundles validated at the same time: each takes a core and the memory of its models.
const VALIDATIONS_MAX: usize = 1;

/// What every link to an edge has to know of the newest bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Its number.
    pub revision: Revision,
    /// From when on it must not be activated any more, milliseconds since 1970 UTC.
    pub expires_at_ms: u64,
    /// What edges pull.
    pub signed: Arc<SignedManifest>,
}

/// The handle. Clones share everything.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    storage: Storage,
    signer: Signer,
    engines: Arc<[Engine]>,
    config: Config,
    newest: watch::Sender<Option<Newest>>,
    validations: Arc<Semaphore>,
}

impl Registry {
    /// Reads the signing key, or makes one at the first start, and the newest bundle. A bundle is validated in each of
    /// `engines`.
    pub async fn open(
        storage: Storage,
        key: &Path,
        engines: Vec<Engine>,
        config: Config,
    ) -> Result<Self, RegistryError> {
        config.check()?;
        let stored = storage.newest_bundle().await?;
        let signer = key::open(key, stored.is_some())?;
        if let Some(stored) = &stored
            && let Err(error) = inference::bundle::verify(&stored.signed, &[signer.public_key()])
        {
            tracing::warn!(
                revision = %stored.revision, error = &error as &dyn std::error::Error,
                "the newest bundle was not signed with the present key: publish it anew, and tell the edges the new key"
            );
        }
        let newest = watch::Sender::new(stored.as_ref().map(newest));
        let shared = Shared {
            storage,
            signer,
            engines: engines.into(),
            config,
            newest,
            validations: Arc::new(Semaphore::new(VALIDATIONS_MAX)),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The public half of the signing key: edges must trust it.
    pub fn public_key(&self) -> PublicKey {
        self.shared.signer.public_key()
    }

    /// The newest bundle, now and whenever it changes.
    pub fn newest(&self) -> watch::Receiver<Option<Newest>> {
        self.shared.newest.subscribe()
    }

    /// The newest revision; 0: nothing was published yet.
    pub fn revision(&self) -> Revision {
        self.shared.newest.borrow().as_ref().map_or(Revision(0), |newest| newest.revision)
    }

    /// Validates artifacts that were uploaded before, and publishes them under the next revision.
    pub async fn publish(
        &self,
        bundle: PublishBundle,
        who: &str,
        now_ms: u64,
    ) -> Result<BundleView, RegistryError> {
        check_note(&bundle.note)?;
        let draft = Draft { note: bundle.note, rollback_of: None, published_at_ms: now_ms };
        self.publish_contents(bundle.artifacts, draft, "bundle.publish", who).await
    }

    /// Publishes the contents of an earlier revision under a newer one. They are validated again: what was fit for an
    /// older encoder need not be for this one.
    pub async fn rollback(
        &self,
        to: Revision,
        note: String,
        who: &str,
        now_ms: u64,
    ) -> Result<BundleView, RegistryError> {
        check_note(&note)?;
        let stored = self.shared.storage.bundle(to).await?.ok_or(RegistryError::NoRevision(to))?;
        if to == self.revision() {
            return Err(RegistryError::IsNewest(to));
        }
        let draft = Draft { note, rollback_of: Some(to), published_at_ms: now_ms };
        self.publish_contents(stored.manifest.artifacts, draft, "bundle.rollback", who).await
    }

    /// Publishes the newest contents again, if less than half of their manifest's life is left. `None`: not due.
    pub async fn renew_if_due(&self, now_ms: u64) -> Result<Option<BundleView>, RegistryError> {
        let newest = self.shared.newest.borrow().clone();
        let Some(newest) = newest.filter(|newest| self.is_due(newest, now_ms)) else { return Ok(None) };
        let stored = self.shared.storage.bundle(newest.revision).await?;
        let stored = stored.ok_or(RegistryError::NoRevision(newest.revision))?;
        let note = format!("renewal of revision {}, which expires", newest.revision);
        let draft = Draft { note, rollback_of: stored.rollback_of, published_at_ms: now_ms };
        self.publish_contents(stored.manifest.artifacts, draft, "bundle.renew", "cloud").await.map(Some)
    }

    fn is_due(&self, newest: &Newest, now_ms: u64) -> bool {
        newest.expires_at_ms.saturating_sub(now_ms) < self.shared.config.lifetime_ms() / 2
    }

    async fn publish_contents(
        &self,
        artifacts: Vec<ArtifactRef>,
        draft: Draft,
        what: &str,
        who: &str,
    ) -> Result<BundleView, RegistryError> {
        let shared = &self.shared;
        let expires_at_ms = draft.published_at_ms.saturating_add(shared.config.lifetime_ms());
        let manifest_of = |revision| Manifest {
            revision,
            published_at_ms: draft.published_at_ms,
            expires_at_ms,
            artifacts: artifacts.clone(),
        };
        // The revision is not known yet, and no part of what is validated.
        let models = self.validate(manifest_of(Revision(1))).await?;
        let change = Change {
            at_ms: draft.published_at_ms,
            who: who.to_owned(),
            what: what.to_owned(),
            detail: format!("{models}, note: {}", draft.note),
        };
        let sign = |revision| shared.signer.sign(&manifest_of(revision));
        let stored = shared.storage.publish_bundle(&draft, &change, sign).await?;
        tracing::info!(revision = %stored.revision, %models, what, "published a bundle");
        self.announce(newest(&stored));
        Ok(stored.view())
    }

    /// Two publishers may come here in either order; the higher revision stays.
    fn announce(&self, newest: Newest) {
        self.shared.newest.send_if_modified(|current| {
            let newer = current.as_ref().is_none_or(|current| current.revision < newest.revision);
            if newer {
                *current = Some(newest);
            }
            newer
        });
    }

    async fn validate(&self, manifest: Manifest) -> Result<validate::Models, RegistryError> {
        validate::check_stored(&self.shared.storage, &manifest).await?;
        let permit = Arc::clone(&self.shared.validations);
        let permit = permit.acquire_owned().await.expect("the semaphore is never closed");
        let (storage, engines) = (self.shared.storage.clone(), Arc::clone(&self.shared.engines));
        let work = move || {
            // Held until the work is done, also when nobody waits for it any more.
            let _permit = permit;
            validate::open(&storage, &manifest, &engines)
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| RegistryError::Interrupted(e.to_string()))?
    }
}

fn newest(stored: &StoredBundle) -> Newest {
    Newest {
        revision: stored.revision,
        expires_at_ms: stored.manifest.expires_at_ms,
        signed: Arc::new(stored.signed.clone()),
    }
}

fn check_note(note: &str) -> Result<(), RegistryError> {
    if note.len() > NOTE_BYTES_MAX { Err(RegistryError::NoteTooLong(note.len())) } else { Ok(()) }
}
