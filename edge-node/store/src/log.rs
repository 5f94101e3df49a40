//! Raft's log and vote on disk.
//!
//! The bytes are raft-log's (README.md says why). One at a time writes them, so vote and entries are written in the order they
//! were asked for; a write only queues them to raft-log's own thread, which writes and syncs, so whoever asks does it himself:
//! another thread between the two would be one more wake-up in every acknowledged write. An append returns as soon as its
//! entries can be read, and calls back when fdatasync has returned; a vote, a truncation and a purge return when theirs has.
//! The newest entries are in memory: replication and applying read them there, and only a node that was away long makes the
//! disk read.

mod mark;
mod mend;
pub mod tail;
pub mod wal;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore, oneshot, watch};

use crate::durable::Folder;
use crate::error::StoreError;
use crate::metrics::Metrics;
use crate::runtime;
use crate::types::{Entry, LogId, Types, Vote};

use tail::Tail;
use writer::Writer;

/// Bytes of entries that one append to a follower carries, unless a single entry is larger.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of entries on their way to the disk; an append waits where there are more. Below what raft-log queues, which would
/// else hold up the thread that appends, and all else that runs there.
const IN_FLIGHT_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// What an append counts as at least: raft-log queues 1,024 writes, however short they are.
const IN_FLIGHT_BYTES_MIN: u32 = 64 * 1024;

/// Raft's log, as it writes it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogStore {
    shared: Arc<Shared>,
    /// None once the log is stopped. Whoever holds it waits for the disk only to read.
    writer: Arc<Mutex<Option<Writer>>>,
    in_flight: Arc<Semaphore>,
}

/// Raft's log, as it reads it.
pub type LogReader = LogStore;

#[derive(Debug)]
struct Shared {
    tail: RwLock<Tail>,
    /// Nothing above this may be purged: the last durable snapshot.
    purge_max: Arc<AtomicU64>,
    /// A write failed, and why: what the disk holds is not known any more, so nothing is written after it.
    failed: watch::Sender<Option<String>>,
    metrics: Metrics,
}

impl LogStore {
    /// Opens the log, or begins an empty one. It purges nothing above `purge_max`, the last durable snapshot.
    ///
    /// # Errors
    /// [`StoreError::LogDamaged`] where it cannot be read: the node must not vote any more under its id.
    pub fn open(
        folder: &Folder,
        chunk_bytes_max: usize,
        boot: &str,
        purge_max: Arc<AtomicU64>,
        metrics: Metrics,
    ) -> Result<Self, StoreError> {
        let wal = wal::open(&folder.log, chunk_bytes_max, boot)?;
        let tail = Tail::new(wal.numbers());
        if let Some(last) = tail.last() {
            metrics.last_log_index.set(last.index.try_into().unwrap_or(i64::MAX));
        }
        let shared = Arc::new(Shared {
            tail: RwLock::new(tail),
            purge_max,
            failed: watch::Sender::new(None),
            metrics,
        });
        let writer = Arc::new(Mutex::new(Some(Writer::new(wal, Arc::clone(&shared)))));
        Ok(Self { shared, writer, in_flight: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX as usize)) })
    }

    /// Index of the last entry, or of the last that was purged.
    pub fn last_index(&self) -> u64 {
        self.tail().last().map_or(0, |last| last.index)
    }

    /// The last vote.
    pub fn vote(&self) -> Option<Vote> {
        self.tail().vote()
    }

    /// Lets the committed index be noted where no entries come that it could go with.
    pub async fn note_committed(&self) -> io::Result<()> {
        self.writer.lock().await.as_mut().ok_or_else(stopped)?.flush_committed();
        Ok(())
    }

    /// Why nothing is written any more, if a write has failed. Raft hears of it with its next write only, which may be long after:
    /// watch this, and end it.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.shared.failed.subscribe()
    }

    /// Makes all durable, and lets go of the files.
    pub async fn stop(&self) -> io::Result<()> {
        let Some(writer) = self.writer.lock().await.take() else { return Ok(()) };
        runtime::blocking(move || writer.stop()).await.map_err(io::Error::other)?
    }

    /// Makes a write, and waits until it is durable.
    async fn durably(
        &self,
        write: impl FnOnce(&mut Writer, oneshot::Sender<io::Result<()>>),
    ) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        write(self.writer.lock().await.as_mut().ok_or_else(stopped)?, done);
        answer.await.map_err(|_| stopped())?
    }

    fn tail(&self) -> RwLockReadGuard<'_, Tail> {
        self.shared.tail()
    }

    /// Entries from `start` to before `end`, at most `bytes_max` bytes of them but one at least.
    async fn entries(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let in_memory = self.tail().entries(start, end, bytes_max);
        if let Some(entries) = in_memory {
            return Ok(entries);
        }
        let writer: OwnedMutexGuard<Option<Writer>> = Arc::clone(&self.writer).lock_owned().await;
        let read = move || writer.as_ref().ok_or_else(stopped)?.read(start, end, bytes_max);
        runtime::blocking(read).await.map_err(io::Error::other)?
    }
}

impl Shared {
    fn tail(&self) -> RwLockReadGuard<'_, Tail> {
        self.tail.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail_mut(&self) -> RwLockWriteGuard<'_, Tail> {
        self.tail.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopped() -> io::Error {
    io::Error::other("the log is closed")
}

/// Start, and one past the end.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        self.entries(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.tail().vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.entries(start, end, READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let tail = self.tail();
        Ok(LogState { last_purged_log_id: tail.purged(), last_log_id: tail.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.durably(|writer, done| writer.save_vote(*vote, done)).await?;
        self.shared.tail_mut().set_vote(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.shared.tail_mut().set_committed(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.tail().committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let bytes = u32::try_from(entries.iter().map(tail::size).sum::<usize>()).unwrap_or(u32::MAX);
        let bytes = bytes.clamp(IN_FLIGHT_BYTES_MIN, IN_FLIGHT_BYTES_MAX);
        let room = Arc::clone(&self.in_flight).acquire_many_owned(bytes).await.map_err(|_| stopped())?;
        self.writer.lock().await.as_mut().ok_or_else(stopped)?.append(&entries, callback, room)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        if last_log_id >= self.tail().last() {
            return Ok(());
        }
        self.durably(|writer, done| writer.truncate_after(last_log_id, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let max = self.shared.purge_max.load(Ordering::Acquire);
        if upto.index > max {
            let message = format!("purging up to {}, the last durable snapshot is at {max}", upto.index);
            return Err(io::Error::other(message));
        }
        self.durably(|writer, done| writer.purge(upto, done)).await
    }
}

#[cfg(test)]
mod tests;
