//! quinn's connection as h3 takes it, with what comes on its streams measured first ([`super::frames`]).

use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use bytes::Buf as _;
use h3::error::Code;
use h3::quic::{
    BidiStream, Connection, ConnectionErrorIncoming, OpenStreams, RecvStream, SendStream, SendStreamUnframed,
    StreamErrorIncoming, StreamId, WriteBuf,
};
use transport::quic::Http3Connection;

use super::frames::{Frames, Kind};

type Quic = Http3Connection;
type Both = <Quic as OpenStreams<Bytes>>::BidiStream;
type Coming = <Both as BidiStream<Bytes>>::RecvStream;
type Going = <Both as BidiStream<Bytes>>::SendStream;

/// A connection.
pub struct Bounded(pub Quic);

/// A stream, or the half of one that comes.
pub struct Measured<S> {
    stream: S,
    frames: Frames,
    /// A read is not done: quinn has the stream, and h3-quinn 0.0.10 would panic if it were told to stop.
    reading: bool,
}

impl<S> Measured<S> {
    fn new(stream: S, kind: Kind) -> Self {
        Self { stream, frames: Frames::new(kind), reading: false }
    }
}

impl Connection<Bytes> for Bounded {
    type RecvStream = Measured<Coming>;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::RecvStream, ConnectionErrorIncoming>> {
        let stream = ready!(Connection::<Bytes>::poll_accept_recv(&mut self.0, cx))?;
        Poll::Ready(Ok(Measured::new(stream, Kind::OneWay)))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::BidiStream, ConnectionErrorIncoming>> {
        let stream = ready!(Connection::<Bytes>::poll_accept_bidi(&mut self.0, cx))?;
        Poll::Ready(Ok(Measured::new(stream, Kind::Request)))
    }

    fn opener(&self) -> Opener {
        Opener(Connection::<Bytes>::opener(&self.0))
    }
}

impl OpenStreams<Bytes> for Bounded {
    type BidiStream = Measured<Both>;
    type SendStream = Going;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::BidiStream, StreamErrorIncoming>> {
        let stream = ready!(OpenStreams::<Bytes>::poll_open_bidi(&mut self.0, cx))?;
        Poll::Ready(Ok(Measured::new(stream, Kind::Request)))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Going, StreamErrorIncoming>> {
        OpenStreams::<Bytes>::poll_open_send(&mut self.0, cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        OpenStreams::<Bytes>::close(&mut self.0, code, reason);
    }
}

/// Opens streams of it.
pub struct Opener(<Quic as Connection<Bytes>>::OpenStreams);

impl OpenStreams<Bytes> for Opener {
    type BidiStream = Measured<Both>;
    type SendStream = Going;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::BidiStream, StreamErrorIncoming>> {
        let stream = ready!(OpenStreams::<Bytes>::poll_open_bidi(&mut self.0, cx))?;
        Poll::Ready(Ok(Measured::new(stream, Kind::Request)))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Going, StreamErrorIncoming>> {
        OpenStreams::<Bytes>::poll_open_send(&mut self.0, cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        OpenStreams::<Bytes>::close(&mut self.0, code, reason);
    }
}

impl<S: RecvStream> RecvStream for Measured<S> {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let read = self.stream.poll_data(cx);
        self.reading = read.is_pending();
        let Some(mut data) = ready!(read)? else { return Poll::Ready(Ok(None)) };
        let data = data.copy_to_bytes(data.remaining());
        if let Err(code) = self.frames.pass(&data) {
            self.stream.stop_sending(code.value());
            return Poll::Ready(Err(StreamErrorIncoming::StreamTerminated { error_code: code.value() }));
        }
        Poll::Ready(Ok(Some(data)))
    }

    fn stop_sending(&mut self, error_code: u64) {
        // Dropping it stops it, too.
        if !self.reading {
            self.stream.stop_sending(error_code);
        }
    }

    fn recv_id(&self) -> StreamId {
        self.stream.recv_id()
    }
}

impl<S: SendStream<Bytes>> SendStream<Bytes> for Measured<S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.stream.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.stream.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.stream.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.stream.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.stream.send_id()
    }
}

impl<S: SendStreamUnframed<Bytes>> SendStreamUnframed<Bytes> for Measured<S> {
    fn poll_send<D: bytes::Buf>(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut D,
    ) -> Poll<Result<usize, StreamErrorIncoming>> {
        self.stream.poll_send(cx, buf)
    }
}

impl BidiStream<Bytes> for Measured<Both> {
    type SendStream = Going;
    type RecvStream = Measured<Coming>;

    fn split(self) -> (Going, Measured<Coming>) {
        let (going, coming) = BidiStream::<Bytes>::split(self.stream);
        (going, Measured { stream: coming, frames: self.frames, reading: self.reading })
    }
}
