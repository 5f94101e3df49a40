//! Who applies. It owns the state; everybody else sees what it publishes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, mpsc};

use openraft::EntryPayload;
use openraft::storage::{ApplyResponder, EntryResponder};
use proto::{Digest, NodeId, codec};
use tokio::sync::{oneshot, watch};

use super::flusher::{Flush, Flusher};
use super::hot::Hot;
use super::waiters::Waiters;
use super::{Current, applied_of};
use crate::Applied;
use crate::error::StoreError;
use crate::machine::{self, Position, State};
use crate::metrics::Metrics;
use crate::snapshot::{Reader, Saved, SnapshotFile, Snapshots};
use crate::types::{Effects, Entry, LogId, Membership, SnapshotMeta, StoredMembership, Types};

/// A layer goes to sled when it holds so many values. sled lets nobody read while it writes a batch, so it is small.
const LAYER_LEN: usize = 128;
/// Layers on their way to sled; while so many are, the newest one grows instead.
const FROZEN_LEN_MAX: usize = 3;
/// The newest layer never grows beyond this: applying waits for sled then.
const LAYER_LEN_MAX: usize = 100_000;

/// What the worker works with.
pub struct Parts {
    /// Where it publishes.
    pub hot: Arc<Hot>,
    /// Whom it wakes.
    pub waiters: Arc<Waiters>,
    /// What it tells.
    pub changed: watch::Sender<Applied>,
    /// Who writes for it.
    pub flusher: Flusher,
    /// The folder of snapshots.
    pub snapshots: Arc<Snapshots>,
    /// The last durable snapshot.
    pub current: Arc<Current>,
    /// What it counts.
    pub metrics: Metrics,
}

/// Applies.
pub struct Worker {
    parts: Parts,
    state: State<Arc<Hot>>,
    /// Something was applied since the last layer went to sled.
    dirty: bool,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("dirty", &self.dirty).finish_non_exhaustive()
    }
}

type Answers = Vec<(ApplyResponder<Types>, Effects)>;

impl Worker {
    /// Of a state that was opened.
    pub fn new(parts: Parts) -> Result<Self, StoreError> {
        let state = State::load(Arc::clone(&parts.hot))?;
        Ok(Self { parts, state, dirty: false })
    }

    /// Whether applying may come to wait for the flusher: with one layer on its way at most, there is room for its next jobs.
    pub fn waits_soon(&self) -> bool {
        self.parts.hot.frozen_len() > 1
    }

    /// Applies entries, in order, and answers those who wait for them.
    pub fn apply(&mut self, entries: Vec<EntryResponder<Types>>) -> Result<(), StoreError> {
        self.parts.flusher.check()?;
        let timer = self.parts.metrics.apply_seconds.start_timer();
        let mut answers = Answers::new();
        for (entry, responder) in entries {
            let effects = self.apply_entry(entry)?;
            answers.extend(responder.map(|responder| (responder, effects)));
        }
        let len = self.publish();
        timer.observe_duration();
        // After publishing: who hears of his write may read it.
        for (responder, effects) in answers {
            responder.send(effects);
        }
        let full = len >= LAYER_LEN && self.parts.hot.frozen_len() < FROZEN_LEN_MAX;
        if full || len >= LAYER_LEN_MAX { self.freeze() } else { Ok(()) }
    }

    fn apply_entry(&mut self, entry: Entry) -> Result<Effects, StoreError> {
        let id = entry.log_id;
        let mut effects = Effects::default();
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(batch) => {
                for command in batch.commands()? {
                    effects.0.push(machine::apply(&mut self.state, command)?);
                }
            }
            EntryPayload::Membership(membership) => self.change_members(id, membership),
        }
        self.state.applied(Position { term: **id.committed_leader_id(), index: id.index });
        self.dirty = true;
        Ok(effects)
    }

    fn change_members(&mut self, id: LogId, membership: Membership) {
        let nodes: BTreeSet<NodeId> = membership.nodes().map(|(node, _)| NodeId(*node)).collect();
        let stored = StoredMembership::new(Some(id), membership);
        self.state.change_members(codec::encode_any(&stored), nodes);
    }

    fn publish(&mut self) -> usize {
        let writes = self.state.take_writes();
        let heads = self.state.heads().clone();
        let applied = applied_of(&heads);
        self.parts.metrics.outbox_len.set(heads.offsets.len().try_into().unwrap_or(i64::MAX));
        self.parts.metrics.applied_index.set(applied.index.try_into().unwrap_or(i64::MAX));
        let len = self.parts.hot.publish(writes, heads);
        self.parts.changed.send_replace(applied);
        // Last: whoever is woken finds all of it.
        self.parts.waiters.applied(applied.index);
        len
    }

    /// Sends what is in memory on its way to sled.
    fn freeze(&mut self) -> Result<(), StoreError> {
        self.state.complete();
        let writes = self.state.take_writes();
        self.parts.hot.publish(writes, self.state.heads().clone());
        self.dirty = false;
        self.parts.flusher.send(Flush::Layer(self.parts.hot.freeze()))
    }

    /// Sends what is in memory on its way to sled, unless much is already.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        if self.dirty && self.parts.hot.frozen_len() < FROZEN_LEN_MAX { self.freeze() } else { Ok(()) }
    }

    /// Has a snapshot written of what is applied.
    pub fn snapshot(&mut self, done: oneshot::Sender<Result<Saved, StoreError>>) -> Result<(), StoreError> {
        self.freeze()?;
        self.parts.flusher.send(Flush::Snapshot(done))
    }

    /// Has all of sled read.
    pub fn digest(
        &mut self,
        done: oneshot::Sender<Result<(u64, Digest), StoreError>>,
    ) -> Result<(), StoreError> {
        self.freeze()?;
        self.parts.flusher.send(Flush::Digest(done))
    }

    /// Ends the flusher, when it has written all.
    pub fn stop(&mut self, done: oneshot::Sender<Result<(), StoreError>>) -> Result<(), StoreError> {
        self.freeze()?;
        self.parts.flusher.send(Flush::Stop(done))
    }

    /// Makes a received snapshot this node's own, durably, and then its state.
    pub fn install(&mut self, file: &SnapshotFile, meta: &SnapshotMeta) -> Result<(), StoreError> {
        let reader = Reader::verified(file)?;
        if reader.meta() != meta {
            return Err(StoreError::corrupt("a snapshot", "it is not of the entry it was sent for"));
        }
        // Already the last durable one where Raft installs it at start.
        if self.parts.current.get().is_none_or(|saved| saved.meta != *meta) {
            let saved = self.parts.snapshots.keep(file, meta.clone())?;
            self.parts.current.set(saved);
        }
        let (done, answer) = mpsc::sync_channel(1);
        self.parts.flusher.send(Flush::Install(file.clone(), done))?;
        answer.recv().map_err(|_| StoreError::Closed("the flusher has ended".into()))??;
        self.state = State::load(Arc::clone(&self.parts.hot))?;
        self.dirty = false;
        self.publish();
        self.parts.metrics.snapshots_installed.inc();
        Ok(())
    }
}
