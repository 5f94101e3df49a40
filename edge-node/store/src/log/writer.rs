//! Who writes the log: one at a time, in the order they asked.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use openraft::storage::IOFlushed;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Shared;
use super::wal::{Flushed, Wal, Who};
use crate::planted;
use crate::types::{Entry, LogId, Types, Vote};

/// The log's bytes, with what was handed to them.
pub struct Writer {
    wal: Box<dyn Wal>,
    shared: Arc<Shared>,
    /// The committed index that was handed to the log last.
    noted: Option<LogId>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("noted", &self.noted).finish_non_exhaustive()
    }
}

/// Whoever waits until a write is durable.
type Done = oneshot::Sender<io::Result<()>>;

impl Writer {
    /// Of a log that was opened.
    pub fn new(wal: Box<dyn Wal>, shared: Arc<Shared>) -> Self {
        Self { wal, shared, noted: None }
    }

    /// Writes entries, and calls back when they are durable; `room` is given back then.
    pub fn append(
        &mut self,
        entries: &[Entry],
        callback: IOFlushed<Types>,
        room: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        // Goes with the entries: a write of its own for every commit costs more than it is worth.
        self.note_committed();
        let last = self.shared.tail_mut().push(entries)?;
        if let Err(error) = self.write(|wal| wal.append(entries)) {
            callback.io_completed(Err(error));
            return Ok(());
        }
        self.shared.metrics.last_log_index.set(last.try_into().unwrap_or(i64::MAX));
        if planted::on("acknowledged_before_sync") {
            callback.io_completed(Ok(()));
        } else {
            self.flush(Who::Raft(callback, room));
        }
        Ok(())
    }

    /// Writes the vote.
    pub fn save_vote(&mut self, vote: Vote, done: Done) {
        if planted::on("vote_not_persisted") {
            return drop(done.send(Ok(())));
        }
        let result = self.write(|wal| wal.save_vote(vote));
        self.sync(result, done);
    }

    /// Removes entries after `last`.
    pub fn truncate_after(&mut self, last: Option<LogId>, done: Done) {
        let mut next = last.map_or(0, |last| last.index + 1);
        if planted::on("hole_on_truncate") {
            next = next.saturating_sub(1);
        }
        self.shared.tail_mut().truncate_after(last);
        let result = self.write(|wal| wal.truncate(next));
        self.sync(result, done);
    }

    /// Removes entries up to `upto`.
    pub fn purge(&mut self, upto: LogId, done: Done) {
        self.shared.tail_mut().purge(upto);
        let result = self.write(|wal| wal.purge(upto));
        self.sync(result, done);
    }

    /// Hands the committed index to the operating system, so that a crash of the process keeps it.
    pub fn flush_committed(&mut self) {
        if self.note_committed()
            && let Err(error) = self.write(|wal| wal.flush(None))
        {
            tracing::warn!(%error, "the committed index is not noted");
        }
    }

    /// Entries from `start` to before `end`, at most `bytes_max` bytes of them but one at least.
    pub fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.wal.read(start, end, bytes_max)
    }

    /// Makes all durable, and lets go of the files.
    pub fn stop(mut self) -> io::Result<()> {
        self.note_committed();
        self.wal.stop()
    }

    /// Puts the committed index, if it is another, behind what is written already. Not made durable on its own: one that is
    /// lost is learned again.
    fn note_committed(&mut self) -> bool {
        let committed = self.shared.tail().committed();
        let known = self.wal.numbers().last.map(|last| last.index);
        let Some(id) = committed.filter(|id| committed != self.noted && Some(id.index) <= known) else {
            return false;
        };
        self.noted = committed;
        match self.write(|wal| wal.save_committed(id)) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the committed index is not noted");
                false
            }
        }
    }

    fn write(&mut self, write: impl FnOnce(&mut dyn Wal) -> io::Result<()>) -> io::Result<()> {
        if let Some(reason) = &*self.shared.failed.borrow() {
            return Err(io::Error::other(reason.clone()));
        }
        write(&mut *self.wal).inspect_err(|error| self.fail(error))
    }

    fn fail(&self, error: &io::Error) {
        tracing::error!(%error, "the log cannot be written");
        self.shared.failed.send_replace(Some(error.to_string()));
    }

    fn sync(&mut self, result: io::Result<()>, done: Done) {
        match result {
            Ok(()) => self.flush(Who::Asker(done)),
            // A receiver that is gone does not mind.
            Err(error) => drop(done.send(Err(error))),
        }
    }

    fn flush(&mut self, who: Who) {
        let seconds = self.shared.metrics.fsync_seconds.clone();
        let flushed = Flushed { who, since: Instant::now(), seconds };
        // The callback went with the request: where it is dropped, whoever waits sees the channel close.
        if let Err(error) = self.wal.flush(Some(flushed)) {
            self.fail(&error);
        }
    }
}
