//! A Raft log on a simulated disk.

use std::collections::BTreeMap;
use std::io;

use tokio::time::Instant;

use super::disk::Disk;
use super::lock;
use crate::log::tail::{Numbers, size};
use crate::log::wal::{Flushed, Wal};
use crate::runtime;
use crate::types::{Entry, LogId, Vote};

/// A write to the log.
#[derive(Debug, Clone)]
pub(super) enum Write {
    Entries(Vec<Entry>),
    Vote(Vote),
    Committed(LogId),
    Truncate(u64),
    Purge(LogId),
}

/// What a log holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    entries: BTreeMap<u64, Entry>,
    numbers: Numbers,
}

impl Image {
    pub(super) fn apply(&mut self, write: Write) {
        match write {
            Write::Entries(entries) => {
                for entry in entries {
                    self.numbers.last = Some(entry.log_id);
                    self.entries.insert(entry.log_id.index, entry);
                }
            }
            Write::Vote(vote) => self.numbers.vote = Some(vote),
            Write::Committed(id) => self.numbers.committed = Some(id),
            Write::Truncate(next) => {
                self.entries.split_off(&next);
                let last = self.entries.last_key_value().map(|(_, entry)| entry.log_id);
                self.numbers.last = last.max(self.numbers.purged);
            }
            Write::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.numbers.purged = self.numbers.purged.max(Some(upto));
                self.numbers.last = self.numbers.last.max(self.numbers.purged);
            }
        }
    }
}

/// The log of one process. Syncs return in the order in which they were asked for.
pub(crate) struct SimLog {
    disk: Disk,
    /// When the last sync that was asked for returns.
    busy_until: Instant,
}

impl SimLog {
    pub(super) fn new(disk: Disk) -> Self {
        Self { disk, busy_until: Instant::now() }
    }

    fn write(&self, write: Write) -> io::Result<()> {
        lock(&self.disk.shared).write(write)
    }
}

impl Wal for SimLog {
    fn numbers(&self) -> Numbers {
        lock(&self.disk.shared).cached.numbers
    }

    fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        self.write(Write::Entries(entries.to_vec()))
    }

    fn save_vote(&mut self, vote: Vote) -> io::Result<()> {
        self.write(Write::Vote(vote))
    }

    fn save_committed(&mut self, id: LogId) -> io::Result<()> {
        self.write(Write::Committed(id))
    }

    fn truncate(&mut self, next: u64) -> io::Result<()> {
        self.write(Write::Truncate(next))
    }

    fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.write(Write::Purge(upto))
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let state = lock(&self.disk.shared);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in state.cached.entries.range(start..end).map(|(_, entry)| entry) {
            bytes += size(entry);
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn flush(&mut self, flushed: Option<Flushed>) -> io::Result<()> {
        let Some(flushed) = flushed else { return Ok(()) };
        self.busy_until = self.busy_until.max(Instant::now()) + self.disk.sync_takes();
        let (disk, at) = (self.disk.clone(), self.busy_until);
        // All that is written by now is durable then; writes of later are a later sync's.
        let upto = lock(&disk.shared).written();
        runtime::spawn(async move {
            tokio::time::sleep_until(at).await;
            let synced = lock(&disk.shared).sync(upto);
            flushed.tell(synced);
        });
        Ok(())
    }

    fn stop(self: Box<Self>) -> io::Result<()> {
        let mut state = lock(&self.disk.shared);
        let upto = state.written();
        state.sync(upto)
    }
}
