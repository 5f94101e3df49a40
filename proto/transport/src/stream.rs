//! One stream of a link: frames out, frames in.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use proto::Code;
use proto::codec::{self, CodecError, HEADER_BYTES, Message};

use crate::error::{LinkError, LinkErrorKind};
use crate::{memory, quic};

/// A receive buffer larger than this is given back as soon as it is empty.
const BUFFER_KEEP_BYTES: usize = 16 * 1024;

/// Two directions of frames. Sending and receiving are independent, but one task at a time uses a stream.
///
/// Dropped without [`Stream::finish`], it is finished if every frame was sent whole, and reset otherwise; the other side
/// is told to send no more.
pub struct Stream {
    raw: Raw,
    inbox: Inbox,
    remote: Arc<str>,
    /// A frame has been begun and not been written to its end.
    mid_frame: bool,
}

/// The forms a stream has. An enum rather than a trait object: it is on the path of every request.
pub(crate) enum Raw {
    Quic(quic::RawStream),
    Memory(memory::RawStream),
}

impl Stream {
    pub(crate) fn new(raw: Raw, budget: Arc<FrameBudget>, remote: Arc<str>) -> Self {
        Self { raw, inbox: Inbox::new(budget), remote, mid_frame: false }
    }

    /// Sends one message as one frame; waits while the other side's window is full.
    ///
    /// # Errors
    /// [`LinkErrorKind::Protocol`] where the message is larger than its kind allows (nothing was sent then),
    /// [`LinkErrorKind::Reset`] where the other side wants no more, [`LinkErrorKind::Closed`] where the link is gone.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), LinkError> {
        let frame = codec::frame(message)
            .map_err(|e| LinkErrorKind::Protocol(e).at("send", Arc::clone(&self.remote)))?;
        self.send_bytes(Bytes::from(frame)).await
    }

    /// Sends bytes as they are, for tests that play a hostile peer.
    ///
    /// # Errors
    /// As [`Stream::send`].
    pub async fn send_bytes(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        self.mid_frame = true;
        let written = match &mut self.raw {
            Raw::Quic(raw) => raw.write(bytes).await,
            Raw::Memory(raw) => raw.write(bytes).await,
        };
        written.map_err(|kind| kind.at("send", Arc::clone(&self.remote)))?;
        self.mid_frame = false;
        Ok(())
    }

    /// Receives one message. The header is checked before memory is taken, and memory is taken as bytes come, not as the
    /// header promises. Cancel safe: what had come is kept for the next call.
    ///
    /// # Errors
    /// [`LinkErrorKind::Finished`] where the other side finished instead, [`LinkErrorKind::Truncated`] where it did so
    /// within a frame, [`LinkErrorKind::Protocol`] where the bytes are not the message that is due; after that the stream
    /// is of no more use for receiving.
    pub async fn recv<M: Message>(&mut self) -> Result<M, LinkError> {
        self.receive().await.map_err(|kind| kind.at("receive", Arc::clone(&self.remote)))
    }

    async fn receive<M: Message>(&mut self) -> Result<M, LinkErrorKind> {
        if let Some(message) = self.inbox.take()? {
            return Ok(message);
        }
        loop {
            let chunk = match &mut self.raw {
                Raw::Quic(raw) => raw.read().await?,
                Raw::Memory(raw) => raw.read().await?,
            };
            let Some(chunk) = chunk else {
                return Err(match self.inbox.buffer.len() {
                    0 => LinkErrorKind::Finished,
                    got => LinkErrorKind::Truncated { got },
                });
            };
            if let Some(message) = self.inbox.push(chunk)? {
                return Ok(message);
            }
        }
    }

    /// Says that nothing more will be sent. What was sent still arrives.
    pub fn finish(&mut self) {
        match &mut self.raw {
            Raw::Quic(raw) => raw.finish(),
            Raw::Memory(raw) => raw.finish(),
        }
    }

    /// Gives the stream up in both directions: what is on its way may be lost, and the other side hears `code`.
    pub fn reset(&mut self, code: Code) {
        match &mut self.raw {
            Raw::Quic(raw) => raw.reset(Some(code)),
            Raw::Memory(raw) => raw.reset(Some(code)),
        }
    }

    /// Waits until the other side wants no more of this stream, or the link is gone: whoever works on an answer may stop
    /// then. Never returns where the other side took everything. Cancel safe.
    pub async fn given_up(&mut self) -> LinkError {
        let kind = match &mut self.raw {
            Raw::Quic(raw) => raw.given_up().await,
            Raw::Memory(raw) => raw.given_up().await,
        };
        kind.at("send", Arc::clone(&self.remote))
    }

    /// Address of the other side, for logs.
    pub fn remote(&self) -> &str {
        &self.remote
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Half a frame must not look like an orderly end. The forms finish by themselves when dropped.
        if self.mid_frame {
            self.reset(Code::Unavailable);
        }
    }
}

/// Number of a reset code on the wire. 0 is "no code".
pub(crate) fn code_to_wire(code: Option<Code>) -> u32 {
    code.and_then(|code| Code::ALL.iter().position(|c| *c == code))
        .and_then(|at| u32::try_from(at + 1).ok())
        .unwrap_or(0)
}

/// The code for a number from the wire; an unknown one is none.
pub(crate) fn code_from_wire(number: u64) -> Option<Code> {
    let at = usize::try_from(number.checked_sub(1)?).ok()?;
    Code::ALL.get(at).copied()
}

/// How much memory the half-received frames of one listener or dialer may hold together. Frames that arrive whole are
/// read where they lie and hold none.
#[derive(Debug)]
pub(crate) struct FrameBudget {
    used: AtomicUsize,
    max: usize,
}

impl FrameBudget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    fn charge(&self, bytes: usize) -> Result<(), LinkErrorKind> {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.max);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map(drop)
            .map_err(|_| LinkErrorKind::Overloaded { max: self.max })
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes that came and do not make a frame yet.
struct Inbox {
    buffer: BytesMut,
    budget: Arc<FrameBudget>,
    /// What is charged to the budget: always `buffer.len()`.
    charged: usize,
    /// The bytes cannot be divided into frames any more.
    broken: Option<CodecError>,
}

impl Inbox {
    fn new(budget: Arc<FrameBudget>) -> Self {
        Self { buffer: BytesMut::new(), budget, charged: 0, broken: None }
    }

    /// Takes in a chunk; a message, if a frame is complete with it.
    fn push<M: Message>(&mut self, mut chunk: Bytes) -> Result<Option<M>, LinkErrorKind> {
        if self.buffer.is_empty() {
            // Most frames arrive in one chunk, and are decoded right from it.
            let len = frame_len::<M>(&chunk).map_err(|error| self.broken_by(error))?;
            if let Some(len) = len.filter(|len| *len <= chunk.len()) {
                let message = codec::unframe(M::KIND, &chunk[HEADER_BYTES..len])?;
                chunk.advance(len);
                self.keep(&chunk)?;
                return Ok(Some(message));
            }
        }
        self.keep(&chunk)?;
        self.take()
    }

    /// The next message that is complete in the buffer.
    fn take<M: Message>(&mut self) -> Result<Option<M>, LinkErrorKind> {
        if let Some(error) = &self.broken {
            return Err(error.clone().into());
        }
        let len = frame_len::<M>(&self.buffer).map_err(|error| self.broken_by(error))?;
        let Some(len) = len.filter(|len| *len <= self.buffer.len()) else { return Ok(None) };
        let message = codec::unframe(M::KIND, &self.buffer[HEADER_BYTES..len]);
        self.buffer.advance(len);
        self.settle();
        Ok(Some(message?))
    }

    /// Once a header makes no sense, nobody knows where the next frame begins.
    fn broken_by(&mut self, error: CodecError) -> LinkErrorKind {
        self.broken = Some(error.clone());
        error.into()
    }

    fn keep(&mut self, chunk: &[u8]) -> Result<(), LinkErrorKind> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.budget.charge(chunk.len())?;
        self.charged += chunk.len();
        self.buffer.extend_from_slice(chunk);
        Ok(())
    }

    /// Gives back what is no longer held.
    fn settle(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > BUFFER_KEEP_BYTES {
            self.buffer = BytesMut::new();
        }
        self.budget.release(self.charged - self.buffer.len());
        self.charged = self.buffer.len();
    }
}

/// Length of the frame that begins `bytes`, header included; `None` while the header is not whole. Checks kind and length
/// before anything is kept for it.
fn frame_len<M: Message>(bytes: &[u8]) -> Result<Option<usize>, CodecError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let (got, len) = codec::header(*header)?;
    if got != M::KIND {
        return Err(CodecError::WrongKind { wanted: M::KIND, got });
    }
    Ok(Some(HEADER_BYTES + len))
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.budget.release(self.charged);
    }
}
