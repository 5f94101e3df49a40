//! The queue of tracked events: durable in a folder, or in memory where there is none.
//!
//! Events that are tracked at the same time are written with one write and one fsync (group commit): each takes its
//! place in the group that is filling, then waits for the log; who gets it first writes the group for all. Whatever
//! blocks runs outside of the async workers. An event's id is made when it takes its place, so ids sort as events
//! lie.

mod dead;
mod memory;
mod position;
mod record;
mod segments;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use proto::{ErrorReply, Event, EventId, EventKind, TraceId, VisitorId, codec};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};

pub use dead::DeadLetter;
use memory::Memory;
use segments::{Group, Segments};

use crate::ids::EventIds;

/// A group that holds so much is written before more joins it.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Bounds of a segment, in bytes; between them it is an eighth of the queue.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 16 * 1024..=4 * 1024 * 1024;

/// An event before it has an id.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) visitor: VisitorId,
    pub(crate) at_ms: u64,
    pub(crate) trace: TraceId,
    pub(crate) kind: EventKind,
}

/// An event in the queue.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Queued {
    pub(crate) seq: u64,
    /// Encoded, as it also goes into a frame.
    pub(crate) bytes: usize,
    pub(crate) event: Event,
}

/// Where the queue stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Sequence number of the newest event that is in the queue for good.
    pub(crate) last: u64,
    /// Sequence number up to which all is acknowledged.
    pub(crate) acknowledged: u64,
    /// Events that are in the queue and not acknowledged.
    pub(crate) pending: u64,
}

/// Why a queue cannot be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum OpenError {
    /// Another client has it open.
    #[error("{dir} is in use by another client")]
    Locked { dir: PathBuf },
    /// The disk.
    #[error("cannot {operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: Arc<io::Error> },
}

impl OpenError {
    fn io(operation: &'static str, path: &Path, error: io::Error) -> Self {
        OpenError::Io { operation, path: path.to_owned(), source: Arc::new(error) }
    }
}

/// Why events are not in the queue.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AppendError {
    /// No room: nothing of the call was taken.
    #[error("{bytes} of {bytes_max} bytes are taken")]
    Full { bytes: u64, bytes_max: u64 },
    /// An event is not allowed: nothing of the call was taken.
    #[error(transparent)]
    Invalid(#[from] ErrorReply),
    /// The disk failed: nothing of the call counts.
    #[error("cannot write events: {0}")]
    Io(#[source] Arc<io::Error>),
    /// The runtime is going away.
    #[error("the client is closing")]
    Closed,
}

/// What became of a group; empty while it is open.
type Outcome = Arc<OnceLock<Result<(), Arc<io::Error>>>>;

#[derive(Debug)]
struct Admission {
    ids: EventIds,
    next_seq: u64,
    /// What the store holds, as of its last operation.
    stored_bytes: u64,
    /// What is being written.
    committing_bytes: u64,
    group: Group,
    outcome: Outcome,
}

#[derive(Debug)]
enum Store {
    Disk { dir: PathBuf, log: Arc<AsyncMutex<Segments>> },
    Memory(Mutex<Memory>),
}

#[derive(Debug)]
struct Shared {
    admission: Mutex<Admission>,
    progress: watch::Sender<Progress>,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    shared: Arc<Shared>,
    store: Store,
    bytes_max: u64,
    dead_bytes_max: u64,
}

/// What taking places in the queue came to.
enum Admitted {
    /// The events are in the queue.
    Queued(Vec<EventId>),
    /// The events are in a group that has to be written.
    Grouped(Vec<EventId>, Outcome),
    /// The group must be written before there is room.
    GroupFull(Outcome),
}

impl Queue {
    /// Opens the queue in a folder, with the events of earlier runs. Blocks: not for an async worker.
    pub(crate) fn open(dir: &Path, bytes_max: u64, dead_bytes_max: u64) -> Result<Self, OpenError> {
        let segment_bytes = (bytes_max / 8).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let log = Segments::open(dir, segment_bytes)?;
        let ids = EventIds::after(log.newest());
        let shared = Shared::new(ids, log.last() + 1, log.bytes(), progress_of(&log));
        let store = Store::Disk { dir: dir.to_owned(), log: Arc::new(AsyncMutex::new(log)) };
        Ok(Self { shared, store, bytes_max, dead_bytes_max })
    }

    /// A queue without a folder.
    pub(crate) fn in_memory(bytes_max: u64) -> Self {
        let shared = Shared::new(EventIds::after(None), 1, 0, Progress::default());
        Self { shared, store: Store::Memory(Mutex::default()), bytes_max, dead_bytes_max: 0 }
    }

    /// Puts events into the queue, all or none; returns when they are there for good.
    pub(crate) async fn append(&self, drafts: &[Draft], now_ms: u64) -> Result<Vec<EventId>, AppendError> {
        loop {
            match self.admit(drafts, now_ms)? {
                Admitted::Queued(ids) => return Ok(ids),
                Admitted::Grouped(ids, outcome) => return self.commit(&outcome).await.map(|()| ids),
                Admitted::GroupFull(outcome) => {
                    // Its outcome concerns those who are in it.
                    if let Err(AppendError::Closed) = self.commit(&outcome).await {
                        return Err(AppendError::Closed);
                    }
                }
            }
        }
    }

    /// The next events that are not acknowledged.
    pub(crate) async fn read(&self, count_max: usize, bytes_max: usize) -> io::Result<Vec<Queued>> {
        match &self.store {
            Store::Memory(memory) => Ok(lock(memory).read(count_max, bytes_max)),
            Store::Disk { log, .. } => {
                let shared = Arc::clone(&self.shared);
                blocking(Arc::clone(log), move |log| {
                    let events = log.read(count_max, bytes_max);
                    shared.settle(log);
                    events
                })
                .await?
            }
        }
    }

    /// Everything up to `seq`, which was read last, has arrived.
    pub(crate) async fn acknowledge(&self, seq: u64) -> io::Result<()> {
        match &self.store {
            Store::Memory(memory) => {
                let mut admission = lock(&self.shared.admission);
                let mut memory = lock(memory);
                memory.acknowledge(seq);
                admission.stored_bytes = memory.bytes();
                self.shared.progress.send_replace(progress_of_memory(&memory));
                Ok(())
            }
            Store::Disk { log, .. } => {
                let shared = Arc::clone(&self.shared);
                blocking(Arc::clone(log), move |log| {
                    let written = log.acknowledge(seq);
                    shared.settle(log);
                    written
                })
                .await?
            }
        }
    }

    /// Keeps an event that will never be taken, durably where the queue is.
    pub(crate) async fn put_aside(&self, letter: DeadLetter) -> io::Result<()> {
        let Store::Disk { dir, log } = &self.store else { return Ok(()) };
        let (dir, bytes_max) = (dir.clone(), self.dead_bytes_max);
        blocking(Arc::clone(log), move |_| dead::keep(&dir, bytes_max, &letter)).await?
    }

    /// The events that were put aside, oldest first, as far as they are kept.
    pub(crate) async fn dead_letters(&self) -> io::Result<Vec<DeadLetter>> {
        let Store::Disk { dir, log } = &self.store else { return Ok(Vec::new()) };
        let (dir, bytes_max) = (dir.clone(), self.dead_bytes_max);
        blocking(Arc::clone(log), move |_| dead::read(&dir, bytes_max)).await?
    }

    /// Writes what has taken its place, then lets go of the folder. Nothing can be appended after.
    pub(crate) async fn close(&self) {
        let Store::Disk { log, .. } = &self.store else { return };
        let outcome = Arc::clone(&lock(&self.shared.admission).outcome);
        if let Err(error) = self.commit(&outcome).await {
            tracing::debug!(%error, "the last group was not written");
        }
        log.lock().await.close();
    }

    /// Where the queue stands, and news of it.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Checks events and gives them their ids and places.
    fn admit(&self, drafts: &[Draft], now_ms: u64) -> Result<Admitted, AppendError> {
        let mut admission = lock(&self.shared.admission);
        let events = number(&mut admission, drafts, now_ms)?;
        let bytes: u64 = events.iter().map(|(queued, _)| (queued.bytes + record::HEADER_BYTES) as u64).sum();
        let in_group = admission.group.bytes.len() as u64;
        let taken = admission.stored_bytes + admission.committing_bytes + in_group;
        let overhead = match self.store {
            Store::Memory(_) => 0,
            Store::Disk { .. } => Segments::group_overhead_bytes(),
        };
        if taken + bytes + overhead > self.bytes_max {
            return Err(AppendError::Full { bytes: taken, bytes_max: self.bytes_max });
        }
        let ids = events.iter().map(|(queued, _)| queued.event.id).collect();
        if let Store::Memory(memory) = &self.store {
            admission.next_seq += events.len() as u64;
            let mut memory = lock(memory);
            memory.append(events.into_iter().map(|(queued, _)| queued).collect());
            admission.stored_bytes = memory.bytes();
            self.shared.progress.send_replace(progress_of_memory(&memory));
            return Ok(Admitted::Queued(ids));
        }
        if in_group > 0 && in_group + bytes > GROUP_BYTES_MAX as u64 {
            return Ok(Admitted::GroupFull(Arc::clone(&admission.outcome)));
        }
        for (queued, payload) in &events {
            record::write(&mut admission.group.bytes, queued.seq, payload);
        }
        let (first, next) = (admission.next_seq, admission.next_seq + events.len() as u64);
        let group = &mut admission.group;
        group.first = if group.count == 0 { first } else { group.first };
        group.last = next - 1;
        group.count += events.len() as u64;
        admission.next_seq = next;
        Ok(Admitted::Grouped(ids, Arc::clone(&admission.outcome)))
    }

    /// Waits until the group with this outcome is written, or writes it.
    async fn commit(&self, outcome: &Outcome) -> Result<(), AppendError> {
        let Store::Disk { log, .. } = &self.store else { return Ok(()) };
        let mut guard = Arc::clone(log).lock_owned().await;
        if outcome.get().is_none() {
            // Groups are taken by who holds the log, so the one that is filling now is ours.
            let shared = Arc::clone(&self.shared);
            let written = tokio::task::spawn_blocking(move || shared.write(&mut guard)).await;
            written.map_err(|_| AppendError::Closed)?;
        }
        match outcome.get() {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(AppendError::Io(Arc::clone(error))),
            None => Err(AppendError::Closed),
        }
    }
}

impl Shared {
    fn new(ids: EventIds, next_seq: u64, stored_bytes: u64, progress: Progress) -> Arc<Self> {
        let admission = Admission {
            ids,
            next_seq,
            stored_bytes,
            committing_bytes: 0,
            group: Group::default(),
            outcome: Outcome::default(),
        };
        Arc::new(Self { admission: Mutex::new(admission), progress: watch::Sender::new(progress) })
    }

    /// Takes the group that is filling and writes it.
    fn write(&self, log: &mut Segments) {
        let (group, outcome) = {
            let mut admission = lock(&self.admission);
            admission.committing_bytes = admission.group.bytes.len() as u64;
            (std::mem::take(&mut admission.group), std::mem::take(&mut admission.outcome))
        };
        let written = if group.count == 0 { Ok(()) } else { log.append(&group).map_err(Arc::new) };
        if let Err(error) = &written {
            tracing::error!(%error, events = group.count, "tracked events cannot be written");
        }
        self.settle(log);
        // Last: whoever waits for it sees the queue with its events in it.
        if outcome.set(written).is_err() {
            tracing::error!("a group was written twice");
        }
    }

    fn settle(&self, log: &Segments) {
        let mut admission = lock(&self.admission);
        (admission.stored_bytes, admission.committing_bytes) = (log.bytes(), 0);
        drop(admission);
        self.progress.send_replace(progress_of(log));
    }
}

fn progress_of(log: &Segments) -> Progress {
    Progress { last: log.last(), acknowledged: log.acknowledged(), pending: log.pending() }
}

fn progress_of_memory(memory: &Memory) -> Progress {
    Progress { last: memory.last(), acknowledged: memory.acknowledged(), pending: memory.pending() }
}

/// Makes events of drafts, with ids and with the sequence numbers that they would get, and encodes them.
fn number(
    admission: &mut Admission,
    drafts: &[Draft],
    now_ms: u64,
) -> Result<Vec<(Queued, Vec<u8>)>, ErrorReply> {
    let mut events = Vec::with_capacity(drafts.len());
    for (at, draft) in drafts.iter().enumerate() {
        let event = Event {
            id: admission.ids.next(now_ms),
            visitor: draft.visitor.clone(),
            at_ms: draft.at_ms,
            trace: draft.trace,
            kind: draft.kind.clone(),
        };
        event.check(now_ms)?;
        let payload = codec::encode(&event);
        if payload.len() > record::PAYLOAD_BYTES_MAX {
            let message = format!("an event has at most {} bytes", record::PAYLOAD_BYTES_MAX);
            return Err(ErrorReply::new(proto::Code::TooLarge, message));
        }
        events.push((Queued { seq: admission.next_seq + at as u64, bytes: payload.len(), event }, payload));
    }
    Ok(events)
}

/// Runs something on the log outside of the async workers. What was begun goes on, though the caller gives up.
async fn blocking<T: Send + 'static>(
    log: Arc<AsyncMutex<Segments>>,
    work: impl FnOnce(&mut Segments) -> T + Send + 'static,
) -> io::Result<T> {
    let mut guard: OwnedMutexGuard<Segments> = log.lock_owned().await;
    tokio::task::spawn_blocking(move || work(&mut guard)).await.map_err(io::Error::other)
}

/// A panic while the lock was held has left nothing half done: every use is a few assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
