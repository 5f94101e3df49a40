//! Connections of the HTTP door: so many, each within its times, and ended in order.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::tcp::{Caller, TcpDoor};

use super::auth::PeerAddress;
use super::crowd::{Crowd, Joined};
use super::{HttpMetrics, Routes};
use crate::config::HttpConfig;

/// What is spoken here, the best first.
pub const ALPN: &[&[u8]] = &[HTTP_2, b"http/1.1"];
const HTTP_2: &[u8] = b"h2";
/// How long the head of a request may take to come, and a connection of HTTP/1.1 to stay silent between two: of what has come of a head,
/// nobody knows there.
pub(super) const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection of HTTP/2 or 3 may stay silent between two requests.
pub(super) const SILENT_MAX: Duration = Duration::from_secs(60);
/// How often a silent HTTP/2 connection is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(20);
/// How long it may take to say so.
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// How long requests in flight may take to finish when their connection is to end.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may take to end on which nothing was asked: there may be a head that does not come to its end.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long one may take that has to make room for others: what it has been told is on its way.
const DISPLACED_WITHIN: Duration = Duration::from_millis(100);
/// Newcomers that are taken in between two turns of all else that is ready.
const NEWCOMERS_A_TURN: usize = 4;
/// Before the next try, where the system cannot accept: it is out of descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Most bytes of a request's header.
pub(super) const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// Serves until shutdown, and for a notice longer, so that whoever sends requests here sees that this node leaves before it is gone: it
/// is not ready, HTTP/2 hears GOAWAY, each answer of HTTP/1.1 is its connection's last. Then what is in flight is answered.
pub(super) async fn serve(
    door: TcpDoor,
    routes: Arc<Routes>,
    config: HttpConfig,
    metrics: HttpMetrics,
    shutdown: CancellationToken,
) {
    let (builders, connections) = (Arc::new(Builders::new(&config)), TaskTracker::new());
    let crowd = Arc::new(Crowd::of(config.connections_max));
    let times = Times {
        age_max: Duration::from_millis(config.connection_age_max_ms),
        notice: Duration::from_millis(config.notice_ms),
    };
    let (mut last, mut came) = (None, 0_usize);
    let mut left = pin!(async {
        shutdown.cancelled().await;
        tokio::time::sleep(times.notice).await;
    });
    loop {
        let unused = last.is_none_or(|last: Instant| last.elapsed() > HEAD_WITHIN) && connections.is_empty();
        let caller = tokio::select! {
            () = &mut left => break,
            () = shutdown.cancelled(), if unused => break,
            caller = door.accept() => caller,
        };
        last = Some(Instant::now());
        came += 1;
        if came.is_multiple_of(NEWCOMERS_A_TURN) {
            tokio::task::yield_now().await;
        }
        match caller {
            Ok(caller) => {
                let (builders, routes, shutdown) =
                    (Arc::clone(&builders), Arc::clone(&routes), shutdown.clone());
                if crowd.makes_room(door.places_left()) {
                    metrics.displaced.inc();
                }
                let (gauge, joined) = (metrics.connections.clone(), crowd.join());
                connections.spawn(async move {
                    gauge.inc();
                    let address = caller.address();
                    let talk = converse(caller, &joined, &builders, &routes, times, &shutdown);
                    if let Err(error) = talk.await {
                        tracing::debug!(%address, error, "a connection ended badly");
                    }
                    gauge.dec();
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(door);
    connections.close();
    connections.wait().await;
}

#[derive(Clone, Copy)]
struct Times {
    /// Of a connection.
    age_max: Duration,
    /// Between the node's being told to end and its doing so.
    notice: Duration,
}

/// One connection: until the other side ends it, its time is over, others need its place, or the node ends.
async fn converse(
    caller: Caller,
    joined: &Joined,
    builders: &Builders,
    routes: &Arc<Routes>,
    times: Times,
    shutdown: &CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let from = PeerAddress(Some(caller.address().ip()));
    let connection = tokio::select! {
        shaken = caller.shake_hands() => shaken?,
        () = joined.displaced() => return Ok(()),
    };
    // HTTP/1.1 has no word for "no more requests" but an answer: a silent connection that is closed may just be asked something.
    let speaks_http2 = connection.protocol() == Some(HTTP_2);
    let notice = if speaks_http2 { Duration::ZERO } else { times.notice };
    let builder = if speaks_http2 { &builders.http2 } else { &builders.http1 };
    let _place = connection.place;
    let io = TokioIo::new(connection.stream);
    let (activity, silent_max) = (joined.activity(), if speaks_http2 { SILENT_MAX } else { HEAD_WITHIN });
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(from);
        let (busy, routes) = (activity.begin(), Arc::clone(routes));
        async move {
            let answer = routes.answer(request).await;
            Ok::<_, Infallible>(answer.map(|body| busy.until_sent(body)))
        }
    });
    let mut talk = pin!(builder.serve_connection(io, service));
    tokio::select! {
        ended = talk.as_mut() => return ended,
        () = activity.unused(silent_max) => {}
        () = tokio::time::sleep(times.age_max) => {}
        () = joined.displaced() => {}
        () = async {
            shutdown.cancelled().await;
            tokio::time::sleep(notice).await;
        } => {}
    }
    talk.as_mut().graceful_shutdown();
    let rest = async {
        tokio::time::timeout(if activity.asked() { DRAIN_WITHIN } else { CLOSE_WITHIN }, talk).await?
    };
    tokio::select! {
        ended = rest => ended,
        () = async {
            joined.displaced().await;
            tokio::time::sleep(DISPLACED_WITHIN).await;
        } => Ok(()),
    }
}

/// How each of them is spoken. Which, the handshake has said: hyper need not look, and would wait for the first bytes for ever.
struct Builders {
    http1: Builder<TokioExecutor>,
    http2: Builder<TokioExecutor>,
}

impl Builders {
    fn new(config: &HttpConfig) -> Self {
        let (mut http1, mut http2) = (
            Builder::new(TokioExecutor::new()).http1_only(),
            Builder::new(TokioExecutor::new()).http2_only(),
        );
        // Headers are 100 at most: hyper's own limit, which costs nothing. A timer for heads would be set for every request; a connection
        // has one already.
        http1.http1().max_buf_size(HEADERS_BYTES_MAX.max(64 * 1024));
        http2
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN)
            .max_concurrent_streams(config.streams_max)
            // Of what is a little too long, the door itself says so: h2 has a status for it, and no words.
            .max_header_list_size(2 * HEADERS_BYTES_MAX as u32);
        Self { http1, http2 }
    }
}
