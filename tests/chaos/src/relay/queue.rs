//! What waits for its time, within limits.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use tokio::time::Instant;

use super::faults::{Counts, Kind};
use super::lane::Delivery;

/// Datagrams that wait in one direction.
pub const QUEUE_LEN_MAX: usize = 8_192;
/// Their bytes.
pub const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Ordered by time; equal times by number.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: BinaryHeap<Reverse<Waiting<T>>>,
    bytes: usize,
    /// The greatest number that left.
    greatest: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    due: Instant,
    number: u64,
    is_copy: bool,
    late: Vec<Kind>,
    to: T,
    bytes: Vec<u8>,
}

impl<T> Waiting<T> {
    fn key(&self) -> (Instant, u64, bool) {
        (self.due, self.number, self.is_copy)
    }
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Waiting<T> {}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T: Clone> Queue<T> {
    /// Empty.
    pub fn new() -> Self {
        Self { waiting: BinaryHeap::new(), bytes: 0, greatest: 0 }
    }

    /// Lets bytes wait for their time. What finds no place is dropped and counted.
    pub fn push(&mut self, delivery: Delivery, to: T, bytes: &[u8], counts: &Counts) {
        let Delivery { due, copy, number, late } = delivery;
        let times = [Some((due, false, late)), copy.map(|at| (at, true, Vec::new()))];
        for (due, is_copy, late) in times.into_iter().flatten() {
            if self.waiting.len() >= QUEUE_LEN_MAX || self.bytes + bytes.len() > QUEUE_BYTES_MAX {
                counts.overflow();
                continue;
            }
            self.bytes += bytes.len();
            let waiting = Waiting { due, number, is_copy, late, to: to.clone(), bytes: bytes.to_vec() };
            self.waiting.push(Reverse(waiting));
        }
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(waiting)| waiting.due)
    }

    /// Waits until the next one is due; for ever, if there is none. Cancel safe.
    pub async fn due(&self) {
        match self.next() {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// The next one that is due at `now`. What was done to it counts from here: it arrives.
    pub fn pop(&mut self, now: Instant, counts: &Counts) -> Option<(T, Vec<u8>)> {
        if self.next().is_none_or(|due| due > now) {
            return None;
        }
        let Reverse(waiting) = self.waiting.pop()?;
        self.bytes -= waiting.bytes.len();
        counts.pass();
        waiting.late.iter().for_each(|kind| counts.add(*kind));
        if waiting.is_copy {
            counts.add(Kind::Duplicate);
        } else if waiting.number < self.greatest {
            counts.add(Kind::Reorder);
        }
        self.greatest = self.greatest.max(waiting.number);
        Some((waiting.to, waiting.bytes))
    }
}
