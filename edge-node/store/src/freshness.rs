//! How old a local read may be.
//!
//! A node asks the leader for a read index a few times a second (ReadIndex; Ongaro 2014, 6.4). Once it has applied that index,
//! its state holds all that was acknowledged before it asked. That holds on one clock, the node's own, through pauses, late
//! messages and deposed leaders; a heartbeat, or a time in the log, would not do.

use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::inner::Inner;
use crate::planted;

/// How many heartbeats pass from one question to the next: some 250 ms by default.
const HEARTBEATS: u32 = 3;
/// How long an answer is waited for.
const WITHIN: Duration = Duration::from_secs(2);

/// A node that no leader has answered for so long asks whether it is still a member.
const UNHEARD_FOR: Duration = Duration::from_secs(5);

/// Since when the state is known to be whole.
#[derive(Debug, Default)]
pub struct Freshness {
    whole_at: RwLock<Option<Instant>>,
}

impl Freshness {
    /// What was acknowledged longer ago than this is in every read that begins after this returned. None: since this node
    /// started, no leader has answered.
    pub fn age(&self) -> Option<Duration> {
        if planted::on("stale_read_called_fresh") {
            return Some(Duration::ZERO);
        }
        let whole_at = *self.whole_at.read().unwrap_or_else(PoisonError::into_inner);
        whole_at.map(|at| at.elapsed())
    }

    fn whole_at(&self, at: Instant) {
        *self.whole_at.write().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }
}

/// Asks until the store is stopped or gone.
pub async fn follow(inner: Weak<Inner>, heartbeat: Duration, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let Some(inner) = inner.upgrade() else { return };
        tokio::select! {
            () = stop.cancelled() => return,
            () = ask(&inner) => {}
        }
        // A node that was removed hears nothing more, that neither.
        if inner.freshness.age().is_none_or(|age| age > UNHEARD_FOR) {
            tokio::select! {
                () = stop.cancelled() => return,
                () = inner.ask_whether_removed() => {}
            }
        }
        drop(inner);
        sleep(heartbeat * HEARTBEATS).await;
    }
}

async fn ask(inner: &Arc<Inner>) {
    let asked_at = Instant::now();
    let Ok(index) = inner.read_index(asked_at + WITHIN).await else { return };
    if inner.wait_applied(index, WITHIN).await {
        inner.freshness.whole_at(asked_at);
    }
}
