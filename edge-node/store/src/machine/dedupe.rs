//! Event ids that were counted, so that none is counted twice.
//!
//! A window, bounded twice: by age ([`WINDOW_MS`], measured by the commands' own `received_at_ms`, never by a clock) and
//! by number ([`IDS_MAX`]). Ids stand in chunks of [`CHUNK_LEN`] in the order they came; whole chunks fall off the front.
//! The set itself is in memory (about 70 MB when full), the chunks are what is stored.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use proto::EventId;
use serde::{Deserialize, Serialize};

use super::{Base, MachineError, State, Writes};
use crate::planted;

/// How long an id is remembered at least, if [`IDS_MAX`] allows.
pub const WINDOW_MS: u64 = 7 * 24 * 3600 * 1000;
/// Ids remembered at most.
pub const IDS_MAX: usize = 1_800_000;
/// Ids in a full chunk.
pub const CHUNK_LEN: usize = 256;

/// Ids that came together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Chunk {
    /// Latest `received_at_ms` seen when the chunk was begun.
    pub begun_at_ms: u64,
    /// At most [`CHUNK_LEN`].
    pub ids: Vec<EventId>,
}

/// Where the window begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DedupeHead {
    /// Number of the oldest chunk.
    pub first: u64,
    /// Number of the chunk that is being filled.
    pub next: u64,
    /// Latest `received_at_ms` seen.
    pub now_ms: u64,
}

/// The window in memory.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ids: HashSet<EventId>,
    /// `begun_at_ms` of each full chunk, oldest first.
    begun: VecDeque<u64>,
    tail: Chunk,
    tail_changed: bool,
}

impl Seen {
    pub(super) fn load<B: Base>(head: &DedupeHead, base: &B) -> Result<Self, MachineError> {
        let mut seen = Seen::default();
        for number in head.first..head.next {
            let chunk = base.chunk(number)?.ok_or(MachineError::Missing("a chunk of the dedupe window"))?;
            seen.ids.extend(chunk.ids.iter().copied());
            seen.begun.push_back(chunk.begun_at_ms);
        }
        if let Some(tail) = base.chunk(head.next)? {
            seen.ids.extend(tail.ids.iter().copied());
            seen.tail = (*tail).clone();
        }
        if planted::on("dedupe_window_forgotten_on_restart") {
            seen.ids.clear();
        }
        Ok(seen)
    }

    /// Puts the chunk that is being filled among the writes, once for many ids.
    pub(super) fn write_tail(&mut self, writes: &mut Writes, number: u64) {
        if std::mem::take(&mut self.tail_changed) {
            writes.chunks.insert(number, Some(Arc::new(self.tail.clone())));
        }
    }
}

/// Moves the window's time on, and forgets what fell out of it.
pub(super) fn advance<B: Base>(state: &mut State<B>, received_at_ms: u64) -> Result<(), MachineError> {
    let now_ms = state.heads.dedupe.now_ms.max(received_at_ms);
    state.heads.dedupe.now_ms = now_ms;
    let oldest_ms = now_ms.saturating_sub(WINDOW_MS);
    while state.seen.begun.front().is_some_and(|begun| *begun < oldest_ms) {
        forget_first(state)?;
    }
    Ok(())
}

/// Remembers an id. False where it was known.
pub(super) fn insert<B: Base>(state: &mut State<B>, id: EventId) -> Result<bool, MachineError> {
    if !state.seen.ids.insert(id) {
        return Ok(false);
    }
    if state.seen.tail.ids.is_empty() {
        state.seen.tail.begun_at_ms = state.heads.dedupe.now_ms;
    }
    state.seen.tail.ids.push(id);
    state.seen.tail_changed = true;
    if state.seen.tail.ids.len() >= CHUNK_LEN {
        close_tail(state);
    }
    while state.seen.ids.len() > IDS_MAX && !state.seen.begun.is_empty() {
        forget_first(state)?;
    }
    Ok(true)
}

fn close_tail<B: Base>(state: &mut State<B>) {
    let full = std::mem::take(&mut state.seen.tail);
    state.seen.tail_changed = false;
    state.seen.begun.push_back(full.begun_at_ms);
    state.writes.chunks.insert(state.heads.dedupe.next, Some(Arc::new(full)));
    state.heads.dedupe.next += 1;
}

fn forget_first<B: Base>(state: &mut State<B>) -> Result<(), MachineError> {
    let number = state.heads.dedupe.first;
    let chunk = match state.writes.chunks.get(&number) {
        Some(written) => written.clone(),
        None => state.base.chunk(number)?,
    };
    let chunk = chunk.ok_or(MachineError::Missing("the oldest chunk of the dedupe window"))?;
    for id in &chunk.ids {
        state.seen.ids.remove(id);
    }
    state.writes.chunks.insert(number, None);
    state.seen.begun.pop_front();
    state.heads.dedupe.first += 1;
    Ok(())
}
