//! The thread that owns sled's writes. It takes one job at a time, so that a snapshot or a digest, which read all of sled,
//! see it between two batches: at one index.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use proto::Digest;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::base::TreeBase;
use super::hot::{Hot, Layer};
use super::tree::Batch;
use super::{Current, meta_of};
use crate::error::StoreError;
use crate::machine::{self, Heads, keys};
use crate::metrics::Metrics;
use crate::planted;
use crate::snapshot::{Saved, SnapshotFile, Snapshots};

/// Jobs that wait. The worker waits where it is full.
const JOBS_LEN_MAX: usize = 4;
/// Events removed from sled by one batch; the rest waits for the next.
const TRIM_LEN_MAX: u64 = 4_096;

/// What the flusher does.
pub enum Flush {
    /// Bring a layer to sled.
    Layer(Arc<Layer>),
    /// Write all of sled to a snapshot.
    Snapshot(oneshot::Sender<Result<Saved, StoreError>>),
    /// Read all of sled.
    Digest(oneshot::Sender<Result<(u64, Digest), StoreError>>),
    /// Put a snapshot in the place of all.
    Install(SnapshotFile, mpsc::SyncSender<Result<(), StoreError>>),
    /// Bring sled's buffers to the page cache, and end.
    Stop(oneshot::Sender<Result<(), StoreError>>),
}

/// The way to the flusher.
#[derive(Clone)]
pub struct Flusher {
    jobs: Jobs,
    failed: Arc<OnceLock<String>>,
}

#[derive(Clone)]
enum Jobs {
    /// To its thread.
    Thread(mpsc::SyncSender<Flush>),
    /// Done where they are handed over: in a simulation nothing has a thread of its own.
    #[cfg(feature = "sim")]
    Inline(Arc<std::sync::Mutex<Option<Work>>>),
}

impl Flusher {
    /// Hands over a job; waits while too many do.
    pub fn send(&self, job: Flush) -> Result<(), StoreError> {
        self.check()?;
        let ended = || StoreError::Closed("the flusher has ended".into());
        match &self.jobs {
            Jobs::Thread(jobs) => jobs.send(job).map_err(|_| ended()),
            #[cfg(feature = "sim")]
            Jobs::Inline(work) => {
                let mut work = work.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if work.is_none() {
                    return Err(ended());
                }
                let _ = take(&mut work, job, &self.failed);
                Ok(())
            }
        }
    }

    /// Why it cannot go on, if it cannot.
    pub fn check(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            Some(reason) => Err(StoreError::Closed(reason.clone())),
            None => Ok(()),
        }
    }
}

/// Starts the thread.
pub fn start(
    base: TreeBase,
    hot: Arc<Hot>,
    snapshots: Arc<Snapshots>,
    current: Arc<Current>,
    metrics: Metrics,
) -> Result<Flusher, StoreError> {
    let failed = Arc::new(OnceLock::new());
    let events = base.event_range()?.into_iter().collect();
    let heads = base.heads.clone();
    let work = Work { base, heads, events, hot, snapshots, current, metrics };
    #[cfg(feature = "sim")]
    if crate::sim::Host::current().is_some() {
        let jobs = Jobs::Inline(Arc::new(std::sync::Mutex::new(Some(work))));
        return Ok(Flusher { jobs, failed });
    }
    let mut work = Some(work);
    let (jobs, inbox) = mpsc::sync_channel(JOBS_LEN_MAX);
    let fails = Arc::clone(&failed);
    let run = move || {
        for job in inbox {
            if take(&mut work, job, &fails).is_break() {
                return;
            }
        }
    };
    let started = thread::Builder::new().name("store-flusher".into()).spawn(run);
    started.map_err(|error| StoreError::io("start", "store-flusher", error))?;
    Ok(Flusher { jobs: Jobs::Thread(jobs), failed })
}

struct Work {
    base: TreeBase,
    /// Singletons as sled holds them.
    heads: Heads,
    /// Offsets of events in sled, first and one past the last, oldest first.
    events: VecDeque<(u64, u64)>,
    hot: Arc<Hot>,
    snapshots: Arc<Snapshots>,
    current: Arc<Current>,
    metrics: Metrics,
}

/// Does a job; says whether there may be another.
fn take(work: &mut Option<Work>, job: Flush, failed: &OnceLock<String>) -> ControlFlow<()> {
    if let Flush::Stop(done) = job {
        // Nobody hears that the files are free before they are.
        drop(done.send(work.take().map_or(Ok(()), Work::stop)));
        return ControlFlow::Break(());
    }
    let Some(present) = work else { return ControlFlow::Break(()) };
    if let Err(error) = present.run(job) {
        tracing::error!(%error, "the state cannot be written");
        // The first reason is the one that counts.
        let _ = failed.set(error.to_string());
        *work = None;
        return ControlFlow::Break(());
    }
    ControlFlow::Continue(())
}

impl Work {
    fn run(&mut self, job: Flush) -> Result<(), StoreError> {
        match job {
            Flush::Layer(layer) => {
                self.write(&layer)?;
                self.hot.retire();
            }
            // Whoever asked may have gone away: an answer nobody waits for is no error.
            Flush::Snapshot(done) => drop(done.send(self.snapshot())),
            Flush::Digest(done) => drop(done.send(self.digest())),
            Flush::Install(file, done) => drop(done.send(self.install(&file))),
            Flush::Stop(_) => {}
        }
        Ok(())
    }

    /// Brings sled's buffers to the page cache, and lets go of its files.
    fn stop(self) -> Result<(), StoreError> {
        self.hot.close();
        self.base.flush()
    }

    /// One atomic batch: the effects of whole apply calls, their position, their membership.
    fn write(&mut self, layer: &Layer) -> Result<(), StoreError> {
        let timer = self.metrics.flush_seconds.start_timer();
        let acknowledged = layer.heads.offsets.acknowledged;
        let mut batch: Batch = layer.writes.records(acknowledged).collect();
        let mut heads = layer.heads.records();
        if planted::on("applied_without_last_applied") {
            heads.retain(|(key, _)| key != keys::APPLIED);
        }
        if planted::on("revision_not_persisted") {
            heads.retain(|(key, _)| key != keys::BUNDLES);
        }
        batch.extend(heads.into_iter().map(|(key, value)| (key, Some(value))));
        let waiting = acknowledged.saturating_add(1);
        if let Some((first, _)) = layer.writes.events.range(waiting..).next() {
            self.events.push_back((*first, layer.heads.offsets.last + 1));
        }
        self.trim(acknowledged, &mut batch);
        self.base.write(batch)?;
        self.heads = layer.heads.clone();
        timer.observe_duration();
        Ok(())
    }

    /// Removes events that the cloud holds, some at a time.
    fn trim(&mut self, acknowledged: u64, batch: &mut Batch) {
        let mut left = TRIM_LEN_MAX;
        while let Some((first, end)) = self.events.front_mut() {
            let upto = (*end).min(acknowledged.saturating_add(1)).min(*first + left);
            for offset in *first..upto {
                batch.push((keys::event(offset), None));
            }
            left -= upto.saturating_sub(*first);
            *first = upto.max(*first);
            if *first < *end {
                break;
            }
            self.events.pop_front();
        }
    }

    fn snapshot(&self) -> Result<Saved, StoreError> {
        let timer = self.metrics.snapshot_seconds.start_timer();
        let meta = meta_of(&self.heads)?;
        let mut writer = self.snapshots.create(&meta)?;
        self.base.for_each(self.heads.offsets.acknowledged, |key, value| writer.record(key, value))?;
        let saved = writer.finish(&self.snapshots, meta)?;
        timer.observe_duration();
        self.current.set(saved.clone());
        self.metrics.snapshots.inc();
        Ok(saved)
    }

    fn digest(&self) -> Result<(u64, Digest), StoreError> {
        let mut hash = Sha256::new();
        self.base.for_each(self.heads.offsets.acknowledged, |key, value| {
            machine::digest_record(&mut hash, key, value);
            Ok(())
        })?;
        Ok((self.heads.applied.map_or(0, |at| at.index), Digest(hash.finalize().into())))
    }

    fn install(&mut self, file: &SnapshotFile) -> Result<(), StoreError> {
        self.base.install(file)?;
        self.heads = self.base.heads.clone();
        self.events = self.base.event_range()?.into_iter().collect();
        self.hot.replace(self.base.tree.clone(), self.heads.clone());
        Ok(())
    }
}
