//! Profiles: what a PoP knows of a visitor.

use std::sync::Arc;

use proto::VisitorId;
use proto::profile::Profile;

use super::{Base, MachineError, State};

/// Changes a visitor's profile; an unknown visitor gets one.
pub(super) fn change<B: Base>(
    state: &mut State<B>,
    visitor: &VisitorId,
    change: impl FnOnce(&mut Profile),
) -> Result<(), MachineError> {
    if let Some(profile) = state.writes.profiles.get_mut(visitor) {
        change(Arc::make_mut(profile));
        return Ok(());
    }
    let mut profile = state.base.profile(visitor)?.unwrap_or_default();
    change(Arc::make_mut(&mut profile));
    state.writes.profiles.insert(visitor.clone(), profile);
    Ok(())
}
