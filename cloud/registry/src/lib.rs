//! The registry: nothing unvalidated is published.
//!
//! A bundle is opened here exactly as an edge node will open it ([`inference::Bundle::open`]: sizes, digests, graph, shapes,
//! golden answers), once in every runtime that an edge may use, before it gets a revision. Revisions only grow, also when
//! older contents are published again. A manifest is signed with Ed25519 and expires, so that nobody can offer an old one
//! for ever; contents that are offered still are signed again in time ([`Registry::renew_if_due`]).
//!
//! What is published goes to the canary PoPs first, and to all once it has proved itself ([`rollout`] decides, `trials` acts).

pub mod config;
pub mod error;
mod key;
pub mod offers;
pub mod rollout;
mod rules;
mod trials;
mod validate;

use std::path::Path;
use std::sync::Arc;

use cloud_storage::{Change, Draft, Storage};
use inference::{Engine, PublicKey, Signer};
use proto::bundle::{ArtifactRef, Manifest};
use proto::control::{BundleView, PublishBundle, RolloutStage};
use proto::{PopId, Revision};
use tokio::sync::{Mutex, Semaphore, watch};

pub use config::Config;
pub use error::RegistryError;
pub use offers::{Offer, Offers};
use trials::Trials;

/// Longest note, in bytes of UTF-8.
pub const NOTE_BYTES_MAX: usize = 1_024;
/// Bundles validated at the same time: each takes a core and the memory of its models.
const VALIDATIONS_MAX: usize = 1;

/// The handle. Clones share everything.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// Why contents need no trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// They do.
    None,
    /// They have had one.
    Known(&'static str),
    /// They have had one, and canaries need them back, unless somebody was quicker.
    Recovery,
    /// They do, and are made of what was newest: of nothing newer.
    OnTopOf(Revision),
}

#[derive(Debug)]
struct Shared {
    storage: Storage,
    signer: Signer,
    engines: Arc<[Engine]>,
    config: Config,
    trials: Mutex<Trials>,
    offers: watch::Sender<Offers>,
    validations: Arc<Semaphore>,
}

impl Registry {
    /// Reads the signing key, or makes one at the first start, and what is offered. A bundle is validated in each of
    /// `engines`.
    pub async fn open(
        storage: Storage,
        key: &Path,
        engines: Vec<Engine>,
        config: Config,
        rollout: rollout::Config,
        now_ms: u64,
    ) -> Result<Self, RegistryError> {
        config.check()?;
        rollout.check()?;
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
        let trials = Trials::load(rollout, storage.last_rollouts().await?, now_ms);
        let newest = stored.map_or(Revision(0), |stored| stored.revision);
        let shared = Shared {
            storage,
            signer,
            engines: engines.into(),
            config,
            trials: Mutex::new(trials),
            offers: watch::Sender::new(Offers { newest, ..Offers::default() }),
            validations: Arc::new(Semaphore::new(VALIDATIONS_MAX)),
        };
        let registry = Self { shared: Arc::new(shared) };
        registry.offer(&*registry.shared.trials.lock().await).await?;
        Ok(registry)
    }

    /// The public half of the signing key: edges must trust it.
    pub fn public_key(&self) -> PublicKey {
        self.shared.signer.public_key()
    }

    /// What is offered to whom, now and whenever it changes.
    pub fn offers(&self) -> watch::Receiver<Offers> {
        self.shared.offers.subscribe()
    }

    /// The revision that a PoP is offered; 0: none.
    pub fn offered(&self, pop: &PopId) -> Revision {
        self.shared.offers.borrow().to(pop).map_or(Revision(0), |offer| offer.revision)
    }

    /// The newest revision; 0: nothing was published yet.
    pub fn revision(&self) -> Revision {
        self.shared.offers.borrow().newest
    }

    /// Validates artifacts that were uploaded before, and publishes them under the next revision: to the canary PoPs first.
    pub async fn publish(
        &self,
        bundle: PublishBundle,
        who: &str,
        now_ms: u64,
    ) -> Result<BundleView, RegistryError> {
        check_note(&bundle.note)?;
        let draft = Draft { note: bundle.note, rollback_of: None, published_at_ms: now_ms };
        self.publish_contents(bundle.artifacts, draft, "bundle.publish", who, Proof::None).await
    }

    /// Publishes the contents of an earlier revision under a newer one. They are validated again: what was fit for an
    /// older encoder need not be for this one. What had been promoted goes to all PoPs at once, as going back is urgent.
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
        if let Some(serving) = self.offered_as(&stored.manifest.artifacts).await? {
            return Err(RegistryError::IsOffered { to, serving });
        }
        let stage = self.shared.storage.rollout(to).await?.map(|view| view.stage);
        let proved = match stage {
            Some(RolloutStage::Stopped) => return Err(RegistryError::WasStopped(to)),
            Some(RolloutStage::Promoted) => Proof::Known("its contents were promoted before"),
            _ => Proof::None,
        };
        let draft = Draft { note, rollback_of: Some(to), published_at_ms: now_ms };
        self.publish_contents(stored.manifest.artifacts, draft, "bundle.rollback", who, proved).await
    }

    /// The revision with these contents that is offered already: the one on trial, else what all are offered.
    async fn offered_as(&self, artifacts: &[ArtifactRef]) -> Result<Option<Revision>, RegistryError> {
        let Offers { promoted, trial, .. } = self.shared.offers.borrow().clone();
        let Some(offer) = trial.or(promoted) else { return Ok(None) };
        let stored = self.shared.storage.bundle(offer.revision).await?;
        Ok(stored.filter(|stored| stored.manifest.artifacts == artifacts).map(|stored| stored.revision))
    }

    /// Publishes what is offered again, if less than half of its manifest's life is left. `None`: not due, or on trial, which
    /// ends soon.
    pub async fn renew_if_due(&self, now_ms: u64) -> Result<Option<BundleView>, RegistryError> {
        let Offers { promoted, trial, canaries, .. } = self.shared.offers.borrow().clone();
        let (offer, proved) = match (trial, promoted) {
            (Some(_), _) if !canaries.is_empty() => return Ok(None),
            // Nobody was there to try it on.
            (Some(trial), _) => (trial, Proof::None),
            (None, Some(promoted)) => (promoted, Proof::Known("a renewal of what was promoted")),
            (None, None) => return Ok(None),
        };
        if offer.expires_at_ms.saturating_sub(now_ms) >= self.shared.config.lifetime_ms() / 2 {
            return Ok(None);
        }
        let stored = self.shared.storage.bundle(offer.revision).await?;
        let stored = stored.ok_or(RegistryError::NoRevision(offer.revision))?;
        let note = format!("renewal of revision {}, which expires", offer.revision);
        let draft = Draft { note, rollback_of: stored.rollback_of, published_at_ms: now_ms };
        self.publish_contents(stored.manifest.artifacts, draft, "bundle.renew", "cloud", proved)
            .await
            .map(Some)
    }

    async fn publish_contents(
        &self,
        artifacts: Vec<ArtifactRef>,
        draft: Draft,
        what: &str,
        who: &str,
        proved: Proof,
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
        let stored = self.begin_trial(&draft, &change, &artifacts, sign, proved).await?;
        tracing::info!(revision = %stored.revision, %models, what, "published a bundle");
        Ok(stored.view())
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

fn check_note(note: &str) -> Result<(), RegistryError> {
    if note.len() > NOTE_BYTES_MAX { Err(RegistryError::NoteTooLong(note.len())) } else { Ok(()) }
}
