//! The store as the uplink sees it. Siblings do not know each other: they meet here.

use std::time::Duration;

use async_trait::async_trait;
use edge_store::{Applied, Store};
use edge_uplink::Commits;
use edge_uplink::batcher::Outbox;
use proto::command::Command;
use proto::{ErrorReply, Event, Offset};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long writing back an offset, or catching up as a new leader, may take.
const WITHIN: Duration = Duration::from_secs(5);
/// When a new leader that could not catch up tries again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The store as the uplink sees it.
pub struct StoreCommits {
    store: Store,
    outbox: watch::Receiver<Outbox>,
}

impl StoreCommits {
    /// Follows the store until shutdown.
    pub fn follow(store: Store, shutdown: CancellationToken) -> Self {
        let mut applied = store.changes();
        let narrow =
            |applied: &Applied| Outbox { acknowledged: applied.acknowledged, last: applied.last_offset };
        let (sender, outbox) = watch::channel(narrow(&applied.borrow()));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    changed = applied.changed() => if changed.is_err() { return },
                }
                let now = narrow(&applied.borrow_and_update());
                sender.send_if_modified(|known| std::mem::replace(known, now) != now);
            }
        });
        Self { store, outbox }
    }
}

#[async_trait]
impl Commits for StoreCommits {
    fn outbox(&self) -> watch::Receiver<Outbox> {
        self.outbox.clone()
    }

    async fn events(
        &self,
        after: Offset,
        len_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Event>, ErrorReply> {
        let events = self.store.outbox(after, len_max, bytes_max).await?;
        Ok(events.into_iter().map(|(_, event)| event).collect())
    }

    async fn acknowledge(&self, upto: Offset) -> Result<(), ErrorReply> {
        self.store.propose(Command::Acknowledge { upto }, Instant::now() + WITHIN).await?;
        Ok(())
    }
}

/// True while this node leads and has applied all that was committed before it led: only then does its outbox hold all
/// that the cloud may have been sent.
pub fn caught_up_leader(store: Store, shutdown: CancellationToken) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let mut leadership = store.leadership();
        loop {
            let is_leader = leadership.borrow_and_update().is_leader;
            let leads = is_leader && catch_up(&store).await;
            sender.send_if_modified(|known| std::mem::replace(known, leads) != leads);
            let pause = if is_leader && !leads { RETRY_AFTER } else { Duration::MAX };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                changed = leadership.changed() => if changed.is_err() {
                    // Raft has ended, and leads nobody.
                    sender.send_replace(false);
                    return;
                },
            }
        }
    });
    receiver
}

async fn catch_up(store: &Store) -> bool {
    match store.read_index(Instant::now() + WITHIN).await {
        Ok(index) => store.wait_applied(index, WITHIN).await,
        Err(_) => false,
    }
}
