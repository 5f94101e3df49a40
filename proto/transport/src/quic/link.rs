//! One QUIC connection as a [`Link`], and its streams.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use proto::Code;
use quinn::{
    Connection, ConnectionError, ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::CloseCode;
use crate::error::{LinkError, LinkErrorKind};
use crate::link::{Link, Remote};
use crate::stream::{FrameBudget, Raw, Stream, code_from_wire, code_to_wire};

/// What a chunk read from quinn may hold at most; it lies in quinn's receive buffer already.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// The connection, shared by the link's handle, its streams and the task that watches over it.
pub(super) struct Shared {
    pub(super) connection: Connection,
    pub(super) remote: Remote,
    remote_text: Arc<str>,
    budget: Arc<FrameBudget>,
    /// The other side asked to open no more streams. Only ever set on the side that dialed.
    pub(super) draining: CancellationToken,
    /// The program dropped its handle.
    pub(super) released: CancellationToken,
    streams: AtomicUsize,
    idle: Notify,
}

impl Shared {
    pub(super) fn new(connection: Connection, remote: Remote, budget: Arc<FrameBudget>) -> Arc<Self> {
        Arc::new(Self {
            connection,
            remote_text: remote.address.as_str().into(),
            remote,
            budget,
            draining: CancellationToken::new(),
            released: CancellationToken::new(),
            streams: AtomicUsize::new(0),
            idle: Notify::new(),
        })
    }

    /// Waits until no stream is open.
    pub(super) async fn idle(&self) {
        loop {
            let notified = self.idle.notified();
            if self.streams.load(Ordering::SeqCst) == 0 {
                return;
            }
            notified.await;
        }
    }

    pub(super) fn close(&self, code: CloseCode, reason: &str) {
        self.connection.close(VarInt::from_u32(code as u32), reason.as_bytes());
    }

    fn stream(self: &Arc<Self>, lease: Lease, (send, recv): (SendStream, RecvStream)) -> Stream {
        let raw = RawStream { send, recv, _lease: lease };
        Stream::new(Raw::Quic(raw), Arc::clone(&self.budget), Arc::clone(&self.remote_text))
    }

    fn error(&self, operation: &'static str, error: &ConnectionError) -> LinkError {
        connection_kind(error).at(operation, Arc::clone(&self.remote_text))
    }

    fn draining_error(&self, operation: &'static str) -> LinkError {
        LinkErrorKind::Closed("winding down".into()).at(operation, Arc::clone(&self.remote_text))
    }
}

/// Counts one open stream.
struct Lease(Arc<Shared>);

impl Lease {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.streams.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// The handle that the program holds.
pub(super) struct QuicLink(pub(super) Arc<Shared>);

#[async_trait]
impl Link for QuicLink {
    async fn open(&self) -> Result<Stream, LinkError> {
        // Counted before the check, so that whoever winds the link down either sees this stream or is seen by it.
        let lease = Lease::new(&self.0);
        if self.0.draining.is_cancelled() {
            return Err(self.0.draining_error("open a stream"));
        }
        tokio::select! {
            opened = self.0.connection.open_bi() => match opened {
                Ok(halves) => Ok(self.0.stream(lease, halves)),
                Err(error) => Err(self.0.error("open a stream", &error)),
            },
            () = self.0.draining.cancelled() => Err(self.0.draining_error("open a stream")),
        }
    }

    async fn accept(&self) -> Result<Stream, LinkError> {
        match self.0.connection.accept_bi().await {
            Ok(halves) => Ok(self.0.stream(Lease::new(&self.0), halves)),
            Err(error) => Err(self.0.error("accept a stream", &error)),
        }
    }

    fn remote(&self) -> &Remote {
        &self.0.remote
    }

    fn close(&self, reason: &str) {
        self.0.close(CloseCode::Normal, reason);
    }

    async fn closed(&self) -> LinkError {
        tokio::select! {
            error = self.0.connection.closed() => self.0.error("use the link", &error),
            () = self.0.draining.cancelled() => self.0.draining_error("use the link"),
        }
    }

    fn is_closed(&self) -> bool {
        self.0.draining.is_cancelled() || self.0.connection.close_reason().is_some()
    }
}

impl Drop for QuicLink {
    fn drop(&mut self) {
        self.0.released.cancel();
    }
}

impl fmt::Debug for QuicLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicLink").field("remote", &self.0.remote).finish_non_exhaustive()
    }
}

/// Both directions of a QUIC stream.
pub(crate) struct RawStream {
    send: SendStream,
    recv: RecvStream,
    _lease: Lease,
}

impl RawStream {
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), LinkErrorKind> {
        self.send.write_chunk(bytes).await.map_err(|error| match error {
            WriteError::Stopped(code) => LinkErrorKind::Reset(code_from_wire(code.into_inner())),
            WriteError::ConnectionLost(error) => connection_kind(&error),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                LinkErrorKind::Closed("the stream was finished or reset here".into())
            }
        })
    }

    pub(crate) async fn read(&mut self) -> Result<Option<Bytes>, LinkErrorKind> {
        match self.recv.read_chunk(CHUNK_BYTES_MAX, true).await {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(ReadError::Reset(code)) => Err(LinkErrorKind::Reset(code_from_wire(code.into_inner()))),
            Err(ReadError::ConnectionLost(error)) => Err(connection_kind(&error)),
            Err(ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected) => {
                Err(LinkErrorKind::Closed("the stream was reset here".into()))
            }
        }
    }

    pub(crate) async fn given_up(&mut self) -> LinkErrorKind {
        match self.send.stopped().await {
            Ok(Some(code)) => LinkErrorKind::Reset(code_from_wire(code.into_inner())),
            Ok(None) => std::future::pending().await,
            Err(StoppedError::ConnectionLost(error)) => connection_kind(&error),
            Err(StoppedError::ZeroRttRejected) => LinkErrorKind::Closed("the stream was refused".into()),
        }
    }

    pub(crate) fn finish(&mut self) {
        // Fails only where the stream is finished, reset or lost already: nothing is left to say.
        let _ = self.send.finish();
    }

    pub(crate) fn reset(&mut self, code: Option<Code>) {
        let code = VarInt::from_u32(code_to_wire(code));
        // As above.
        let _ = self.send.reset(code);
        let _ = self.recv.stop(code);
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        // A frame is read without looking for the end of the stream, which most often came in the same packet. If nobody
        // looks, quinn asks the other side to stop sending, which costs two packets a request.
        let mut context = Context::from_waker(Waker::noop());
        // Whatever it says, the stream is done with.
        let _ = pin!(self.recv.read_chunk(1, true)).poll(&mut context);
    }
}

/// What the end of a connection means to us.
pub(super) fn connection_kind(error: &ConnectionError) -> LinkErrorKind {
    let is_crypto = |code: u64| (0x100..0x200).contains(&code);
    match error {
        ConnectionError::TimedOut => LinkErrorKind::Closed("the other side fell silent".into()),
        ConnectionError::LocallyClosed => LinkErrorKind::Closed("closed on this side".into()),
        ConnectionError::Reset => LinkErrorKind::Closed("the other side has restarted".into()),
        ConnectionError::ApplicationClosed(close) => {
            let reason: Arc<str> = String::from_utf8_lossy(&close.reason).into();
            match close.error_code.into_inner() {
                code if code == CloseCode::Forbidden as u64 => LinkErrorKind::Forbidden(reason),
                _ => LinkErrorKind::Closed(reason),
            }
        }
        ConnectionError::ConnectionClosed(close) if is_crypto(close.error_code.into()) => {
            LinkErrorKind::Tls(format!("refused by the other side: {}", close.error_code).into())
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
        {
            LinkErrorKind::Refused("the other side takes no more connections".into())
        }
        ConnectionError::TransportError(e) if is_crypto(e.code.into()) => {
            LinkErrorKind::Tls(e.reason.as_str().into())
        }
        other => LinkErrorKind::Closed(other.to_string().into()),
    }
}
