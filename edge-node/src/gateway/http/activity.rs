//! Whether a connection is used: one that nobody asks anything on takes a place that another could have.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How long after its beginning something must be asked.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// How long it may be silent between an answer and the next request.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// Requests of one connection that are not answered yet.
#[derive(Debug)]
pub(super) struct Activity(watch::Sender<usize>);

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(0)))
    }

    /// A request came; it is answered when this is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.0.send_modify(|busy| *busy += 1);
        Busy(Arc::clone(self))
    }

    /// Waits until it has been unused for too long.
    pub(super) async fn unused(&self) {
        let mut busy = self.0.subscribe();
        let mut patience = FIRST_WITHIN;
        loop {
            let unused = *busy.borrow_and_update() == 0;
            tokio::select! {
                _ = busy.changed() => patience = SILENT_MAX,
                () = tokio::time::sleep(patience), if unused => return,
            }
        }
    }
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.send_modify(|busy| *busy -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_given_up_when_nobody_asks() {
        let (activity, begun) = (Activity::new(), Instant::now());
        activity.unused().await;
        assert_eq!(begun.elapsed(), FIRST_WITHIN);
        let used = Activity::new();
        let (watched, begun) = (
            tokio::spawn({
                let used = used.clone();
                async move { used.unused().await }
            }),
            Instant::now(),
        );
        tokio::time::sleep(FIRST_WITHIN / 2).await;
        let busy = used.begin();
        tokio::time::sleep(SILENT_MAX * 3).await;
        assert!(!watched.is_finished(), "what is being answered is used");
        drop(busy);
        watched.await.unwrap();
        assert_eq!(begun.elapsed(), FIRST_WITHIN / 2 + SILENT_MAX * 4);
    }
}
