//! HTTP/3 (RFC 9114): connections at the SDK's port that said `h3` in their handshake. What they ask goes the way of HTTP/1.1
//! and 2; streams of WebTransport are told apart here.

mod bounded;
mod content;
pub(super) mod frames;
pub(super) mod malformed;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Method, Request, Response, header};
use bounded::Bounded;
use content::Content;
use h3::error::{Code, ConnectionError, StreamError};
use h3::ext::Protocol;
use h3::frame::FrameStream;
use h3::proto::frame::Frame;
use h3::quic::{BidiStream, OpenStreams};
use h3::server::{Connection, RequestResolver, RequestStream};
use h3::stream::BufRecvStream;
use h3::webtransport::SessionId;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use malformed::Malformed;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::quic::{Http3Caller, QuicListener};

use super::activity::Activity;
use super::auth::PeerAddress;
use super::crowd::{Crowd, Joined};
use super::server::{HEAD_WITHIN, HEADERS_BYTES_MAX, SILENT_MAX};
use super::webtransport::{self, SESSIONS_MAX, Sessions};
use super::{HttpMetrics, Routes, guard};
use crate::gateway::apps::address_of;

/// A stream both ways.
pub(super) type Both = <Bounded as OpenStreams<Bytes>>::BidiStream;
/// A stream that the caller writes.
pub(super) type Incoming = <Both as BidiStream<Bytes>>::RecvStream;
/// Requests that may still be on their way when GOAWAY is sent: they are answered.
const LATE_REQUESTS_MAX: usize = 256;
/// How long a connection that is to end, and has nothing in flight, is kept for what is still on its way.
const LINGER: Duration = Duration::from_secs(1);
/// How long a caller may take to take a part of an answer.
const TAKEN_WITHIN: Duration = Duration::from_secs(20);
/// Streams of one connection; with the last of them it ends. h3 0.0.8 remembers those that were no requests for as long as it lives.
const STREAMS_MAX: usize = 100_000;

/// Serves until the listener ends.
pub(super) async fn serve(
    listener: Arc<QuicListener>,
    routes: Arc<Routes>,
    connections_max: usize,
    metrics: HttpMetrics,
) {
    let (connections, places) = (TaskTracker::new(), Arc::new(Semaphore::new(connections_max)));
    let crowd = Arc::new(Crowd::of(connections_max));
    while let Some(caller) = listener.accept_http3().await {
        if crowd.makes_room(places.available_permits()) {
            metrics.displaced.inc();
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            caller.refuse("there are as many connections of HTTP/3 as there may be");
            continue;
        };
        let (routes, gauge, joined) = (Arc::clone(&routes), metrics.connections.clone(), crowd.join());
        connections.spawn(async move {
            gauge.inc();
            if let Err(error) = converse(&caller, &joined, routes).await {
                tracing::debug!(address = caller.address(), %error, "a connection of HTTP/3 ended");
            }
            gauge.dec();
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

/// What the streams of one connection share.
pub(super) struct Talk {
    pub(super) sessions: Sessions,
    routes: Arc<Routes>,
    from: PeerAddress,
    requests: TaskTracker,
    /// Cancelled when the connection is to end.
    pub(super) ending: CancellationToken,
    pub(super) activity: Arc<Activity>,
}

/// What a caller began.
enum Arrival {
    Stream(Both),
    OneWay(SessionId, BufRecvStream<Incoming, Bytes>),
}

/// One connection: until the caller ends it, it is to end, or others need its place.
async fn converse(caller: &Http3Caller, joined: &Joined, routes: Arc<Routes>) -> Result<(), ConnectionError> {
    let mut connection = h3::server::builder()
        .max_field_section_size(HEADERS_BYTES_MAX as u64)
        .enable_extended_connect(true)
        .enable_webtransport(true)
        .max_webtransport_sessions(SESSIONS_MAX as u64)
        // Nobody reads them, but browsers begin no session without.
        .enable_datagram(true)
        .build(Bounded(caller.connection()))
        .await?;
    let from = PeerAddress(address_of(caller.address()));
    let (sessions, requests, activity) = (Sessions::new(), TaskTracker::new(), Arc::clone(joined.activity()));
    let ending = caller.ending().child_token();
    let talk = Arc::new(Talk { sessions, routes, from, requests, ending, activity });
    let mut unused = pin!(talk.activity.unused(SILENT_MAX));
    let (mut told, mut streams) = (false, 0);
    loop {
        let all_answered = async {
            talk.requests.wait().await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            arrival = poll_fn(|cx| poll_arrival(&mut connection, cx)) => match arrival? {
                // The caller asks no more.
                None => {
                    talk.requests.close();
                    talk.requests.wait().await;
                    tokio::time::sleep(LINGER).await;
                    return Ok(());
                }
                Some(Arrival::Stream(stream)) => {
                    streams += 1;
                    let resolver = connection.create_resolver(FrameStream::new(BufRecvStream::new(stream)));
                    // Said once a connection, to keep others from relying on what is reserved (RFC 9114, 7.2.8).
                    connection.inner.send_grease_frame = false;
                    talk.requests.spawn(told_apart(resolver, Arc::clone(&talk)));
                }
                Some(Arrival::OneWay(session, stream)) => {
                    talk.requests.spawn(webtransport::one_way(stream, session, Arc::clone(&talk)));
                }
            },
            () = ended(caller.ending(), unused.as_mut(), streams), if !told => {
                told = true;
                talk.ending.cancel();
                connection.shutdown(LATE_REQUESTS_MAX).await?;
                talk.requests.close();
            }
            () = all_answered, if told => return Ok(()),
            () = joined.displaced() => return Ok(()),
        }
    }
}

/// When a connection is to end: at its time, with its node, or because it is not used, or has been used much.
async fn ended(ending: &CancellationToken, unused: Pin<&mut impl Future<Output = ()>>, streams: usize) {
    tokio::select! {
        () = ending.cancelled() => {}
        () = unused => {}
        () = std::future::ready(()), if streams >= STREAMS_MAX => {}
    }
}

fn poll_arrival(
    connection: &mut Connection<Bounded, Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Arrival>, ConnectionError>> {
    let arrived = connection.poll_accept_request_stream(cx)?;
    let stream = match arrived {
        Poll::Ready(Some(stream)) => stream,
        Poll::Ready(None) => return Poll::Ready(Ok(None)),
        // Streams one way are taken in on the way; whoever looks comes back until there is nothing of either.
        Poll::Pending => {
            let one_way = connection.inner.accepted_streams_mut().wt_uni_streams.pop();
            let (session, stream) = ready!(one_way.map_or(Poll::Pending, Poll::Ready));
            return Poll::Ready(Ok(Some(Arrival::OneWay(session, stream))));
        }
    };
    Poll::Ready(Ok(Some(Arrival::Stream(stream))))
}

/// One stream: its first frame says what it is.
async fn told_apart(mut resolver: RequestResolver<Bounded, Bytes>, talk: Arc<Talk>) {
    let first = poll_fn(|cx| resolver.frame_stream.poll_next(cx));
    let Ok(first) = tokio::time::timeout(HEAD_WITHIN, first).await else { return };
    if let Ok(Some(Frame::WebTransportStream(session))) = first {
        return webtransport::both_ways(resolver.frame_stream.into_inner(), session, talk).await;
    }
    let section = match &first {
        Ok(Some(Frame::Headers(section))) => malformed::section(section),
        _ => Ok(()),
    };
    let answered = async {
        let (request, mut stream) = resolver.accept_with_frame(first)?.resolve().await?;
        let content_len = match section.and_then(|()| malformed::head(&request)) {
            Ok(len) => len,
            Err(malformed) => {
                tracing::debug!(%malformed, "a malformed request over HTTP/3");
                stream.stop_sending(Code::H3_MESSAGE_ERROR);
                stream.stop_stream(Code::H3_MESSAGE_ERROR);
                return Ok(());
            }
        };
        match request.extensions().get::<Protocol>() {
            Some(&Protocol::WEB_TRANSPORT) => webtransport::session(request, stream, &talk).await,
            _ => answer(request, content_len, stream, &talk).await,
        }
    };
    if let Err(error) = answered.await {
        tracing::debug!(%error, "a request over HTTP/3 was not answered");
    }
}

async fn answer(
    request: Request<()>,
    content_len: Option<u64>,
    stream: RequestStream<Both, Bytes>,
    talk: &Talk,
) -> Result<(), StreamError> {
    let (mut stream, incoming) = stream.split();
    let (content, verdict) = Content::new(incoming, content_len);
    // Content of these is read by nobody, and what is said of its length must hold all the same.
    let unread = match *request.method() {
        Method::GET | Method::HEAD => content_len.is_some(),
        _ => content_len == Some(0),
    };
    let content = if unread { content.read().await } else { Body::new(content) };
    let answered = match verdict.is_malformed() {
        true => None,
        false => Some(talk.hear(request.map(|()| content)).await),
    };
    let Some(response) = answered.filter(|_| !verdict.is_malformed()) else {
        tracing::debug!(malformed = %Malformed::ContentLength, "a malformed request over HTTP/3");
        stream.stop_stream(Code::H3_MESSAGE_ERROR);
        return Ok(());
    };
    let (head, mut body) = response.into_parts();
    let Ok(sent) =
        tokio::time::timeout(TAKEN_WITHIN, stream.send_response(Response::from_parts(head, ()))).await
    else {
        stream.stop_stream(Code::H3_REQUEST_CANCELLED);
        return Ok(());
    };
    sent?;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            stream.stop_stream(Code::H3_INTERNAL_ERROR);
            return Ok(());
        };
        let sent = match frame.into_data() {
            Ok(data) => tokio::time::timeout(TAKEN_WITHIN, stream.send_data(data)).await,
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => tokio::time::timeout(TAKEN_WITHIN, stream.send_trailers(trailers)).await,
                Err(_) => continue,
            },
        };
        let Ok(sent) = sent else {
            stream.stop_stream(Code::H3_REQUEST_CANCELLED);
            return Ok(());
        };
        sent?;
    }
    stream.finish().await
}

impl Talk {
    /// What the routes say, with the headers that hyper adds to HTTP/1.1 and 2.
    pub(super) async fn hear(&self, mut request: Request<Body>) -> Response<Body> {
        let _busy = self.activity.begin();
        request.extensions_mut().insert(self.from);
        let mut response = self.routes.answer(request).await;
        let len = response.body().size_hint().exact();
        let headers = response.headers_mut();
        if let Some(len) = len {
            headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(len));
        }
        headers.entry(header::DATE).or_insert_with(guard::date);
        response
    }
}
