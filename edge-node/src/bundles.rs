//! Bundles on a node: pulled by digest, verified, activated through Raft on all nodes at once; the last known good serves on.
//!
//! The leader hears of a newer revision, pulls and opens it (a dry run of everything that serving will need), and only
//! then proposes it. Every node then opens what Raft activated, from its own folder, the cloud or a peer. What cannot be
//! opened is refused with a reason that the cloud is told; the bundle that was serving goes on serving. What was found unfit is
//! not tried again; what could not be had is.

mod folder;
mod sources;
mod tally;

use std::time::Duration;

use anyhow::Context as _;
use edge_serving::Prepared;
use edge_store::Store;
use edge_uplink::CloudLink;
use inference::{Bundle, Engine, PublicKey};
use proto::Revision;
use proto::bundle::Manifest;
use proto::command::{Command, Effect};
use proto::limits::ERROR_MESSAGE_BYTES_MAX;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use folder::Folder;
pub use sources::Sources;
pub use tally::{ActiveBundle, Serving, Tally};

use crate::clock;
use crate::metrics::Metrics;

/// How long a proposal to activate may take.
const ACTIVATE_WITHIN: Duration = Duration::from_secs(10);
/// First and longest pause after a bundle could not be pulled or opened.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What was refused of late.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusal {
    /// Why the newest bundle was refused; none while all is well.
    pub reason: Option<String>,
    /// The newest bundle that was found unfit to serve; 0: none.
    pub unfit: Revision,
}

/// Why a bundle was refused: not for want of it, but for what it is.
#[derive(Debug, Clone, Copy)]
struct Unfit {
    revision: Revision,
    /// Trying again would give the same: its files were all there.
    finally: bool,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it is unfit to serve")
    }
}

/// Looks after a node's bundles.
pub struct Bundles {
    /// The models' runtime.
    pub engine: Engine,
    /// Whose bundles are taken.
    pub trusted: Vec<PublicKey>,
    /// Where artifacts come from.
    pub sources: Sources,
    /// The replicated truth.
    pub store: Store,
    /// The cloud.
    pub cloud: CloudLink,
    /// What is served from.
    pub active: ActiveBundle,
    /// True while this node leads and has caught up.
    pub leader: watch::Receiver<bool>,
    /// What was refused.
    pub refusal: watch::Sender<Refusal>,
    /// Counters.
    pub metrics: Metrics,
}

impl Bundles {
    /// Runs until shutdown, which it does not keep waiting: what is half pulled is pulled again.
    pub async fn run(self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.follow()).await;
    }

    async fn follow(mut self) {
        self.start_from_disk().await;
        let (mut applied, mut newest) = (self.store.changes(), self.cloud.newest());
        let (mut pause, mut given_up) = (PAUSE, Revision(0));
        loop {
            // What changes from here on, the step itself may have seen or not: then it is looked at again.
            let known = applied.borrow_and_update().revision;
            newest.mark_unchanged();
            self.leader.mark_unchanged();
            let step = self.step(given_up).await;
            if let Err(error) = &step {
                given_up = given_up.max(self.refuse(error));
            }
            let again = async {
                match step {
                    Ok(()) => std::future::pending().await,
                    Err(_) => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                () = again => { pause = (pause * 2).min(PAUSE_MAX); continue }
                changed = applied.wait_for(|a| a.revision != known) => if changed.is_err() { return },
                changed = newest.changed() => if changed.is_err() { return },
                changed = self.leader.changed() => if changed.is_err() { return },
            }
            pause = PAUSE;
        }
    }

    /// Serves what Raft made active; then, as the leader, proposes what is newer in the cloud.
    /// What was found unfit before, `given_up`, is not proposed again.
    async fn step(&mut self, given_up: Revision) -> anyhow::Result<()> {
        self.serve_active().await.context("the active bundle cannot be served")?;
        let newest = *self.cloud.newest().borrow();
        if *self.leader.borrow() && newest > self.store.changes().borrow().revision {
            if newest == given_up {
                return Ok(());
            }
            self.propose(newest).await.with_context(|| format!("bundle {newest} is refused"))?;
        }
        self.refusal.send_if_modified(|refusal| refusal.reason.take().is_some());
        Ok(())
    }

    async fn serve_active(&self) -> anyhow::Result<()> {
        let Some(signed) = self.store.active_manifest() else { return Ok(()) };
        let manifest = inference::verify(&signed, &self.trusted)?;
        if manifest.revision <= self.active.revision() {
            return Ok(());
        }
        let prepared = self.open(manifest).await?;
        let revision = prepared.bundle().manifest.revision;
        self.sources.folder.remember(&signed, &prepared.bundle().manifest)?;
        self.active.store(prepared);
        self.metrics.revision.set(i64::try_from(revision.0).unwrap_or(i64::MAX));
        tracing::info!(%revision, "bundle is serving");
        Ok(())
    }

    async fn propose(&self, announced: Revision) -> anyhow::Result<()> {
        let signed = self.cloud.manifest().await?.context("the cloud announced a bundle, but has none")?;
        let unfit = Unfit { revision: announced, finally: false };
        let manifest = inference::verify(&signed, &self.trusted).context(unfit)?;
        anyhow::ensure!(
            manifest.revision > self.store.changes().borrow().revision,
            "its revision {} is not newer than the active one",
            manifest.revision
        );
        if manifest.expires_at_ms <= clock::now_ms() {
            return Err(anyhow::anyhow!("it expired at {} ms", manifest.expires_at_ms).context(unfit));
        }
        // Not more is kept than what serves and what may come: not what was refused before.
        let serving = self.active.load();
        let present = serving.as_ref().map(|serving| &serving.prepared.bundle().manifest);
        self.sources.folder.keep_only(present.into_iter().chain([&manifest]))?;
        // A dry run: the PoP never activates what its leader cannot serve.
        let revision = manifest.revision;
        self.open(manifest).await?;
        let command = Command::Activate { manifest: signed };
        match self.store.propose(command, Instant::now() + ACTIVATE_WITHIN).await?.effect {
            Effect::Activated { .. } => tracing::info!(%revision, "bundle is active in this PoP"),
            Effect::Refused(reply) => anyhow::bail!("the store refused it: {reply}"),
            other => anyhow::bail!("activation had the effect {other:?}"),
        }
        Ok(())
    }

    /// Pulls what is missing and opens the bundle, off the async threads.
    async fn open(&self, manifest: Manifest) -> anyhow::Result<Prepared> {
        for artifact in &manifest.artifacts {
            self.sources.fetch(artifact).await?;
        }
        let unfit = Unfit { revision: manifest.revision, finally: true };
        let (engine, folder) = (self.engine.clone(), self.sources.folder.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let read = |kind| folder.read(manifest.artifact(kind)?).ok();
            let bundle = Bundle::open(manifest.clone(), read, &engine)?;
            // Models that no kernel knows are run by the engine: right, but at several times the cost.
            let retrieval_compiled = bundle.retrieval.as_ref().map(|stage| stage.model.is_compiled());
            let ranker_compiled = bundle.ranker.as_ref().map(|stage| stage.is_compiled());
            tracing::info!(revision = %manifest.revision, retrieval_compiled, ranker_compiled, "bundle is open");
            Ok::<_, anyhow::Error>(Prepared::new(bundle))
        });
        opened.await.context("opening the bundle panicked").flatten().context(unfit)
    }

    /// Before the first word from Raft or the cloud: the last known good, if it is still good.
    async fn start_from_disk(&self) {
        let started = async {
            let Some(signed) = self.sources.folder.remembered()? else { return Ok(()) };
            let manifest = inference::verify(&signed, &self.trusted)?;
            let revision = manifest.revision;
            self.active.store(self.open(manifest).await?);
            self.metrics.revision.set(i64::try_from(revision.0).unwrap_or(i64::MAX));
            tracing::info!(%revision, "serving the last known good bundle");
            Ok::<_, anyhow::Error>(())
        };
        if let Err(error) = started.await {
            tracing::warn!(error = format!("{error:#}"), "the last known good bundle cannot be served");
        }
    }

    /// Says why, once. Gives the revision that must not be tried again; 0: this one may be.
    fn refuse(&self, error: &anyhow::Error) -> Revision {
        let mut reason = format!("{error:#}");
        reason.truncate(reason.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX));
        let unfit = error.downcast_ref::<Unfit>().copied();
        let news = self.refusal.send_if_modified(|refusal| {
            let before = refusal.clone();
            refusal.unfit = refusal.unfit.max(unfit.map_or(Revision(0), |unfit| unfit.revision));
            refusal.reason = Some(reason.clone());
            *refusal != before
        });
        if news {
            self.metrics.bundles_refused.inc();
            tracing::warn!(reason, serving = %self.active.revision(), "a bundle is refused; the present one serves on");
        }
        unfit.filter(|unfit| unfit.finally).map_or(Revision(0), |unfit| unfit.revision)
    }
}
