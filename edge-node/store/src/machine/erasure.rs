//! Erasures: what is known of a visitor goes, and how far the cloud's list of erasures is carried out.

use proto::VisitorId;
use proto::command::Effect;
use serde::{Deserialize, Serialize};

use super::{Base, MachineError, State, profile};

/// Number of the last of the cloud's erasures that was carried out; 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Erasures(pub u64);

/// A visitor who is unknown here gets an empty profile that says so: events of before may be on their way.
pub(super) fn erase<B: Base>(
    state: &mut State<B>,
    visitor: &VisitorId,
    at_ms: u64,
    number: u64,
) -> Result<Effect, MachineError> {
    profile::change(state, visitor, |profile| profile.erase(at_ms))?;
    state.heads.erasures.0 = state.heads.erasures.0.max(number);
    Ok(Effect::Done)
}
