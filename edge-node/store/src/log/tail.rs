//! The newest entries in memory, and the log's few numbers.

use std::collections::VecDeque;
use std::io;

use openraft::EntryPayload;

use crate::types::{Entry, LogId, Vote};

/// Entries in memory at most.
const TAIL_LEN_MAX: usize = 8_192;
/// Bytes of entries in memory at most.
const TAIL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What an entry takes besides its batch.
const ENTRY_BYTES: usize = 128;

/// What a log holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The last entry, or the last that was purged.
    pub last: Option<LogId>,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry known to be committed.
    pub committed: Option<LogId>,
    /// The vote; only what is durable.
    pub vote: Option<Vote>,
}

/// The end of the log.
#[derive(Debug, Default)]
pub struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    numbers: Numbers,
}

impl Tail {
    /// Of a log that was opened: nothing is in memory yet. A committed index beyond its end is of entries that are lost: Raft could
    /// not start with it, and what stands at the end need not be what was committed. It is learned again.
    pub fn new(mut numbers: Numbers) -> Self {
        numbers.committed = numbers.committed.filter(|committed| Some(*committed) <= numbers.last);
        Self { entries: VecDeque::new(), bytes: 0, numbers }
    }

    /// The last entry, or the last that was purged.
    pub fn last(&self) -> Option<LogId> {
        self.numbers.last
    }

    /// The last entry that was purged.
    pub fn purged(&self) -> Option<LogId> {
        self.numbers.purged
    }

    /// The last entry known to be committed.
    pub fn committed(&self) -> Option<LogId> {
        self.numbers.committed
    }

    /// The vote; only what is durable.
    pub fn vote(&self) -> Option<Vote> {
        self.numbers.vote
    }

    /// Notes a vote that is durable.
    pub fn set_vote(&mut self, vote: Vote) {
        self.numbers.vote = Some(vote);
    }

    /// Notes the last entry known to be committed.
    pub fn set_committed(&mut self, committed: LogId) {
        self.numbers.committed = Some(committed);
    }

    /// Adds entries. Returns the index of the last.
    ///
    /// # Errors
    /// Where they do not follow the last one: a log has no holes.
    pub fn push(&mut self, entries: &[Entry]) -> io::Result<u64> {
        for entry in entries {
            let follows = self.numbers.last.is_none_or(|last| last.index + 1 == entry.log_id.index);
            if !follows {
                let message = format!("entry {} does not follow {:?}", entry.log_id, self.numbers.last);
                return Err(io::Error::other(message));
            }
            self.numbers.last = Some(entry.log_id);
            self.bytes += size(entry);
            self.entries.push_back(entry.clone());
        }
        self.evict();
        Ok(self.numbers.last.map_or(0, |last| last.index))
    }

    /// Entries from `start` to before `end`, within `bytes_max` but one at least; none where the disk must be read.
    pub fn entries(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let next = self.numbers.last.map_or(0, |last| last.index + 1);
        let start = start.max(self.numbers.purged.map_or(0, |purged| purged.index + 1));
        let end = end.min(next);
        if start >= end {
            return Some(Vec::new());
        }
        let first = self.entries.front()?.log_id.index;
        let skip = usize::try_from(start.checked_sub(first)?).ok()?;
        let len = usize::try_from(end - start).ok()?;
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let begins = bytes == 0;
            bytes += size(entry);
            begins || bytes <= bytes_max
        };
        Some(self.entries.iter().skip(skip).take(len).take_while(fits).cloned().collect())
    }

    /// Forgets entries after `last`.
    pub fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = last.map(|last| last.index);
        while self.entries.back().is_some_and(|entry| Some(entry.log_id.index) > keep) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= size(&entry);
            }
        }
        self.numbers.last = last.max(self.numbers.purged);
    }

    /// Forgets entries up to `upto`.
    pub fn purge(&mut self, upto: LogId) {
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            self.pop_front();
        }
        self.numbers.purged = self.numbers.purged.max(Some(upto));
        self.numbers.last = self.numbers.last.max(self.numbers.purged);
    }

    fn evict(&mut self) {
        while self.entries.len() > TAIL_LEN_MAX || self.bytes > TAIL_BYTES_MAX {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= size(&entry);
        }
    }
}

/// About how much memory an entry takes.
pub fn size(entry: &Entry) -> usize {
    ENTRY_BYTES
        + match &entry.payload {
            EntryPayload::Normal(batch) => batch.len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_index_beyond_the_end_is_forgotten() {
        let id = |index| Some(LogId::new_term_index(2, index));
        let opened =
            |committed| Tail::new(Numbers { last: id(68), committed, ..Numbers::default() }).committed();
        assert_eq!(opened(id(73)), None);
        assert_eq!(opened(id(68)), id(68));
    }
}
