//! The language of the replicated state machine: what Raft commits, and what applying it says back.

use serde::{Deserialize, Serialize};

use crate::bundle::SignedManifest;
use crate::error::ErrorReply;
use crate::event::Event;
use crate::ids::{ItemId, Offset, Revision, VisitorId};
use crate::purge::PurgeKey;

/// One change of a PoP's state. Many share one Raft entry (group commit).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Count these events, each once, and put them in the outbox.
    Track {
        /// At most [`crate::limits::TRACK_EVENTS_MAX`].
        events: Vec<Event>,
        /// The proposing node's clock, milliseconds since 1970 UTC: applying never reads a clock.
        received_at_ms: u64,
    },
    /// Note what an answer offered.
    Served {
        /// To whom.
        visitor: VisitorId,
        /// What, best first.
        items: Vec<ItemId>,
        /// When, by the serving node's clock.
        at_ms: u64,
    },
    /// Make a bundle the active one. Refused unless its revision is newer than the active one's.
    Activate {
        /// The manifest, as the cloud signed it.
        manifest: SignedManifest,
    },
    /// The cloud holds every event up to and including this offset: the outbox may forget them.
    Acknowledge {
        /// The last durable offset.
        upto: Offset,
    },
    /// Declare stored responses of the content cache void.
    Purge {
        /// Those that are known by any of these; at most [`crate::purge::PURGE_KEYS_MAX`].
        keys: Vec<PurgeKey>,
        /// Or all.
        all: bool,
    },
    /// Forget a visitor: what happened up to then, also what arrives later. Every node must know this command before the
    /// first one is proposed.
    Erase {
        /// Who.
        visitor: VisitorId,
        /// Until when, milliseconds since 1970 UTC.
        at_ms: u64,
        /// The erasure's number in the cloud.
        number: u64,
    },
}

/// What applying one [`Command`] did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// Events counted, and events that had been counted before.
    Tracked {
        /// Counted now.
        accepted: u32,
        /// Known already.
        duplicates: u32,
    },
    /// Done, with nothing to say.
    Done,
    /// The bundle is active.
    Activated {
        /// Its number.
        revision: Revision,
    },
    /// Nothing was changed.
    Refused(ErrorReply),
}
