//! What is left of a request's body when its answer is already known, because it was refused, say. A caller that is still sending may
//! not look for an answer before it is done, and take an end of the stream for a failure; so the rest is read, within bounds.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Error;
use axum::body::{Body, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::runtime::Handle;

/// Most that is read and thrown away, in bytes.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// For how long.
const WITHIN: Duration = Duration::from_secs(5);

/// A body whose rest is read when nobody wants it any more.
pub(super) struct Whole {
    body: Body,
    ended: bool,
}

impl Whole {
    pub(super) fn new(body: Body) -> Self {
        let ended = body.is_end_stream();
        Self { body, ended }
    }
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = frame {
            self.ended = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let mut rest = std::mem::take(&mut self.body);
        // There is no runtime any more when the process ends over a request.
        let (false, Ok(runtime)) = (self.ended || rest.is_end_stream(), Handle::try_current()) else {
            return;
        };
        runtime.spawn(tokio::time::timeout(WITHIN, async move {
            let mut read = 0;
            while let Some(Ok(frame)) = rest.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > BYTES_MAX {
                    return;
                }
            }
        }));
    }
}
