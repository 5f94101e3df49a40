//! What a cloud that was restored from a backup has lost of a PoP, and giving that up.

use serde::{Deserialize, Serialize};

use crate::ids::{Offset, PopId, Revision};

/// What a PoP has, and this cloud has lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// This cloud holds the PoP's events up to here …
    pub upto: Offset,
    /// … but had acknowledged them up to here: those between are nowhere any more. Not above `upto`: none is lost.
    pub acknowledged: Offset,
    /// The bundle that is active in the PoP, if this cloud never published it.
    pub bundle: Option<Revision>,
}

impl Ahead {
    /// How many events are lost.
    pub fn events(&self) -> u64 {
        self.acknowledged.0.saturating_sub(self.upto.0)
    }
}

impl std::fmt::Display for Ahead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (events, bundle) = (self.events(), self.bundle);
        if events > 0 {
            let first = self.upto.0 + 1;
            write!(
                f,
                "{events} events are lost, offsets {first} to {}: no more are sent until that is accepted",
                self.acknowledged
            )?;
        }
        if let Some(bundle) = bundle {
            let also = if events > 0 { "; " } else { "" };
            write!(f, "{also}it serves bundle {bundle}, which is not known here")?;
        }
        Ok(())
    }
}

/// Gives up what a cloud that was restored has lost of a PoP, so that the PoP goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptLoss {
    /// What is given up, as [`PopView::ahead`] said it: if it is more by now, nothing is done.
    pub ahead: Ahead,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
}

/// What was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossAccepted {
    /// Of which PoP.
    pub pop: PopId,
    /// Events.
    pub events: u64,
    /// Offset of the first, if any are lost.
    pub first: Option<Offset>,
    /// Offset of the last, if any are lost.
    pub last: Option<Offset>,
    /// The bundle that takes the place of one that is not known here, if there was one.
    pub published: Option<Revision>,
}
