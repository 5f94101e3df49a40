//! The thread that owns the log: it does what it is asked in the order it is asked.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Instant;

use openraft::storage::IOFlushed;
use raft_log::Segment;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::codeq::Span;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::mark::Mark;
use super::tail::size;
use super::wal::{Flushed, Payload, Wal, Who, end, id_to_wal};
use crate::error::StoreError;
use crate::types::{Entry, LogId, Types, Vote};

/// What the log's thread does.
pub enum Order {
    Append { entries: Vec<Entry>, callback: IOFlushed<Types> },
    Vote { vote: Vote, done: oneshot::Sender<io::Result<()>> },
    Committed(LogId),
    Truncate { after: Option<LogId>, done: oneshot::Sender<io::Result<()>> },
    Purge { upto: LogId, done: oneshot::Sender<io::Result<()>> },
    Read { start: u64, end: u64, bytes_max: usize, done: oneshot::Sender<io::Result<Vec<Entry>>> },
    Stop { done: oneshot::Sender<io::Result<()>> },
}

/// Starts the thread.
pub fn start(
    wal: Wal,
    mark: Mark,
    mut inbox: mpsc::Receiver<Order>,
    shared: Arc<Shared>,
) -> Result<(), StoreError> {
    let end = end(&wal);
    let mut writer = Writer { wal, mark: Arc::new(mark), end, shared, failed: None };
    thread::Builder::new()
        .name("store-log".into())
        .spawn(move || {
            while let Some(order) = inbox.blocking_recv() {
                if let Order::Stop { done } = order {
                    let result = writer.stop();
                    // Lets go of the files before anybody hears that they are free.
                    drop(writer);
                    drop(done.send(result));
                    return;
                }
                writer.run(order, inbox.is_empty());
            }
        })
        .map_err(|e| StoreError::io("start", "store-log", e))?;
    Ok(())
}

struct Writer {
    wal: Wal,
    mark: Arc<Mark>,
    /// The log's end, in bytes since its beginning.
    end: u64,
    shared: Arc<Shared>,
    /// A write failed: what the disk holds is not known any more, so nothing is written after it.
    failed: Option<String>,
}

impl Writer {
    fn run(&mut self, order: Order, idle: bool) {
        // A receiver that is gone does not mind.
        match order {
            Order::Append { entries, callback } => self.append(&entries, callback),
            Order::Vote { vote, done } => {
                let result = self.write(|wal| wal.save_vote(vote.into()));
                self.sync(result, done);
            }
            Order::Committed(id) => self.committed(id, idle),
            Order::Truncate { after, done } => {
                let next = after.map_or(0, |after| after.index + 1);
                let result = self.write(|wal| wal.truncate(next));
                self.sync(result, done);
            }
            Order::Purge { upto, done } => {
                let result = self.write(|wal| wal.purge(id_to_wal(upto)));
                self.sync(result, done);
            }
            Order::Read { start, end, bytes_max, done } => drop(done.send(self.read(start, end, bytes_max))),
            Order::Stop { .. } => {}
        }
    }

    fn append(&mut self, entries: &[Entry], callback: IOFlushed<Types>) {
        let records = entries.iter().map(|entry| (id_to_wal(entry.log_id), Payload::of(entry)));
        if let Err(error) = self.write(|wal| wal.append(records)) {
            return callback.io_completed(Err(error));
        }
        if let Some(last) = entries.last() {
            self.shared.tail.write().unwrap_or_else(PoisonError::into_inner).written(last.log_id.index);
        }
        self.flush(Who::Raft(callback));
    }

    /// Not made durable on its own: a committed index that is lost is learned again. On an idle log it is at least handed
    /// to the operating system, so that a crash of the process keeps it.
    fn committed(&mut self, id: LogId, idle: bool) {
        let known = self.wal.log_state().last().is_some_and(|last| last.1 >= id.index);
        if !known {
            return;
        }
        let result = self.write(|wal| {
            let record = wal.commit(id_to_wal(id))?;
            if idle {
                wal.flush(false, None)?;
            }
            Ok(record)
        });
        if let Err(error) = result {
            tracing::warn!(%error, "the committed index is not noted");
        }
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for record in self.wal.read(start, end) {
            let (id, payload) = record?;
            let entry = payload.into_entry(id)?;
            bytes += size(&entry);
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn stop(&mut self) -> io::Result<()> {
        self.wal.flush(true, None)?;
        self.wal.wait_worker_idle()?;
        self.mark.advance(self.end);
        self.mark.sync()
    }

    fn write(&mut self, write: impl FnOnce(&mut Wal) -> io::Result<Segment>) -> io::Result<()> {
        if let Some(reason) = &self.failed {
            return Err(io::Error::other(reason.clone()));
        }
        match write(&mut self.wal) {
            Ok(written) => {
                self.end = written.end().0;
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    fn sync(&mut self, result: io::Result<()>, done: oneshot::Sender<io::Result<()>>) {
        match result {
            Ok(()) => self.flush(Who::Asker(done)),
            Err(error) => drop(done.send(Err(error))),
        }
    }

    fn flush(&mut self, who: Who) {
        let seconds = self.shared.metrics.fsync_seconds.clone();
        let (end, mark) = (self.end, Arc::clone(&self.mark));
        let flushed = Flushed { who, end, mark, since: Instant::now(), seconds };
        // The callback went with the request: where it is dropped, whoever waits sees the channel close.
        if let Err(error) = self.wal.flush(true, Some(flushed)) {
            self.fail(error);
        }
    }

    /// Notes that nothing is written any more, and why: where raft-log's own thread ended, its reason, not that it ended.
    fn fail(&mut self, error: io::Error) -> io::Error {
        let error = self.wal.wait_worker_idle().err().unwrap_or(error);
        tracing::error!(%error, "the log cannot be written: this node acknowledges nothing more until it is started again");
        self.failed = Some(error.to_string());
        error
    }
}
