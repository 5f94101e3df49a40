//! The state machine's driver: Raft applies through it, everybody else reads through it.
//!
//! ```text
//! Raft ─▶ worker ── applies, publishes ──▶ hot layers (memory) ◀── readers on any thread
//!            │ freezes a layer, a few times a second │ below them
//!            └───▶ flusher thread ── one atomic batch ─▶ sled ── in the pause between two batches ─▶ snapshot file
//! ```
//!
//! The worker is whoever holds it. A small apply is done where Raft asks for it: another thread would be two more wake-ups
//! in every acknowledged write. What may take longer, or wait for the flusher, is done on a thread for such work.
//!
//! A layer holds the effects of whole apply calls with their position and membership, and reaches sled as one atomic
//! batch: sled holds a prefix of the log's effects at any time, older than memory by a second at most. Nothing durable
//! rests on it: what sled lacks is replayed from the log, which is never purged past the last durable snapshot.
//! A snapshot reads sled while no batch is written, so it is consistent, and applying goes on above it.

mod base;
mod cache;
mod flusher;
mod hot;
mod sum;
mod tree;
mod waiters;
mod worker;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use proto::{Digest, codec};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, oneshot, watch};

use crate::durable::Folder;
use crate::error::StoreError;
use crate::machine::{Heads, MachineError};
use crate::metrics::Metrics;
use crate::snapshot::{Saved, SnapshotFile, Snapshots};
use crate::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::{Applied, log, runtime};

pub use hot::Hot;
#[cfg(feature = "sim")]
pub use tree::Batch;
pub use waiters::Waiters;
use worker::Worker;

/// Most entries applied at once: a replay of a long log must not hold all of it.
const APPLY_LEN_MAX: usize = 256;
/// Bytes of entries that are applied where Raft asks for it. Some tens of events: each may read its visitor from the disk.
const INLINE_BYTES_MAX: usize = 4 * 1024;

/// Everything that a state needs to be opened.
#[derive(Debug)]
pub struct StateConfig {
    /// The node's folder.
    pub folder: Folder,
    /// Memory for sled's pages and decoded profiles.
    pub cache_bytes: u64,
    /// Highest index that log or snapshot prove: a state beyond it is not trusted.
    pub proven: u64,
    /// The present boot of this machine.
    pub boot: String,
    /// Where the index of the last durable snapshot is shown: the log goes up to there and no further.
    pub durable: Arc<AtomicU64>,
}

/// The state machine, as Raft and the store's handle see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Machine {
    /// None once it is stopped.
    worker: Arc<AsyncMutex<Option<Worker>>>,
    hot: Arc<Hot>,
    waiters: Arc<Waiters>,
    changes: watch::Receiver<Applied>,
    snapshots: Arc<Snapshots>,
    current: Arc<Current>,
}

/// The last durable snapshot.
#[derive(Debug)]
struct Current {
    saved: Mutex<Option<Saved>>,
    index: Arc<AtomicU64>,
}

impl Current {
    fn new(saved: Option<Saved>, index: Arc<AtomicU64>) -> Self {
        index.store(saved.as_ref().map_or(0, Saved::index), Ordering::Release);
        Self { saved: Mutex::new(saved), index }
    }

    fn get(&self) -> Option<Saved> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a snapshot that is durable; an older one does not take a newer one's place.
    fn set(&self, saved: Saved) {
        let mut current = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|before| before.index() <= saved.index()) {
            self.index.store(saved.index(), Ordering::Release);
            *current = Some(saved);
        }
    }
}

impl Machine {
    /// Opens the state, and starts the flusher. A state that cannot be trusted is thrown away: Raft brings it back from
    /// snapshot and log.
    pub fn open(config: StateConfig, metrics: Metrics) -> Result<Self, StoreError> {
        let (snapshots, current) = Snapshots::open(&config.folder.snapshots)?;
        let snapshots = Arc::new(snapshots);
        let proven = config.proven.max(current.as_ref().map_or(0, Saved::index));
        let base = base::open(&config, proven)?;
        let hot = Arc::new(Hot::new(base.tree.clone(), base.heads.clone(), config.cache_bytes / 2));
        let waiters = Arc::new(Waiters::default());
        let (changed, changes) = watch::channel(applied_of(&base.heads));
        let current = Arc::new(Current::new(current, Arc::clone(&config.durable)));
        let flusher = flusher::start(
            base,
            Arc::clone(&hot),
            Arc::clone(&snapshots),
            Arc::clone(&current),
            metrics.clone(),
        )?;
        let worker = worker::Parts {
            hot: Arc::clone(&hot),
            waiters: Arc::clone(&waiters),
            changed,
            flusher,
            snapshots: Arc::clone(&snapshots),
            current: Arc::clone(&current),
            metrics,
        };
        let worker = Arc::new(AsyncMutex::new(Some(Worker::new(worker)?)));
        Ok(Self { worker, hot, waiters, changes, snapshots, current })
    }

    /// Memory and sled, for reading.
    pub fn hot(&self) -> &Arc<Hot> {
        &self.hot
    }

    /// The members, as of the last membership entry applied.
    pub fn members(&self) -> Result<StoredMembership, StoreError> {
        membership_of(&self.hot.heads())
    }

    /// Who waits for an index.
    pub fn waiters(&self) -> &Arc<Waiters> {
        &self.waiters
    }

    /// What is applied.
    pub fn changes(&self) -> &watch::Receiver<Applied> {
        &self.changes
    }

    /// The folder of snapshots.
    pub fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// The last durable snapshot.
    pub fn current_snapshot(&self) -> Option<Saved> {
        self.current.get()
    }

    /// Moves what is in memory to sled, in the background. Does nothing where much waits already.
    pub async fn flush(&self) -> Result<(), StoreError> {
        match Arc::clone(&self.worker).try_lock_owned() {
            Ok(held) => aside(held, Worker::flush).await,
            // It has better to do, and will when it has done it.
            Err(_) => Ok(()),
        }
    }

    /// The whole applied keyspace in one number, and the index it stands for.
    pub async fn digest(&self) -> Result<(u64, Digest), StoreError> {
        let (done, answer) = oneshot::channel();
        self.work(|worker| worker.digest(done)).await?;
        answer.await.map_err(|_| flusher_ended())?
    }

    /// Moves all to sled and ends the flusher.
    pub async fn stop(&self) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        let asked = self.work(|worker| worker.stop(done)).await;
        // Whatever came of it: sled's files are to be free for the next who opens them.
        *self.worker.lock().await = None;
        self.hot.close();
        asked?;
        answer.await.map_err(|_| flusher_ended())?
    }

    /// Does what may take its time.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        aside(Arc::clone(&self.worker).lock_owned().await, work).await
    }

    async fn apply_group(&self, entries: Vec<EntryResponder<Types>>) -> Result<(), StoreError> {
        let mut held = Arc::clone(&self.worker).lock_owned().await;
        let bytes: usize = entries.iter().map(|(entry, _)| log::tail::size(entry)).sum();
        match &mut *held {
            Some(worker) if bytes <= INLINE_BYTES_MAX && !worker.waits_soon() => worker.apply(entries),
            _ => aside(held, |worker| worker.apply(entries)).await,
        }
    }
}

/// Works with what is held, on a thread for work that may take its time.
async fn aside<T: Send + 'static>(
    mut held: OwnedMutexGuard<Option<Worker>>,
    work: impl FnOnce(&mut Worker) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let closed = || StoreError::Closed("the state is closed".into());
    runtime::blocking(move || work(held.as_mut().ok_or_else(closed)?)).await?
}

fn flusher_ended() -> StoreError {
    StoreError::Closed("the flusher has ended".into())
}

/// Raft's id of the last entry applied.
fn applied_id(heads: &Heads) -> Option<LogId> {
    heads.applied.map(|at| LogId::new_term_index(at.term, at.index))
}

fn membership_of(heads: &Heads) -> Result<StoredMembership, StoreError> {
    match heads.members.membership.as_slice() {
        [] => Ok(StoredMembership::default()),
        bytes => Ok(codec::decode_any(bytes)?),
    }
}

fn meta_of(heads: &Heads) -> Result<SnapshotMeta, StoreError> {
    Ok(SnapshotMeta { last_log_id: applied_id(heads), last_membership: membership_of(heads)? })
}

fn applied_of(heads: &Heads) -> Applied {
    Applied {
        index: heads.applied.map_or(0, |at| at.index),
        last_offset: proto::Offset(heads.offsets.last),
        acknowledged: proto::Offset(heads.offsets.acknowledged),
        revision: heads.bundles.revision,
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let heads = self.hot.heads();
        Ok((applied_id(&heads), membership_of(&heads).map_err(io::Error::other)?))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut group = Vec::new();
        let mut more = true;
        while more {
            match entries.next().await {
                Some(entry) => group.push(entry?),
                None => more = false,
            }
            if group.len() >= APPLY_LEN_MAX || (!more && !group.is_empty()) {
                let entries = std::mem::take(&mut group);
                self.apply_group(entries).await.map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, file: SnapshotFile) -> Result<(), io::Error> {
        let meta = meta.clone();
        self.work(move |worker| worker.install(&file, &meta)).await.map_err(io::Error::other)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.current_snapshot().map(|saved| Snapshot { meta: saved.meta, snapshot: saved.file }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (done, answer) = oneshot::channel();
        self.work(|worker| worker.snapshot(done)).await.map_err(io::Error::other)?;
        // Applying goes on while the snapshot is written.
        let saved = answer.await.unwrap_or_else(|_| Err(flusher_ended())).map_err(io::Error::other)?;
        Ok(Snapshot { meta: saved.meta, snapshot: saved.file })
    }
}

fn sled_failed(operation: &'static str) -> impl FnOnce(sled::Error) -> MachineError {
    move |error| MachineError::Base { operation, reason: error.to_string().into() }
}

#[cfg(test)]
mod tests;
