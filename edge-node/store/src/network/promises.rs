//! What each peer is known to have promised: the term it was heard in, and the log that it acknowledged.
//!
//! A node's vote and log are its identity. One whose folder was replaced by an older copy of itself has the right name and the
//! right folder's number ([`super::Pins`]), but has forgotten votes and entries that others rest on. So a node asks its peers
//! before it starts, and a leader takes no answer from one that has lost what it acknowledged. What is known here is a help and no
//! promise of its own: it is written now and then, and not synced.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use proto::NodeId;
use proto::peer::Promise;

use crate::durable::{self, TMP};
use crate::error::StoreError;
use crate::types::{LogId, Types};

/// Most peers that are remembered.
const PROMISES_LEN_MAX: usize = 1_024;

/// What the peers promised.
#[derive(Debug)]
pub struct Promises {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    promises: BTreeMap<NodeId, Promise>,
    /// Whether the file says less.
    changed: bool,
}

impl Promises {
    /// Reads what was written; what cannot be read was cut off, and is not known.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut promises = BTreeMap::new();
        for line in durable::read_file(path)?.unwrap_or_default().lines().take(PROMISES_LEN_MAX) {
            let numbers: Vec<u64> = line.split(' ').map_while(|number| number.parse().ok()).collect();
            if let [node, term, matched, committed] = numbers[..] {
                promises.insert(NodeId(node), Promise { term, matched, committed });
            }
        }
        let known = Mutex::new(Known { promises, changed: false });
        Ok(Self { path: path.to_owned(), known })
    }

    /// What a peer promised, as far as it is known here.
    pub fn of(&self, node: NodeId) -> Promise {
        self.lock().promises.get(&node).copied().unwrap_or_default()
    }

    /// Takes in a follower's answer to an append.
    ///
    /// # Errors
    /// Where it says that the follower no longer holds what it acknowledged.
    pub fn answered(
        &self,
        node: NodeId,
        request: &Append,
        response: &AppendEntriesResponse<Types>,
    ) -> Result<(), StoreError> {
        let matched = match response {
            AppendEntriesResponse::Success => request.last,
            AppendEntriesResponse::PartialSuccess(upto) => upto.map(|id| id.index),
            AppendEntriesResponse::Conflict => return self.contradicted(node, request),
            AppendEntriesResponse::HigherVote(_) => return Ok(()),
        };
        let matched = matched.unwrap_or(0);
        let mut known = self.lock();
        if known.promises.len() >= PROMISES_LEN_MAX && !known.promises.contains_key(&node) {
            return Ok(());
        }
        let promise = known.promises.entry(node).or_default();
        let before = *promise;
        if request.term > promise.term {
            (promise.term, promise.matched) = (request.term, 0);
        }
        if request.term == promise.term {
            promise.matched = promise.matched.max(matched);
        }
        promise.committed = promise.committed.max(matched.min(request.committed));
        known.changed |= before != known.promises[&node];
        Ok(())
    }

    fn contradicted(&self, node: NodeId, request: &Append) -> Result<(), StoreError> {
        let promise = self.of(node);
        let held = if promise.term == request.term {
            promise.matched.max(promise.committed)
        } else {
            promise.committed
        };
        match request.before {
            Some(before) if before <= held => Err(StoreError::Conflict(format!(
                "node {node} no longer holds entry {before}, and had acknowledged up to {held}: its folder is an older copy; let it \
                 leave, and join with an empty folder under a new id"
            ))),
            _ => Ok(()),
        }
    }

    /// Forgets whoever is not among these: an id is never given twice.
    pub fn keep_only(&self, members: impl Fn(NodeId) -> bool) {
        let mut known = self.lock();
        let before = known.promises.len();
        known.promises.retain(|node, _| members(*node));
        known.changed |= known.promises.len() != before;
    }

    /// Writes what has changed. Blocks for as long as a small file takes.
    pub fn write(&self) -> Result<(), StoreError> {
        let text: String = {
            let mut known = self.lock();
            if !std::mem::take(&mut known.changed) {
                return Ok(());
            }
            let line = |(node, promise): (&NodeId, &Promise)| {
                let Promise { term, matched, committed } = promise;
                format!("{node} {term} {matched} {committed}\n")
            };
            known.promises.iter().map(line).collect()
        };
        let tmp = self.path.with_extension(TMP);
        fs::write(&tmp, text)
            .and_then(|()| fs::rename(&tmp, &self.path))
            .map_err(|e| StoreError::io("write", &self.path, e))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an append asks for, as far as promises go.
#[derive(Debug, Clone, Copy)]
pub struct Append {
    term: u64,
    before: Option<u64>,
    last: Option<u64>,
    committed: u64,
}

impl Append {
    /// Of a request.
    pub fn of(request: &AppendEntriesRequest<Types>) -> Self {
        let index = |id: &Option<LogId>| id.as_ref().map(|id| id.index);
        let before = index(&request.prev_log_id);
        Self {
            term: request.vote.leader_id.term,
            before,
            last: request.entries.last().map(|entry| entry.log_id.index).or(before),
            committed: index(&request.leader_commit).unwrap_or(0),
        }
    }
}

/// Whether a node that holds this vote and log can be the one that promised so much. A log may lose entries that were never
/// committed, once a later leader says so; it never loses others.
pub fn kept(promise: Promise, term: u64, last_log: u64) -> bool {
    let same_leader = term == promise.term;
    term >= promise.term && last_log >= promise.committed && !(same_leader && last_log < promise.matched)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(term: u64, before: Option<u64>, last: Option<u64>, committed: u64) -> Append {
        Append { term, before, last, committed }
    }

    #[test]
    fn what_was_acknowledged_is_remembered_and_must_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (path, node) = (dir.path().join("promises"), NodeId(3));
        let promises = Promises::open(&path).unwrap();
        assert_eq!(promises.of(node), Promise::default());
        promises.answered(node, &append(2, Some(9), Some(12), 10), &AppendEntriesResponse::Success).unwrap();
        promises.answered(node, &append(2, Some(5), None, 20), &AppendEntriesResponse::Success).unwrap();
        let promise = Promise { term: 2, matched: 12, committed: 10 };
        assert_eq!(promises.of(node), promise);
        promises.write().unwrap();
        assert_eq!(Promises::open(&path).unwrap().of(node), promise, "the next life knows it, too");

        // In the same term nothing is lost; in a later one, what was not committed may be.
        let conflict = AppendEntriesResponse::Conflict;
        promises.answered(node, &append(2, Some(13), None, 10), &conflict).unwrap();
        assert!(promises.answered(node, &append(2, Some(12), None, 10), &conflict).is_err());
        promises.answered(node, &append(3, Some(12), None, 10), &conflict).unwrap();
        assert!(promises.answered(node, &append(3, Some(10), None, 10), &conflict).is_err());

        assert!(kept(promise, 2, 12) && kept(promise, 3, 10) && kept(promise, 9, 40));
        assert!(!kept(promise, 2, 11) && !kept(promise, 3, 9) && !kept(promise, 1, 40));
        promises.keep_only(|node| node != NodeId(3));
        assert_eq!(promises.of(node), Promise::default());
    }

    #[test]
    fn a_file_that_was_cut_off_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("promises");
        fs::write(&path, "1 2 3 4\n2 7 8\nnonsense\n").unwrap();
        let promises = Promises::open(&path).unwrap();
        assert_eq!(promises.of(NodeId(1)), Promise { term: 2, matched: 3, committed: 4 });
        assert_eq!(promises.of(NodeId(2)), Promise::default());
    }
}
