//! The outbox: committed events that the cloud has not acknowledged, by offset, without holes.

use std::sync::Arc;

use proto::command::Effect;
use proto::{Code, ErrorReply, Event, Offset};
use serde::{Deserialize, Serialize};

use super::{Base, State};

/// Most events that wait for the cloud. The same on every node and in every configuration, so that every replica refuses
/// the same command; a node's own limit refuses before anything is proposed.
pub const OUTBOX_LEN_MAX: u64 = 4_000_000;

/// First and last of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Offsets {
    /// Offset of the last event ever put in; 0: none.
    pub last: u64,
    /// The cloud holds every event up to here.
    pub acknowledged: u64,
}

impl Offsets {
    /// Events that wait for the cloud.
    pub fn len(&self) -> u64 {
        self.last - self.acknowledged
    }

    /// Whether the cloud holds all of them.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Puts an event in at the next offset.
pub(super) fn push<B: Base>(state: &mut State<B>, event: Event) {
    state.heads.offsets.last += 1;
    state.writes.events.insert(state.heads.offsets.last, Arc::new(event));
}

/// Forgets events that the cloud holds. An older acknowledgement than the last changes nothing.
pub(super) fn acknowledge<B: Base>(state: &mut State<B>, upto: Offset) -> Effect {
    let offsets = &mut state.heads.offsets;
    if upto.0 > offsets.last {
        let message = format!("offset {upto} is acknowledged, the last is {}", offsets.last);
        return Effect::Refused(ErrorReply::new(Code::OutOfOrder, message));
    }
    offsets.acknowledged = offsets.acknowledged.max(upto.0);
    let acknowledged = offsets.acknowledged;
    state.writes.forget_events(acknowledged);
    Effect::Done
}
