//! What the bodies of all requests together may hold while they are collected and read: anybody may send some before it is known who
//! that is.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::Error;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body::{Frame, SizeHint};
use proto::{Code, ErrorReply};
use service::http::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of all bodies, unpacked.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// The room for all.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BYTES_MAX)))
    }
}

/// What one request has of it, until it is answered.
#[derive(Debug, Default)]
struct Held {
    bytes: Mutex<Option<OwnedSemaphorePermit>>,
    refused: AtomicBool,
}

impl Held {
    fn more(&self, room: &Room, len: usize) -> bool {
        let taken =
            u32::try_from(len).ok().and_then(|len| Arc::clone(&room.0).try_acquire_many_owned(len).ok());
        let Some(taken) = taken else {
            self.refused.store(true, Ordering::Relaxed);
            return false;
        };
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *bytes {
            Some(held) => held.merge(taken),
            none => *none = Some(taken),
        }
        true
    }
}

/// Counts what a request's body holds.
pub(super) async fn bounded(State(room): State<Room>, request: Request, next: Next) -> Response {
    let held = Arc::new(Held::default());
    let counted = |body| Body::new(Counted { body, room, held: Arc::clone(&held) });
    let response = next.run(request.map(counted)).await;
    if held.refused.load(Ordering::Relaxed) {
        let reply = ErrorReply::new(Code::Overloaded, "requests hold as much memory as they may");
        return Refusal::from(reply.retry_after_ms(1_000)).into_response();
    }
    response
}

struct Counted {
    body: Body,
    room: Room,
    held: Arc<Held>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let len = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        if len > 0 && !self.held.more(&self.room, len) {
            return Poll::Ready(Some(Err(Error::new("no room for more"))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_room_until_it_is_taken_and_again_when_it_is_left() {
        let room = Room::new();
        let (one, other) = (Held::default(), Held::default());
        assert!(one.more(&room, BYTES_MAX - 10) && other.more(&room, 5) && other.more(&room, 5));
        assert!(!other.more(&room, 1) && other.refused.load(Ordering::Relaxed));
        drop(one);
        assert!(Held::default().more(&room, BYTES_MAX - 10));
        assert_eq!(room.0.available_permits(), BYTES_MAX - 10, "the other still has its ten");
    }
}
