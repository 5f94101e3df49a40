//! Acts on what [`crate::rollout`] decides: stores it with its line in the audit log, and offers what follows. One change at a
//! time; what is offered is always what is stored.

use std::collections::{BTreeMap, BTreeSet};

use cloud_storage::{Change, Draft, StorageError, StoredBundle};
use proto::bundle::SignedManifest;
use proto::control::{BundleView, NodeReport, RolloutStage, RolloutView};
use proto::{NodeId, PopId, Revision};

use crate::error::RegistryError;
use crate::offers::Offer;
use crate::rollout::{Config, Rollout, SILENT_MS};
use crate::{Proof, Registry, check_note};

/// Who decides where nobody asked.
const WHO: &str = "cloud";

/// The rollouts of this cloud.
#[derive(Debug)]
pub(crate) struct Trials {
    rollout: Rollout,
    /// PoPs that have connected, and when: they may not have reported yet.
    arrived: BTreeMap<PopId, u64>,
}

impl Trials {
    pub(crate) fn load(config: Config, known: Vec<RolloutView>, now_ms: u64) -> Self {
        Self { rollout: Rollout::load(config, known, now_ms), arrived: BTreeMap::new() }
    }
}

impl Registry {
    /// A node of this PoP has connected. If nobody was there to try the newest bundle on, its PoP is the one.
    pub async fn arrived(&self, pop: &PopId, now_ms: u64) -> Result<(), RegistryError> {
        let mut trials = self.shared.trials.lock().await;
        trials.arrived.retain(|_, at| now_ms.saturating_sub(*at) <= SILENT_MS);
        trials.arrived.insert(pop.clone(), now_ms);
        let mut next = trials.rollout.clone();
        let Some(view) = next.arrived(pop, now_ms) else { return Ok(()) };
        self.keep(&mut trials, next, view, "rollout.begin", WHO, now_ms).await
    }

    /// A node has reported: it may be a canary.
    pub async fn heard(&self, pop: &PopId, node: NodeId, report: &NodeReport, now_ms: u64) {
        self.shared.trials.lock().await.rollout.heard(pop, node, report, now_ms);
    }

    /// To be called every second or so: ends the trial if there is a verdict, and publishes what was promoted last anew where
    /// canaries were left with a bundle that was stopped. What fails is done by the next call.
    pub async fn settle(&self, now_ms: u64) -> Result<(), RegistryError> {
        let recover = {
            let mut trials = self.shared.trials.lock().await;
            let mut next = trials.rollout.clone();
            if let Some(view) = next.judge(now_ms) {
                let what = verb(view.stage);
                self.keep(&mut trials, next, view, what, WHO, now_ms).await?;
            }
            self.offer(&trials).await?;
            trials.rollout.promoted().filter(|_| trials.rollout.needs_recovery())
        };
        match recover {
            Some(promoted) => match self.recover(promoted, now_ms).await {
                Ok(_) | Err(RegistryError::Overtaken) => Ok(()),
                Err(error) => Err(error),
            },
            None => Ok(()),
        }
    }

    async fn recover(&self, promoted: Revision, now_ms: u64) -> Result<BundleView, RegistryError> {
        let stored = self.shared.storage.bundle(promoted).await?;
        let stored = stored.ok_or(RegistryError::NoRevision(promoted))?;
        let note = format!("back to revision {promoted}: a newer one was stopped at its canaries");
        let draft = Draft { note, rollback_of: Some(promoted), published_at_ms: now_ms };
        self.publish_contents(stored.manifest.artifacts, draft, "rollout.recover", WHO, Proof::Recovery).await
    }

    /// Offers the bundle on trial to every PoP, before its verdict.
    pub async fn promote(
        &self,
        revision: Revision,
        reason: &str,
        who: &str,
        now_ms: u64,
    ) -> Result<RolloutView, RegistryError> {
        self.decide(revision, RolloutStage::Promoted, reason, who, now_ms).await
    }

    /// Stops the bundle on trial; its canaries get what was promoted last.
    pub async fn stop(
        &self,
        revision: Revision,
        reason: &str,
        who: &str,
        now_ms: u64,
    ) -> Result<RolloutView, RegistryError> {
        self.decide(revision, RolloutStage::Stopped, reason, who, now_ms).await
    }

    async fn decide(
        &self,
        revision: Revision,
        stage: RolloutStage,
        reason: &str,
        who: &str,
        now_ms: u64,
    ) -> Result<RolloutView, RegistryError> {
        check_note(reason)?;
        let mut trials = self.shared.trials.lock().await;
        let mut next = trials.rollout.clone();
        let reason = format!("by {who}: {reason}");
        let view = next.decide(revision, stage, &reason, now_ms);
        let view = view.map_err(|_| RegistryError::NotOnTrial(revision))?;
        self.keep(&mut trials, next, view.clone(), verb(stage), who, now_ms).await?;
        Ok(view)
    }

    /// Publishes: a bundle and its rollout come into the storage together.
    pub(crate) async fn begin_trial(
        &self,
        draft: &Draft,
        change: &Change,
        sign: impl FnOnce(Revision) -> SignedManifest + Send,
        proof: Proof,
    ) -> Result<StoredBundle, RegistryError> {
        let now_ms = draft.published_at_ms;
        let storage = &self.shared.storage;
        let mut trials = self.shared.trials.lock().await;
        if proof == Proof::Recovery && !trials.rollout.needs_recovery() {
            return Err(RegistryError::Overtaken);
        }
        let pops = storage.pops().await?;
        let alive = trials.arrived.iter().filter(|(_, at)| now_ms.saturating_sub(**at) <= SILENT_MS);
        let arrived: BTreeSet<PopId> = alive.map(|(pop, _)| pop.clone()).collect();
        let plan = trials.rollout.plan(&pops, &arrived, now_ms);
        let (mut next, mut changed) = (trials.rollout.clone(), Vec::new());
        let roll = |revision| {
            changed = match proof {
                Proof::None => next.begin(revision, plan, now_ms),
                Proof::Known(reason) => next.begin_proved(revision, reason, now_ms),
                Proof::Recovery => next.begin_proved(revision, "back to what was promoted last", now_ms),
            };
            changed.clone()
        };
        let stored = storage.publish_bundle(draft, change, sign, roll).await?;
        trials.rollout = next;
        for view in &changed {
            self.note(view);
        }
        self.shared.offers.send_modify(|offers| offers.newest = offers.newest.max(stored.revision));
        // It is published whether or not it can be read back at this moment: `settle` offers it then.
        if let Err(error) = self.offer(&trials).await {
            tracing::error!(error = &error as &dyn std::error::Error, "what was published is offered later");
        }
        Ok(stored)
    }

    /// Stores one change, then makes it so.
    async fn keep(
        &self,
        trials: &mut Trials,
        next: Rollout,
        view: RolloutView,
        what: &str,
        who: &str,
        now_ms: u64,
    ) -> Result<(), RegistryError> {
        let detail =
            format!("revision {}: {}, canaries {:?}", view.revision, view.reason, names(&view.canaries));
        let change = Change { at_ms: now_ms, who: who.to_owned(), what: what.to_owned(), detail };
        self.shared.storage.set_rollout(&view, &change).await?;
        trials.rollout = next;
        self.note(&view);
        Ok(self.offer(trials).await?)
    }

    fn note(&self, view: &RolloutView) {
        let RolloutView { revision, stage, canaries, reason, .. } = view;
        let canaries = names(canaries);
        match stage {
            RolloutStage::Stopped => {
                tracing::error!(%revision, ?canaries, reason, "a bundle was stopped at its canaries");
            }
            _ => tracing::info!(%revision, stage = stage.as_str(), ?canaries, reason, "rollout"),
        }
        if *stage != RolloutStage::Canary {
            self.shared.offers.send_modify(|offers| offers.count(*stage));
        }
    }

    /// Offers what is decided, if that is not what is offered already.
    pub(crate) async fn offer(&self, trials: &Trials) -> Result<(), StorageError> {
        let offers = self.shared.offers.borrow().clone();
        let trial = trials.rollout.trial();
        let promoted = self.read(trials.rollout.promoted(), offers.promoted).await?;
        let tried = self.read(trial.map(|view| view.revision), offers.trial).await?;
        let canaries = trial.map(|view| view.canaries.clone()).unwrap_or_default();
        self.shared.offers.send_if_modified(|offers| {
            let same = offers.promoted == promoted && offers.trial == tried && offers.canaries == canaries;
            (offers.promoted, offers.trial, offers.canaries) = (promoted, tried, canaries);
            !same
        });
        Ok(())
    }

    async fn read(
        &self,
        revision: Option<Revision>,
        known: Option<Offer>,
    ) -> Result<Option<Offer>, StorageError> {
        match (revision, known) {
            (Some(revision), Some(known)) if known.revision == revision => Ok(Some(known)),
            (Some(revision), _) => {
                Ok(self.shared.storage.bundle(revision).await?.map(|stored| Offer::of(&stored)))
            }
            (None, _) => Ok(None),
        }
    }
}

fn names(pops: &[PopId]) -> Vec<&str> {
    pops.iter().map(PopId::as_str).collect()
}

fn verb(stage: RolloutStage) -> &'static str {
    match stage {
        RolloutStage::Promoted => "rollout.promote",
        RolloutStage::Stopped => "rollout.stop",
        RolloutStage::Canary | RolloutStage::Superseded => "rollout.change",
    }
}
