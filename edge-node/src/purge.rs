//! Purges of the content cache: through Raft to all nodes, and acknowledged when none of them serves what was purged any more.

use std::sync::Arc;
use std::time::Duration;

use edge_cache::Cache;
use edge_cache::ledger::{Known, Ledger};
use edge_store::Store;
use proto::command::{Command, Effect};
use proto::control::{ContentPurged, PurgeContent};
use proto::purge::{PURGE_KEYS_MAX, PurgeKey};
use proto::{Code, ErrorReply};
use tokio::time::Instant;

/// A node that has not heard from its PoP's majority for so long cannot know of all purges, and asks the origin before it serves what it
/// has. So it is also how long a purge waits for a node that says nothing.
const CERTAIN_FOR: Duration = Duration::from_secs(2);
/// How long writing a purge may take.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// What the replicated store knows of purges.
struct StoreLedger(Store);

impl Ledger for StoreLedger {
    fn known(&self) -> Known {
        // The age first: what is read after it is at least as new.
        let certain = self.0.age().is_some_and(|age| age < CERTAIN_FOR);
        let (upto, purges) = self.0.purges();
        Known { purges, upto, certain }
    }
}

/// Purges.
#[derive(Clone)]
pub struct Purger {
    /// The replicated truth.
    pub store: Store,
    /// What knows what URLs mean.
    pub cache: Cache,
}

impl Purger {
    /// Declares content void. When this returns, no node of the PoP serves it any more.
    ///
    /// # Errors
    /// Where it names nothing, too much, or no origin of this PoP, and where it cannot be written.
    pub async fn purge(&self, asked: &PurgeContent) -> Result<ContentPurged, ErrorReply> {
        let invalid = |message: String| ErrorReply::new(Code::Invalid, message);
        let len = asked.urls.len() + asked.tags.len();
        if len == 0 && !asked.all {
            return Err(invalid("name `urls` or `tags`, or say `all`".to_owned()));
        }
        if len > PURGE_KEYS_MAX {
            return Err(ErrorReply::new(
                Code::TooLarge,
                format!("{len} urls and tags, {PURGE_KEYS_MAX} are the most at once"),
            ));
        }
        let resource = |url: &String| {
            self.cache
                .resource(url)
                .ok_or_else(|| invalid(format!("{url:?} is of no origin here (cache.origins)")))
        };
        let mut keys = asked.urls.iter().map(resource).collect::<Result<Vec<_>, _>>()?;
        keys.extend(asked.tags.iter().map(|tag| PurgeKey::of_tag(tag)));
        let command = Command::Purge { keys, all: asked.all };
        let proposed = self.store.propose(command, Instant::now() + WRITE_WITHIN).await?;
        if let Effect::Refused(reply) = proposed.effect {
            return Err(reply);
        }
        let unheard = self.store.everyone_applied(proposed.index, CERTAIN_FOR).await;
        Ok(ContentPurged { index: proposed.index, unheard })
    }
}

/// The ledger of a store.
pub fn ledger(store: &Store) -> Arc<dyn Ledger> {
    Arc::new(StoreLedger(store.clone()))
}
