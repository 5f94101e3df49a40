//! The content of a request, held to the length that its head says (RFC 9114, 4.1.2).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use bytes::Buf as _;
use h3::error::{Code, StreamError};
use h3::server::RequestStream;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};

use super::malformed::Malformed;
use super::{HEAD_WITHIN, Incoming};

/// Most that is read of content that nobody reads, in bytes.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// Why it ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Whether the content was found malformed.
#[derive(Debug, Clone, Default)]
pub struct Verdict(Arc<AtomicBool>);

impl Verdict {
    pub fn is_malformed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Content as it comes.
pub struct Content {
    stream: RequestStream<Incoming, Bytes>,
    /// How much is due; none: nobody said.
    left: Option<u64>,
    ended: bool,
    verdict: Verdict,
}

impl Content {
    pub fn new(stream: RequestStream<Incoming, Bytes>, len: Option<u64>) -> (Self, Verdict) {
        let verdict = Verdict::default();
        (Self { stream, left: len, ended: false, verdict: verdict.clone() }, verdict)
    }

    /// Reads it, for its length only. Of what is long or late nothing is known.
    pub async fn read(mut self) -> Body {
        let all = async {
            let mut read = 0;
            while let Some(Ok(frame)) = self.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > UNREAD_BYTES_MAX {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(HEAD_WITHIN, all).await;
        Body::new(Full::<Bytes>::default())
    }

    fn counted(&mut self, data: Option<&Bytes>) -> Result<(), Malformed> {
        let Some(left) = self.left else { return Ok(()) };
        let rest = match data {
            Some(data) => left.checked_sub(data.len() as u64),
            None => (left == 0).then_some(0),
        };
        if rest.is_none() {
            self.verdict.0.store(true, Ordering::Release);
        }
        self.left = Some(rest.ok_or(Malformed::ContentLength)?);
        Ok(())
    }
}

impl http_body::Body for Content {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let data = ready!(self.stream.poll_recv_data(cx)).inspect_err(|_| self.ended = true)?;
        let data = data.map(|mut data| data.copy_to_bytes(data.remaining()));
        self.ended = data.is_none();
        if let Err(malformed) = self.counted(data.as_ref()) {
            self.ended = true;
            self.stream.stop_sending(Code::H3_MESSAGE_ERROR);
            return Poll::Ready(Some(Err(malformed.into())));
        }
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if !self.ended {
            // An answer that needs no more of the request is no error (RFC 9114, 4.1).
            self.stream.stop_sending(Code::H3_NO_ERROR);
        }
    }
}
