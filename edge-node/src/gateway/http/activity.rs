//! Whether a connection is used: one that nobody asks anything on takes a place that another could have.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Error;
use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// How long after its beginning something must be asked.
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// Requests of one connection that are not answered yet. Whoever waits for silence is not woken by every request: it looks again when it
/// may have come.
#[derive(Debug)]
pub(super) struct Activity {
    begun: Instant,
    /// How long it may be silent between an answer and the next request, which then has come in full.
    silent_max: Duration,
    busy: AtomicUsize,
    /// When the last request was answered, in milliseconds since the beginning; 0: none was.
    answered_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new(silent_max: Duration) -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            silent_max,
            busy: AtomicUsize::new(0),
            answered_ms: AtomicU64::new(0),
        })
    }

    /// A request came; it is answered when this is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(self))
    }

    /// Waits until it has been unused for too long.
    pub(super) async fn unused(&self) {
        loop {
            let now = Instant::now();
            let until = match (self.busy.load(Ordering::Acquire), self.answered_ms.load(Ordering::Acquire)) {
                (0, 0) => self.begun + FIRST_WITHIN,
                (0, answered_ms) => self.begun + Duration::from_millis(answered_ms) + self.silent_max,
                _ => now + self.silent_max,
            };
            if now >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Busy {
    /// It is answered when its body was sent.
    pub(super) fn until_sent(self, body: Body) -> Sending {
        Sending { body, _busy: self }
    }
}

/// A body that is being sent.
#[derive(Debug)]
pub(super) struct Sending {
    body: Body,
    _busy: Busy,
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let now_ms = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.answered_ms.store(now_ms.max(1), Ordering::Release);
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT_MAX: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_given_up_when_nobody_asks() {
        let (activity, begun) = (Activity::new(SILENT_MAX), Instant::now());
        activity.unused().await;
        assert_eq!(begun.elapsed(), FIRST_WITHIN);
        let used = Activity::new(SILENT_MAX);
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
        // What is being sent is, too.
        let sending = busy.until_sent(Body::from("content"));
        tokio::time::sleep(SILENT_MAX * 3).await;
        assert!(!watched.is_finished(), "so is what is being sent");
        drop(sending);
        watched.await.unwrap();
        assert_eq!(begun.elapsed(), FIRST_WITHIN / 2 + SILENT_MAX * 7);
    }
}
