//! The queue without a folder: events wait in memory and are gone with the process.

use std::collections::VecDeque;

use super::Queued;
use crate::session::BatchRoom;

/// Events in the order they were tracked.
#[derive(Debug, Default)]
pub(super) struct Memory {
    events: VecDeque<Queued>,
    bytes: u64,
    last: u64,
    acknowledged: u64,
}

impl Memory {
    /// Adds events.
    pub(super) fn append(&mut self, events: Vec<Queued>) {
        for event in events {
            self.bytes += event.bytes as u64;
            self.last = event.seq;
            self.events.push_back(event);
        }
    }

    /// The next events, as many as fit.
    pub(super) fn read(&self, count_max: usize, bytes_max: usize) -> Vec<Queued> {
        let mut room = BatchRoom::new(count_max, bytes_max);
        self.events.iter().take_while(|event| room.admit(event.bytes)).cloned().collect()
    }

    /// Forgets everything up to `seq`.
    pub(super) fn acknowledge(&mut self, seq: u64) {
        while let Some(event) = self.events.pop_front_if(|event| event.seq <= seq) {
            self.bytes -= event.bytes as u64;
            self.acknowledged = event.seq;
        }
        if self.events.is_empty() {
            // Thousands of clients may share a process: an idle one keeps no memory.
            self.events = VecDeque::new();
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn pending(&self) -> u64 {
        self.events.len() as u64
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }
}
