//! Who waits until an index is applied. A reader is woken when its own index comes, not at every change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Most that wait at once; one more is told at once that it was in vain.
const WAITERS_MAX: usize = 16_384;

/// Readers by the index they wait for.
#[derive(Debug, Default)]
pub struct Waiters {
    waiting: Mutex<BTreeMap<(u64, u64), oneshot::Sender<()>>>,
    tickets: AtomicU64,
}

impl Waiters {
    /// Waits until `index` is applied; false where too many wait. `applied` tells what is applied now.
    pub async fn wait(&self, index: u64, applied: impl Fn() -> u64) -> bool {
        let (wake, woken) = oneshot::channel();
        let Some(_ticket) = self.enter(index, wake) else { return false };
        // Asked after entering: what is applied from now on wakes.
        if applied() >= index {
            return true;
        }
        woken.await.is_ok()
    }

    /// Wakes all that wait for `index` or less.
    pub fn applied(&self, index: u64) {
        let mut waiting = self.lock();
        while let Some(first) = waiting.first_entry() {
            if first.key().0 > index {
                break;
            }
            // A receiver that is gone does not mind.
            let _ = first.remove().send(());
        }
    }

    fn enter(&self, index: u64, wake: oneshot::Sender<()>) -> Option<Ticket<'_>> {
        let key = (index, self.tickets.fetch_add(1, Ordering::Relaxed));
        let mut waiting = self.lock();
        if waiting.len() >= WAITERS_MAX {
            return None;
        }
        waiting.insert(key, wake);
        Some(Ticket { waiters: self, key })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u64, u64), oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue; given up when dropped, so that one who waits for an index that never comes leaves nothing.
struct Ticket<'a> {
    waiters: &'a Waiters,
    key: (u64, u64),
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.waiters.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn each_is_woken_by_its_own_index() {
        let waiters = Arc::new(Waiters::default());
        let applied = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for index in 1..=3 {
            let (waiters, applied) = (Arc::clone(&waiters), Arc::clone(&applied));
            tasks.push(tokio::spawn(
                async move { waiters.wait(index, || applied.load(Ordering::SeqCst)).await },
            ));
        }
        while waiters.lock().len() < 3 {
            tokio::task::yield_now().await;
        }
        applied.store(2, Ordering::SeqCst);
        waiters.applied(2);
        let third = tasks.pop().unwrap();
        for task in tasks {
            assert!(task.await.unwrap());
        }
        assert!(!third.is_finished());
        assert_eq!(waiters.lock().len(), 1);
        third.abort();
        assert!(third.await.is_err());
        assert_eq!(waiters.lock().len(), 0, "one who gives up leaves nothing");
    }

    #[tokio::test]
    async fn what_is_applied_already_needs_no_waiting() {
        assert!(Waiters::default().wait(5, || 5).await);
    }
}
