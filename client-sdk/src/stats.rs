//! Numbers of one client, for an app's own metrics.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::ErrorReply;

/// What a client has done since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that were answered.
    pub answers: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Requests that asked more than one node.
    pub failovers: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Events that were put into the queue.
    pub tracked: u64,
    /// Events that were acknowledged and counted by it.
    pub accepted: u64,
    /// Events that were acknowledged and had been counted before.
    pub duplicates: u64,
    /// Batches that were sent again.
    pub resent_batches: u64,
    /// Events that were put aside.
    pub dead_letters: u64,
    /// Why events are waiting, if a node refused the last batch.
    pub refusal: Option<ErrorReply>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) answers: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) failovers: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) tracked: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) resent_batches: AtomicU64,
    pub(crate) dead_letters: AtomicU64,
    refusal: Mutex<Option<ErrorReply>>,
}

impl Counters {
    pub(crate) fn refused(&self, reply: Option<ErrorReply>) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = reply;
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            answers: read(&self.answers),
            failures: read(&self.failures),
            failovers: read(&self.failovers),
            connections: read(&self.connections),
            tracked: read(&self.tracked),
            accepted: read(&self.accepted),
            duplicates: read(&self.duplicates),
            resent_batches: read(&self.resent_batches),
            dead_letters: read(&self.dead_letters),
            refusal: self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// Counts without ordering anything else.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
