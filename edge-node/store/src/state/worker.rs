//! The thread that applies. It owns the state; everybody else sees what it publishes.

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc as sync_mpsc};

use openraft::EntryPayload;
use openraft::storage::{ApplyResponder, EntryResponder};
use proto::{NodeId, codec};
use tokio::sync::{mpsc, watch};

use super::flusher::{Flush, Flusher};
use super::hot::Hot;
use super::waiters::Waiters;
use super::{Current, Job, applied_of};
use crate::Applied;
use crate::error::StoreError;
use crate::machine::{self, Position, State};
use crate::metrics::Metrics;
use crate::runtime;
use crate::snapshot::{Reader, Saved, SnapshotFile, Snapshots};
use crate::types::{Effects, Entry, LogId, Membership, SnapshotMeta, StoredMembership, Types};

/// A layer goes to sled when it holds so many values. sled lets nobody read while it writes a batch, so it is small.
const LAYER_LEN: usize = 512;
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

/// Starts the thread.
pub fn start(parts: Parts, inbox: mpsc::Receiver<Job>) -> Result<(), StoreError> {
    let state = State::load(Arc::clone(&parts.hot))?;
    let mut worker = Worker { parts, state, dirty: false };
    runtime::serve("store-state", inbox, move |job, _| worker.run(job))
}

struct Worker {
    parts: Parts,
    state: State<Arc<Hot>>,
    /// Something was applied since the last layer went to sled.
    dirty: bool,
}

type Answers = Vec<(ApplyResponder<Types>, Effects)>;

impl Worker {
    fn run(&mut self, job: Job) -> std::ops::ControlFlow<()> {
        match job {
            // Whoever asked may have gone away: an answer nobody waits for is no error.
            Job::Apply { entries, done } => drop(done.send(self.apply(entries))),
            Job::Install { file, meta, done } => drop(done.send(self.install(&file, &meta))),
            Job::Flush if self.dirty && self.parts.hot.frozen_len() < FROZEN_LEN_MAX => {
                if let Err(error) = self.freeze() {
                    tracing::error!(%error, "the state cannot be written");
                }
            }
            Job::Flush => {}
            Job::Snapshot { done } => self.snapshot(done),
            Job::Digest { done } => match self.freeze() {
                Ok(()) => drop(self.parts.flusher.send(Flush::Digest(done))),
                Err(error) => drop(done.send(Err(error))),
            },
            Job::Stop { done } => {
                match self.freeze() {
                    Ok(()) => drop(self.parts.flusher.send(Flush::Stop(done))),
                    Err(error) => drop(done.send(Err(error))),
                }
                return std::ops::ControlFlow::Break(());
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    fn apply(&mut self, entries: Vec<EntryResponder<Types>>) -> Result<(), StoreError> {
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

    fn snapshot(&mut self, done: tokio::sync::oneshot::Sender<Result<Saved, StoreError>>) {
        let (written, answer) = sync_mpsc::sync_channel(1);
        let sent = self.freeze().and_then(|()| self.parts.flusher.send(Flush::Snapshot(written)));
        if let Err(error) = sent {
            drop(done.send(Err(error)));
            return;
        }
        let (current, metrics) = (Arc::clone(&self.parts.current), self.parts.metrics.clone());
        // Waits beside: applying goes on while the snapshot is written.
        let wait = move || {
            let saved = answer.recv();
            let saved = saved.unwrap_or_else(|_| Err(StoreError::Closed("the flusher has ended".into())));
            if let Ok(saved) = &saved {
                current.set(saved.clone());
                metrics.snapshots.inc();
            }
            drop(done.send(saved));
        };
        if let Err(error) = runtime::aside("store-snapshot", wait) {
            tracing::error!(%error, "no thread for a snapshot");
        }
    }

    /// Makes a received snapshot this node's own, durably, and then its state.
    fn install(&mut self, file: &SnapshotFile, meta: &SnapshotMeta) -> Result<(), StoreError> {
        let reader = Reader::verified(file)?;
        if reader.meta() != meta {
            return Err(StoreError::corrupt("a snapshot", "it is not of the entry it was sent for"));
        }
        // Already the last durable one where Raft installs it at start.
        if self.parts.current.get().is_none_or(|saved| saved.meta != *meta) {
            let saved = self.parts.snapshots.keep(file, meta.clone())?;
            self.parts.current.set(saved);
        }
        let (done, answer) = sync_mpsc::sync_channel(1);
        self.parts.flusher.send(Flush::Install(file.clone(), done))?;
        answer.recv().map_err(|_| StoreError::Closed("the flusher has ended".into()))??;
        self.state = State::load(Arc::clone(&self.parts.hot))?;
        self.dirty = false;
        self.publish();
        self.parts.metrics.snapshots_installed.inc();
        Ok(())
    }
}
