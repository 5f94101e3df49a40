//! The body of a request on its way to an origin: bounded, and watched, so that a caller's mistakes are not taken for the origin's.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::origin::{BodyError, RequestBody};

/// Largest body that is passed on, in bytes.
pub const BODY_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What a caller did wrong with its request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// It is larger than [`BODY_BYTES_MAX`].
    #[error(
        "the request's body is larger than {BODY_BYTES_MAX} bytes, the most that is passed on to an origin"
    )]
    TooLarge,
    /// It is malformed, or broke off.
    #[error("the request's body is malformed or broke off before its end")]
    Broken,
    /// It did not come in time.
    #[error(
        "the request's body did not come within the time that its origin has to answer (cache.origins deadline_ms)"
    )]
    Slow,
}

/// How far the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// Nobody has asked for it yet.
    Untouched,
    /// The origin takes it, or should.
    Going,
    /// The caller is waited for.
    Waiting,
    Whole,
    TooLarge,
    Broken,
}

const STATES: [State; 6] =
    [State::Untouched, State::Going, State::Waiting, State::Whole, State::TooLarge, State::Broken];

/// What is known of a body that was handed over.
#[derive(Debug, Clone)]
pub struct Progress(Arc<AtomicU8>);

impl Progress {
    fn set(&self, state: State) {
        self.0.store(state as u8, Ordering::Release);
    }

    fn state(&self) -> State {
        let state = usize::from(self.0.load(Ordering::Acquire));
        STATES.get(state).copied().unwrap_or(State::Broken)
    }

    /// What the caller did wrong, where there was no answer. `late`: the time was up.
    pub fn fault(&self, late: bool) -> Option<UploadError> {
        match self.state() {
            State::TooLarge => Some(UploadError::TooLarge),
            State::Broken => Some(UploadError::Broken),
            State::Waiting if late => Some(UploadError::Slow),
            _ => None,
        }
    }

    /// Whether the connection was lost while the body was on its way. Many origins end a connection over a body that they do not want, so
    /// that says nothing of how they are.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state(), State::Going | State::Waiting)
    }
}

/// Watches over a body.
///
/// # Errors
/// Where it says beforehand that it is too large.
pub fn watched(body: RequestBody) -> Result<(RequestBody, Progress), UploadError> {
    let progress = Progress(Arc::new(AtomicU8::new(State::Untouched as u8)));
    if body.size_hint().lower() > BODY_BYTES_MAX {
        return Err(UploadError::TooLarge);
    }
    if body.is_end_stream() {
        progress.set(State::Whole);
        return Ok((body, progress));
    }
    let upload = Upload { body, left: BODY_BYTES_MAX, progress: progress.clone() };
    Ok((upload.boxed_unsync(), progress))
}

struct Upload {
    body: RequestBody,
    left: u64,
    progress: Progress,
}

impl Upload {
    fn broken(&self, state: State, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.progress.set(state);
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => {
                    self.progress.set(State::Waiting);
                    return Poll::Pending;
                }
                Poll::Ready(None) => {
                    self.progress.set(State::Whole);
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => return self.broken(State::Broken, error),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            // Trailers are a caller's fields, too, and no origin needs them to read the body (RFC 9110, 6.5.1).
            let Ok(data) = frame.into_data() else { continue };
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                return self.broken(State::TooLarge, Box::new(UploadError::TooLarge));
            };
            self.left = left;
            self.progress.set(if self.body.is_end_stream() { State::Whole } else { State::Going });
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
