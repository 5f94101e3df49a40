//! The active manifest and the one before.

use std::sync::Arc;

use proto::bundle::{Manifest, SignedManifest};
use proto::command::Effect;
use proto::{Code, ErrorReply, Revision, codec};
use serde::{Deserialize, Serialize};

use super::{Base, State};

/// The bundles a PoP knows. Signatures were checked before they were proposed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bundles {
    /// Number of the active one; 0: none. It only grows.
    pub revision: Revision,
    /// What is served.
    pub active: Option<SignedManifest>,
    /// What was served before: the last known good.
    pub previous: Option<SignedManifest>,
}

pub(super) fn activate<B: Base>(state: &mut State<B>, manifest: SignedManifest) -> Effect {
    let revision = match codec::decode::<Manifest>(&manifest.manifest) {
        Ok(decoded) => decoded.revision,
        Err(error) => return Effect::Refused(ErrorReply::from(error)),
    };
    let active = state.heads.bundles.revision;
    if revision <= active {
        let message = format!("revision {revision} is not newer than {active}, which is active");
        return Effect::Refused(ErrorReply::new(Code::Conflict, message));
    }
    let bundles = Arc::make_mut(&mut state.heads.bundles);
    bundles.revision = revision;
    bundles.previous = bundles.active.replace(manifest);
    Effect::Activated { revision }
}
