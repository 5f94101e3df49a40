//! The thread that owns the log: it does what it is asked in the order it is asked.

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::wal::{Flushed, Wal, Who};
use crate::error::StoreError;
use crate::planted;
use crate::runtime;
use crate::types::{Entry, LogId, Types, Vote};

/// What the log's thread does.
pub enum Order {
    Append { entries: Vec<Entry>, callback: IOFlushed<Types> },
    Vote { vote: Vote, done: oneshot::Sender<io::Result<()>> },
    Committed,
    Truncate { after: Option<LogId>, done: oneshot::Sender<io::Result<()>> },
    Purge { upto: LogId, done: oneshot::Sender<io::Result<()>> },
    Read { start: u64, end: u64, bytes_max: usize, done: oneshot::Sender<io::Result<Vec<Entry>>> },
    Stop { done: oneshot::Sender<io::Result<()>> },
}

/// Starts the thread.
pub fn start(wal: Box<dyn Wal>, inbox: mpsc::Receiver<Order>, shared: Arc<Shared>) -> Result<(), StoreError> {
    let mut writer = Some(Writer { wal, shared, noted: None });
    runtime::serve("store-log", inbox, move |order, _| {
        if let Order::Stop { done } = order {
            // Nobody hears that the files are free before they are.
            let stopped = writer.take().map_or(Ok(()), |mut writer| {
                writer.note_committed();
                writer.wal.stop()
            });
            drop(done.send(stopped));
            return ControlFlow::Break(());
        }
        if let Some(writer) = &mut writer {
            writer.run(order);
        }
        ControlFlow::Continue(())
    })
}

struct Writer {
    wal: Box<dyn Wal>,
    shared: Arc<Shared>,
    /// The committed index that was handed to the log last.
    noted: Option<LogId>,
}

impl Writer {
    fn run(&mut self, order: Order) {
        // A receiver that is gone does not mind.
        match order {
            Order::Append { entries, callback } => self.append(&entries, callback),
            Order::Vote { done, .. } if planted::on("vote_not_persisted") => drop(done.send(Ok(()))),
            Order::Vote { vote, done } => {
                let result = self.write(|wal| wal.save_vote(vote));
                self.sync(result, done);
            }
            Order::Committed => self.committed(),
            Order::Truncate { after, done } => {
                let mut next = after.map_or(0, |after| after.index + 1);
                if planted::on("hole_on_truncate") {
                    next = next.saturating_sub(1);
                }
                let result = self.write(|wal| wal.truncate(next));
                self.sync(result, done);
            }
            Order::Purge { upto, done } => {
                let result = self.write(|wal| wal.purge(upto));
                self.sync(result, done);
            }
            Order::Read { start, end, bytes_max, done } => {
                drop(done.send(self.wal.read(start, end, bytes_max)));
            }
            Order::Stop { .. } => {}
        }
    }

    fn append(&mut self, entries: &[Entry], callback: IOFlushed<Types>) {
        // Goes with the entries: a write of its own for every commit costs more than it is worth.
        self.note_committed();
        if let Err(error) = self.write(|wal| wal.append(entries)) {
            return callback.io_completed(Err(error));
        }
        if let Some(last) = entries.last() {
            self.shared.tail.write().unwrap_or_else(PoisonError::into_inner).written(last.log_id.index);
        }
        if planted::on("acknowledged_before_sync") {
            return callback.io_completed(Ok(()));
        }
        self.flush(Who::Raft(callback));
    }

    /// Handed to the operating system, so that a crash of the process keeps it.
    fn committed(&mut self) {
        if self.note_committed()
            && let Err(error) = self.write(|wal| wal.flush(None))
        {
            tracing::warn!(%error, "the committed index is not noted");
        }
    }

    /// Puts the committed index, if it is another, behind what is written already. Not made durable on its own: one that is
    /// lost is learned again.
    fn note_committed(&mut self) -> bool {
        let committed = self.shared.tail.read().unwrap_or_else(PoisonError::into_inner).committed();
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

    fn sync(&mut self, result: io::Result<()>, done: oneshot::Sender<io::Result<()>>) {
        match result {
            Ok(()) => self.flush(Who::Asker(done)),
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
