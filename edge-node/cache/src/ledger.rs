//! What of the stored was declared void, as far as this node knows.

use std::sync::Arc;

use proto::purge::{Moment, Purges};

/// What is known at a moment.
#[derive(Debug, Clone)]
pub struct Known {
    /// The purges.
    pub purges: Arc<Purges>,
    /// Up to when they are known.
    pub upto: Moment,
    /// Whether this node can be sure that there are no others that somebody was told of: false while it is cut off from its PoP.
    pub certain: bool,
}

/// Who knows it: the replicated store.
pub trait Ledger: Send + Sync {
    /// What is known now.
    fn known(&self) -> Known;
}
