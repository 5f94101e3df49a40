//! Bundles on a node: pulled by digest, verified, activated through Raft on all nodes at once; the last known good serves on.
//!
//! The leader hears of a newer revision, pulls and opens it (a dry run of everything that serving will need), and only
//! then proposes it. Every node then opens what Raft activated, from its own folder, the cloud or a peer. What cannot be
//! opened is refused with a reason that the cloud is told; the bundle that was serving goes on serving.

mod folder;
mod sources;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use edge_serving::Prepared;
use edge_store::Store;
use edge_uplink::CloudLink;
use inference::{Bundle, Engine, PublicKey};
use proto::Revision;
use proto::bundle::Manifest;
use proto::command::{Command, Effect};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use folder::Folder;
pub use sources::Sources;

use crate::clock;
use crate::metrics::Metrics;

/// How long a proposal to activate may take.
const ACTIVATE_WITHIN: Duration = Duration::from_secs(10);
/// First and longest pause after a bundle could not be pulled or opened.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is served from at this moment. Cheap to clone; loading costs no lock.
#[derive(Clone, Default)]
pub struct ActiveBundle {
    present: Arc<ArcSwapOption<Prepared>>,
}

impl ActiveBundle {
    /// What is served from; none before the first good bundle.
    pub fn load(&self) -> Option<Arc<Prepared>> {
        self.present.load_full()
    }

    /// Its revision; 0: none.
    pub fn revision(&self) -> Revision {
        self.present.load().as_ref().map_or(Revision(0), |prepared| prepared.bundle().manifest.revision)
    }

    fn store(&self, prepared: Prepared) {
        self.present.store(Some(Arc::new(prepared)));
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
    /// Why the newest bundle was refused; none while all is well.
    pub refusal: watch::Sender<Option<String>>,
    /// Counters.
    pub metrics: Metrics,
}

impl Bundles {
    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.start_from_disk().await;
        let (mut applied, mut newest) = (self.store.changes(), self.cloud.newest());
        let mut pause = PAUSE;
        loop {
            // What changes from here on, the step itself may have seen or not: then it is looked at again.
            let known = applied.borrow_and_update().revision;
            newest.mark_unchanged();
            self.leader.mark_unchanged();
            let step = self.step().await;
            if let Err(error) = &step {
                self.refuse(error);
            }
            let again = async {
                match step {
                    Ok(()) => std::future::pending().await,
                    Err(_) => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = again => { pause = (pause * 2).min(PAUSE_MAX); continue }
                changed = applied.wait_for(|a| a.revision != known) => if changed.is_err() { return },
                changed = newest.changed() => if changed.is_err() { return },
                changed = self.leader.changed() => if changed.is_err() { return },
            }
            pause = PAUSE;
        }
    }

    /// Serves what Raft made active; then, as the leader, proposes what is newer in the cloud.
    async fn step(&mut self) -> anyhow::Result<()> {
        self.serve_active().await.context("the active bundle cannot be served")?;
        let newest = *self.cloud.newest().borrow();
        if *self.leader.borrow() && newest > self.store.changes().borrow().revision {
            self.propose().await.with_context(|| format!("bundle {newest} is refused"))?;
        }
        self.refusal.send_if_modified(|refusal| refusal.take().is_some());
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

    async fn propose(&self) -> anyhow::Result<()> {
        let signed = self.cloud.manifest().await?.context("the cloud announced a bundle, but has none")?;
        let manifest = inference::verify(&signed, &self.trusted)?;
        anyhow::ensure!(
            manifest.revision > self.store.changes().borrow().revision,
            "its revision {} is not newer than the active one",
            manifest.revision
        );
        anyhow::ensure!(
            manifest.expires_at_ms > clock::now_ms(),
            "it expired at {} ms",
            manifest.expires_at_ms
        );
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
        let (engine, folder) = (self.engine.clone(), self.sources.folder.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let read = |kind| folder.read(manifest.artifact(kind)?).ok();
            let bundle = Bundle::open(manifest.clone(), read, &engine)?;
            Ok::<_, anyhow::Error>(Prepared::new(bundle))
        });
        opened.await.context("opening the bundle panicked")?
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

    fn refuse(&self, error: &anyhow::Error) {
        let reason = format!("{error:#}");
        let news = self.refusal.send_if_modified(|refusal| {
            let news = refusal.as_deref() != Some(&reason);
            *refusal = Some(reason.clone());
            news
        });
        if news {
            self.metrics.bundles_refused.inc();
            tracing::warn!(reason, serving = %self.active.revision(), "a bundle is refused; the present one serves on");
        }
    }
}
