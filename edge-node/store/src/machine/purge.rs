//! What of the content cache was declared void: every node of the PoP has it, and looks before it serves.

use std::sync::Arc;

use proto::command::Effect;
use proto::purge::{PURGE_KEYS_MAX, PurgeKey};
use proto::{Code, ErrorReply};

use super::{Base, State};

pub(super) fn purge<B: Base>(state: &mut State<B>, keys: &[PurgeKey], all: bool) -> Effect {
    if keys.len() > PURGE_KEYS_MAX {
        let message = format!("{} things to purge, {PURGE_KEYS_MAX} are the most", keys.len());
        return Effect::Refused(ErrorReply::new(Code::TooLarge, message));
    }
    // The log has no holes: the entry that holds this command comes right after the last one that is applied.
    let now = state.heads.applied.map_or(0, |at| at.index) + 1;
    let purges = Arc::make_mut(&mut state.heads.purges);
    for key in keys {
        purges.purge(*key, now);
    }
    if all {
        purges.purge_all(now);
    }
    Effect::Done
}
