//! What is sent to clients.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use crate::flow::Reader;
use crate::origin::BodyError;

/// What is stored goes out in pieces of so many bytes: whoever sends them knows then how far it is.
const PIECE_BYTES: usize = 64 * 1024;

/// A body.
pub enum CacheBody {
    /// None, or all of it, at hand.
    Whole(Option<Bytes>),
    /// A part of one that comes.
    Coming(Coming),
    /// What the origin sends, not stored.
    Origin(Box<FromOrigin>),
}

/// A piece, and who takes the one after it.
type Next = (Option<Result<Bytes, BodyError>>, Reader);

/// A part of a body that comes.
pub struct Coming {
    next: Pin<Box<dyn Future<Output = Next> + Send>>,
    /// Bytes before the part.
    skip: u64,
    /// Bytes of it; none: all.
    left: Option<u64>,
}

/// A body as the origin sends it.
pub struct FromOrigin {
    body: Incoming,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl CacheBody {
    /// Nothing.
    pub fn empty() -> Self {
        Self::Whole(None)
    }

    pub(crate) fn coming(reader: Reader, skip: u64, left: Option<u64>) -> Self {
        Self::Coming(Coming { next: Box::pin(next(reader)), skip, left })
    }

    pub(crate) fn origin(body: Incoming, idle: Duration, place: OwnedSemaphorePermit) -> Self {
        Self::Origin(Box::new(FromOrigin {
            body,
            idle,
            timer: Box::pin(tokio::time::sleep(idle)),
            _place: place,
        }))
    }
}

async fn next(mut reader: Reader) -> Next {
    let piece = reader.next().await;
    (piece.map(|piece| piece.map_err(|_| "the origin's response broke off".into())), reader)
}

impl Coming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if self.left == Some(0) {
                return Poll::Ready(None);
            }
            let (piece, reader) = ready!(self.next.as_mut().poll(cx));
            let Some(piece) = piece else {
                // Polled after its end it says so again.
                self.left = Some(0);
                return Poll::Ready(None);
            };
            self.next = Box::pin(next(reader));
            let mut piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    self.left = Some(0);
                    return Poll::Ready(Some(Err(error)));
                }
            };
            let skipped = self.skip.min(piece.len() as u64);
            self.skip -= skipped;
            piece = piece.slice(usize::try_from(skipped).unwrap_or_default()..);
            if let Some(left) = &mut self.left {
                piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= piece.len() as u64;
            }
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
        }
    }
}

impl FromOrigin {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let again = Instant::now() + self.idle;
            self.timer.as_mut().reset(again);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Some(Err("the origin sends nothing more".into())))
    }
}

impl Body for CacheBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            CacheBody::Whole(whole) => {
                let piece = match whole {
                    Some(whole) if whole.len() > PIECE_BYTES => Some(whole.split_to(PIECE_BYTES)),
                    whole => whole.take(),
                };
                Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
            }
            CacheBody::Coming(coming) => coming.poll(cx),
            CacheBody::Origin(origin) => origin.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            CacheBody::Whole(whole) => whole.is_none(),
            CacheBody::Coming(coming) => coming.left == Some(0),
            CacheBody::Origin(origin) => origin.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            CacheBody::Whole(whole) => {
                SizeHint::with_exact(whole.as_ref().map_or(0, |whole| whole.len() as u64))
            }
            CacheBody::Coming(coming) => coming.left.map_or_else(SizeHint::default, SizeHint::with_exact),
            CacheBody::Origin(origin) => origin.body.size_hint(),
        }
    }
}
