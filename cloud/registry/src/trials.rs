//! Acts on what [`crate::rollout`] decides: stores it with its line in the audit log, and offers what follows. One change at a
//! time; what is offered is always what is stored.

use std::collections::{BTreeMap, BTreeSet};

use cloud_storage::{Change, Draft, StorageError, StoredBundle};
use proto::bundle::{ArtifactKind, ArtifactRef, SignedManifest};
use proto::control::{BundleView, NodeReport, RolloutStage, RolloutView, Standing};
use proto::{Digest, NodeId, PopId, Revision};

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
    /// The highest number of a bundle that any PoP has: one that is published is numbered above it, or a PoP that has it never takes
    /// it. It is above what is stored here where this cloud was restored from a backup.
    floor: Revision,
}

/// A number that is so far above what was ever published here is not believed: numbers must not be used up.
const FLOOR_ABOVE_MAX: u64 = 1_000_000;

impl Trials {
    pub(crate) fn load(config: Config, known: Vec<RolloutView>, now_ms: u64) -> Self {
        Self { rollout: Rollout::load(config, known, now_ms), arrived: BTreeMap::new(), floor: Revision(0) }
    }
}

impl Trials {
    /// A PoP has a bundle of this number.
    fn raise(&mut self, seen: Revision, newest: Revision) {
        if seen.0 <= newest.0.max(self.floor.0).saturating_add(FLOOR_ABOVE_MAX) {
            self.floor = self.floor.max(seen);
        } else {
            tracing::warn!(revision = %seen, %newest, "a node names a bundle that cannot be: it is not believed");
        }
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
        let mut trials = self.shared.trials.lock().await;
        trials.raise(report.revision, self.revision());
        trials.rollout.heard(pop, node, report, now_ms);
    }

    /// A node says where it stands; `members`: those of its PoP, where its leader has said so.
    pub async fn stands(&self, pop: &PopId, node: NodeId, standing: &Standing, members: Option<&[NodeId]>) {
        let mut trials = self.shared.trials.lock().await;
        trials.raise(standing.active, self.revision());
        if let Some(members) = members {
            trials.rollout.members(pop, members.iter().copied().collect());
        }
        let Some(trial) = self.shared.offers.borrow().trial.clone() else { return };
        let other = standing.serves != Some(trial.digest);
        let another = standing.active >= trial.revision && standing.active_manifest != Some(trial.digest);
        trials.rollout.stands(pop, node, other, another.then_some(standing.active));
    }

    /// Every rollout that is stored, newest first; the one on trial with what was counted until now.
    pub async fn rollouts(&self, limit: u32) -> Result<Vec<RolloutView>, StorageError> {
        let mut rollouts = self.shared.storage.rollouts(limit).await?;
        let trials = self.shared.trials.lock().await;
        if let Some(now) = trials.rollout.trial_until_now()
            && let Some(stored) = rollouts.iter_mut().find(|stored| stored.revision == now.revision)
        {
            *stored = now;
        }
        Ok(rollouts)
    }

    /// Whether a bundle was published here: its number alone does not say so after a restore.
    pub async fn knows(&self, revision: Revision, manifest: Option<Digest>) -> Result<bool, StorageError> {
        let is_offered = {
            let offers = self.shared.offers.borrow();
            let mut offered = offers.promoted.iter().chain(&offers.trial);
            offered.any(|offer| {
                offer.revision == revision && manifest.is_none_or(|digest| digest == offer.digest)
            })
        };
        if is_offered {
            return Ok(true);
        }
        let Some(stored) = self.shared.storage.bundle(revision).await? else { return Ok(false) };
        Ok(manifest.is_none_or(|manifest| manifest == Digest::of(&stored.signed.manifest)))
    }

    /// Publishes what is offered anew, numbered above whatever any PoP has. None: nothing is offered.
    pub async fn renumber(
        &self,
        why: &str,
        who: &str,
        now_ms: u64,
    ) -> Result<Option<BundleView>, RegistryError> {
        let (trial, promoted) = {
            let trials = self.shared.trials.lock().await;
            (trials.rollout.trial().map(|view| view.revision), trials.rollout.promoted())
        };
        let proof =
            if trial.is_some() { Proof::None } else { Proof::Known("its contents were promoted before") };
        let Some(revision) = trial.or(promoted) else { return Ok(None) };
        let stored = self.shared.storage.bundle(revision).await?;
        let stored = stored.ok_or(RegistryError::NoRevision(revision))?;
        let note = format!("revision {revision} numbered anew: {why}");
        let draft = Draft { note, rollback_of: Some(revision), published_at_ms: now_ms };
        let published =
            self.publish_contents(stored.manifest.artifacts, draft, "bundle.renumber", who, proof).await?;
        Ok(Some(published))
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
            if let Some(taken) = trials.rollout.taken() {
                drop(trials);
                let why = format!("a canary has another bundle under number {taken}");
                return self.renumber(&why, WHO, now_ms).await.map(drop);
            }
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
        artifacts: &[ArtifactRef],
        sign: impl FnOnce(Revision) -> SignedManifest + Send,
        proof: Proof,
    ) -> Result<StoredBundle, RegistryError> {
        let now_ms = draft.published_at_ms;
        let storage = &self.shared.storage;
        let mut trials = self.shared.trials.lock().await;
        if proof == Proof::Recovery && !trials.rollout.needs_recovery() {
            return Err(RegistryError::Overtaken);
        }
        if matches!(proof, Proof::OnTopOf(newest) if newest != self.revision()) {
            return Err(RegistryError::Overtaken);
        }
        let pops = storage.pops().await?;
        let alive = trials.arrived.iter().filter(|(_, at)| now_ms.saturating_sub(**at) <= SILENT_MS);
        let arrived: BTreeSet<PopId> = alive.map(|(pop, _)| pop.clone()).collect();
        let newest = self.revision();
        pops.iter().flat_map(|pop| &pop.nodes).for_each(|node| trials.raise(node.report.revision, newest));
        let mut plan = trials.rollout.plan(&pops, &arrived, now_ms);
        plan.new_catalog = self.has_new_catalog(&trials, artifacts).await?;
        let floor = trials.floor;
        let (mut next, mut changed) = (trials.rollout.clone(), Vec::new());
        let roll = |revision| {
            changed = match proof {
                Proof::None | Proof::OnTopOf(_) => next.begin(revision, plan, now_ms),
                Proof::Known(reason) => next.begin_proved(revision, reason, now_ms),
                Proof::Recovery => next.begin_proved(revision, "back to what was promoted last", now_ms),
            };
            changed.clone()
        };
        let stored = storage.publish_bundle(draft, change, floor, sign, roll).await?;
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

    /// Whether these artifacts have another catalog than what was promoted last.
    async fn has_new_catalog(
        &self,
        trials: &Trials,
        artifacts: &[ArtifactRef],
    ) -> Result<bool, StorageError> {
        let Some(promoted) = trials.rollout.promoted() else { return Ok(false) };
        let Some(before) = self.shared.storage.bundle(promoted).await? else { return Ok(false) };
        let catalog = |artifacts: &[ArtifactRef]| {
            artifacts
                .iter()
                .find(|artifact| artifact.kind == ArtifactKind::Catalog)
                .map(|artifact| artifact.digest)
        };
        Ok(catalog(&before.manifest.artifacts) != catalog(artifacts))
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
