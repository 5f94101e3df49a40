//! What a request's body may hold, and the bodies of all together while they are collected and read: anybody may send some before it is
//! known who that is. Both are counted unpacked.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use axum::Error;
use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
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
    refusal: OnceLock<ErrorReply>,
}

impl Held {
    fn more(&self, room: &Room, len: usize) -> Result<(), ErrorReply> {
        let taken =
            u32::try_from(len).ok().and_then(|len| Arc::clone(&room.0).try_acquire_many_owned(len).ok());
        let taken = taken.ok_or_else(|| {
            ErrorReply::new(Code::Overloaded, "requests hold as much memory as they may")
                .retry_after_ms(1_000)
        })?;
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *bytes {
            Some(held) => held.merge(taken),
            none => *none = Some(taken),
        }
        Ok(())
    }
}

/// Counts what a request's body holds; of what is too much, or cannot be read, whoever sent it hears from here, whatever its handler
/// makes of it.
pub(super) async fn bounded(State(room): State<Room>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let bytes_max = super::body_bytes_max(route);
    let held = Arc::new(Held::default());
    let counted = |body| Body::new(Counted { body, room, bytes: 0, bytes_max, held: Arc::clone(&held) });
    let response = next.run(request.map(counted)).await;
    match held.refusal.get() {
        Some(reply) => Refusal::from(reply.clone()).into_response(),
        None => response,
    }
}

struct Counted {
    body: Body,
    room: Room,
    bytes: usize,
    bytes_max: usize,
    held: Arc<Held>,
}

impl Counted {
    fn count(&mut self, len: usize) -> Result<(), ErrorReply> {
        self.bytes += len;
        if self.bytes > self.bytes_max {
            let message = format!("the body has more than {} bytes, unpacked", self.bytes_max);
            return Err(ErrorReply::new(Code::TooLarge, message));
        }
        if len > 0 { self.held.more(&self.room, len) } else { Ok(()) }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let counted = match &frame {
            Some(Ok(frame)) => self.count(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(error)) => {
                let message = format!("the body cannot be read to its end, or unpacked: {error}");
                Err(ErrorReply::new(Code::Malformed, message))
            }
            None => Ok(()),
        };
        if let Err(reply) = counted {
            let error = Error::new(reply.clone());
            // The first is the reason.
            let _ = self.held.refusal.set(reply);
            return Poll::Ready(Some(Err(error)));
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
        assert!(one.more(&room, BYTES_MAX - 10).is_ok());
        assert!(other.more(&room, 5).is_ok() && other.more(&room, 5).is_ok());
        assert_eq!(other.more(&room, 1).unwrap_err().code, Code::Overloaded);
        drop(one);
        assert!(Held::default().more(&room, BYTES_MAX - 10).is_ok());
        assert_eq!(room.0.available_permits(), BYTES_MAX - 10, "the other still has its ten");
    }
}
