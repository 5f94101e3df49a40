//! Whether a connection is used: one that nobody asks anything on takes a place that another could have.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Error;
use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// How long after its beginning something must be asked.
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// How long nothing may move while a request is answered: longer than any answer takes to begin, and than an origin may pause.
const STALLED_MAX: Duration = Duration::from_secs(60);

/// Requests of one connection that are not answered yet. Whoever waits for silence is not woken by every request: it looks again when it
/// may have come.
#[derive(Debug)]
pub(super) struct Activity {
    begun: Instant,
    busy: AtomicUsize,
    /// Of those, what may be silent for as long as it likes.
    lasting: AtomicUsize,
    /// When a request last came, or a part of an answer last went, in milliseconds since the beginning; 0: never.
    moved_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            busy: AtomicUsize::new(0),
            lasting: AtomicUsize::new(0),
            moved_ms: AtomicU64::new(0),
        })
    }

    /// A request came; it is answered when this is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        self.moved();
        Busy(Arc::clone(self))
    }

    /// A session began; it ends when this is dropped.
    pub(super) fn begin_lasting(self: &Arc<Self>) -> Lasting {
        self.lasting.fetch_add(1, Ordering::AcqRel);
        Lasting(self.begin())
    }

    fn moved(&self) {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(now_ms.max(1), Ordering::Release);
    }

    /// Whether there ever was a request.
    pub(super) fn asked(&self) -> bool {
        self.moved_ms.load(Ordering::Acquire) > 0
    }

    /// For how long nothing has moved; none if it is used: something is being answered, and moved less than `stalled` ago.
    pub(super) fn unused_for(&self, stalled: Duration) -> Option<Duration> {
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Acquire));
        let unused_for = self.begun.elapsed().saturating_sub(moved);
        let used = self.lasting.load(Ordering::Acquire) > 0
            || self.busy.load(Ordering::Acquire) > 0 && unused_for < stalled;
        (!used).then_some(unused_for)
    }

    /// Waits until it has been unused for too long: silent for longer than `silent_max` between an answer and the head of the next
    /// request, say.
    pub(super) async fn unused(&self, silent_max: Duration) {
        loop {
            let until = match (self.busy.load(Ordering::Acquire), self.moved_ms.load(Ordering::Acquire)) {
                (0, 0) => self.begun + FIRST_WITHIN,
                (0, moved_ms) => self.begun + Duration::from_millis(moved_ms) + silent_max,
                _ if self.lasting.load(Ordering::Acquire) > 0 => Instant::now() + STALLED_MAX,
                (_, moved_ms) => self.begun + Duration::from_millis(moved_ms) + STALLED_MAX,
            };
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// A session that has not ended.
#[derive(Debug)]
pub(super) struct Lasting(Busy);

impl Drop for Lasting {
    fn drop(&mut self) {
        // First: what has been silent for long is used until now.
        self.0.0.moved();
        self.0.0.lasting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Busy {
    /// It is answered when all of its body was taken to be sent.
    pub(super) fn until_sent(self, body: Body) -> Sending {
        Sending { body, busy: self }
    }
}

/// A body that is being sent.
#[derive(Debug)]
pub(super) struct Sending {
    body: Body,
    busy: Busy,
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.busy.0.moved();
        Poll::Ready(frame)
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
        self.0.moved();
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const SILENT_MAX: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_given_up_when_nobody_asks() {
        let (activity, begun) = (Activity::new(), Instant::now());
        activity.unused(SILENT_MAX).await;
        assert_eq!(begun.elapsed(), FIRST_WITHIN);
        let used = Activity::new();
        let (watched, begun) = (
            tokio::spawn({
                let used = used.clone();
                async move { used.unused(SILENT_MAX).await }
            }),
            Instant::now(),
        );
        tokio::time::sleep(FIRST_WITHIN / 2).await;
        let busy = used.begin();
        tokio::time::sleep(STALLED_MAX / 2).await;
        assert!(!watched.is_finished(), "what is being answered is used");
        // What is being sent is, too, as long as it moves.
        let mut sending = busy.until_sent(Body::from("content"));
        sending.frame().await.unwrap().unwrap();
        tokio::time::sleep(STALLED_MAX - Duration::from_secs(1)).await;
        assert!(!watched.is_finished(), "so is what is being sent");
        drop(sending);
        watched.await.unwrap();
        let used_for = FIRST_WITHIN / 2 + STALLED_MAX / 2 + STALLED_MAX - Duration::from_secs(1);
        assert_eq!(begun.elapsed(), used_for + SILENT_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_an_answer_is_given_up() {
        let (activity, begun) = (Activity::new(), Instant::now());
        let _sending = activity.begin().until_sent(Body::from("content"));
        activity.unused(SILENT_MAX).await;
        assert_eq!(begun.elapsed().as_secs(), STALLED_MAX.as_secs());
        assert!(activity.asked());
        let _session = activity.begin_lasting();
        assert!(
            tokio::time::timeout(STALLED_MAX * 10, activity.unused(SILENT_MAX)).await.is_err(),
            "it may be silent"
        );
    }
}
