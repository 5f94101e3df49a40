//! The HTTP door: HTTP/1.1 and HTTP/2 over TLS, HTTP/3 and WebTransport, JSON in the field's forms, for browsers, servers and tools. What it speaks is in
//! `openapi.json`, which is served, and which a test holds against [`routes`]. It translates to [`proto::client`] and back; what is
//! asked is answered where the SDK's questions are.
//!
//! | module | what |
//! |---|---|
//! | `server` | connections of HTTP/1.1 and 2: how many, how long, how they end |
//! | `http3`, `webtransport` | the same over QUIC, at the SDK's port |
//! | `guard` | what stands before every route: request id, trace, time limit, metrics |
//! | `crowd` | connections that make room for others |
//! | `origins` | whose pages may ask |
//! | `auth` | app keys, wherever a client can put them |
//! | `recommend`, `events` | our own forms |
//! | `content` | what the cache has, and purging it |
//! | `inference` | the Open Inference Protocol: Triton's and KServe's clients can run the models, over REST and gRPC |
//! | `segment` | the HTTP tracking API of Segment: apps that speak it change their host, and no more |

mod activity;
mod auth;
mod bodies;
mod content;
mod crowd;
mod events;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
mod http3;
mod inference;
mod leftover;
mod origins;
mod recommend;
mod segment;
mod server;
mod time;
mod visitor;
mod webtransport;

use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRef, Request, State};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, connect, get, post};
use axum::{Extension, Router, middleware};
use edge_cache::rules::conditional::{Part, part};
use proto::client::{Ask, ClientReply, ClientRequest};
use proto::{Code, Digest, ErrorReply};
use service::admin::Readiness;
use service::http::{Refusal, problem};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, Predicate as _};
use tower_http::decompression::RequestDecompressionLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use transport::quic::QuicListener;
use transport::tcp::TcpDoor;

use super::Gateway;
use super::apps::Caller;
use crate::config::HttpConfig;
use crate::purge::Purger;
use guard::Trace;
use origins::Origins;

pub use guard::HttpMetrics;
pub use segment::shown::segment_message;
pub use server::ALPN;

/// The description of the API (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("../../openapi.json");
const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");
/// Largest body of a request that is no batch, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest path with its query, in bytes.
const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of a request's header fields, and what each takes beside its text (RFC 9113, 6.5.2).
const FIELDS_BYTES_MAX: usize = server::HEADERS_BYTES_MAX;
const FIELD_BYTES: usize = 32;

/// What handlers are made of. It is cloned for every request, more than once.
#[derive(Clone)]
pub struct Http(Arc<Parts>);

/// What it consists of.
pub struct Parts {
    gateway: Arc<Gateway>,
    purger: Purger,
    ready: Readiness,
    metrics: HttpMetrics,
    /// Cancelled when the node is told to end.
    leaving: CancellationToken,
}

impl Http {
    /// Puts the parts together.
    pub fn new(
        gateway: Arc<Gateway>,
        purger: Purger,
        ready: Readiness,
        metrics: HttpMetrics,
        leaving: CancellationToken,
    ) -> Self {
        Self(Arc::new(Parts { gateway, purger, ready, metrics, leaving }))
    }
}

impl Deref for Http {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl FromRef<Http> for Arc<Gateway> {
    fn from_ref(http: &Http) -> Self {
        Arc::clone(&http.gateway)
    }
}

impl FromRef<Http> for HttpMetrics {
    fn from_ref(http: &Http) -> Self {
        http.metrics.clone()
    }
}

impl FromRef<Http> for Readiness {
    fn from_ref(http: &Http) -> Self {
        Arc::clone(&http.ready)
    }
}

/// Where it is served.
pub struct Doors {
    /// HTTP/1.1 and 2.
    pub tcp: TcpDoor,
    /// HTTP/3, beside what the SDK speaks.
    pub quic: Arc<QuicListener>,
}

/// Serves until shutdown, and until what is in flight is answered.
///
/// # Errors
/// Where the settings cannot work.
pub fn serve(
    doors: Doors,
    http: Http,
    config: HttpConfig,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let (metrics, shutdown) = (http.metrics.clone(), http.leaving.clone());
    let (router, refusing) = (router(http.clone(), &config)?, refusing(http.clone(), &config)?);
    let routes = Routes { router, refusing, http, alt_svc: None };
    let udp_port = match config.http3_port {
        0 => doors.quic.local_socket().port(),
        port => port,
    };
    let over_tcp = Arc::new(Routes { alt_svc: Some(alt_svc(udp_port)), ..routes.clone() });
    Ok(async move {
        let over_quic =
            http3::serve(doors.quic, Arc::new(routes), config.http3_connections_max, metrics.clone());
        let over_tcp = server::serve(doors.tcp, over_tcp, config, metrics, shutdown);
        tokio::join!(over_quic, over_tcp);
    })
}

/// Where requests of all doors go.
#[derive(Clone)]
struct Routes {
    router: Router,
    /// Refuses pages so that they can read it.
    refusing: Router,
    http: Http,
    /// What those hear who could come over HTTP/3.
    alt_svc: Option<HeaderValue>,
}

impl Routes {
    async fn answer<B>(&self, request: Request<B>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // A body that is none needs no box.
        let bodiless = request.body().is_end_stream();
        let request = request.map(|body| if bodiless { Body::empty() } else { Body::new(body) });
        let protocol = inference::is_at(request.uri().path());
        let response = match head_is_short(&request) {
            Ok(()) => self.routed(request).await,
            Err(refusal) => refusal.into_response(),
        };
        let mut response = if protocol { inference::with_error(response) } else { response };
        if let Some(alt_svc) = &self.alt_svc {
            response.headers_mut().insert(header::ALT_SVC, alt_svc.clone());
        }
        response
    }

    async fn routed(&self, request: Request) -> Response {
        let path = request.uri().path();
        // Whoever watches the node learns how it is at all times, and a page what it may ask.
        let watches = WATCHING.contains(&path) || *request.method() == Method::OPTIONS;
        if !self.http.gateway.shedder.admits() && !watches {
            return self.refused(request).await;
        }
        // Content goes past all that other routes need: it is sent as its origin sent it, neither packed, nor told whose pages may see it.
        if path.starts_with(content::PREFIX) {
            return content::content(&self.http, request).await;
        }
        let request = guard::as_get(request);
        // What is small when it begins is cheap to pass on.
        let Ok(response) = Box::pin(self.router.clone().oneshot(request)).await;
        response
    }

    async fn refused(&self, request: Request) -> Response {
        if !request.headers().contains_key(header::ORIGIN) {
            return Box::pin(guard::shed(&self.http, request)).await;
        }
        let Ok(response) = Box::pin(self.refusing.clone().oneshot(request)).await;
        response
    }
}

/// How the node is.
const WATCHING: [&str; 4] = ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"];

/// Every route but content's and gRPC's.
fn routes() -> Vec<(&'static str, MethodRouter<Http>)> {
    let mut routes = vec![
        ("/healthz", get(|| async { "ok\n" })),
        ("/readyz", get(readyz)),
        ("/openapi.json", get(openapi)),
        ("/v1/recommend", post(recommend::recommend)),
        ("/v1/events", post(events::track)),
        ("/v1/purge", post(content::purge)),
        ("/v1/session", connect(webtransport::open)),
    ];
    routes.extend([
        ("/v2", get(inference::server)),
        ("/v2/health/live", get(inference::live)),
        ("/v2/health/ready", get(inference::ready)),
        ("/v2/models/{model}", get(inference::model)),
        ("/v2/models/{model}/ready", get(inference::model_ready)),
        ("/v2/models/{model}/infer", post(inference::infer)),
        ("/v2/models/{model}/versions/{version}", get(inference::model)),
        ("/v2/models/{model}/versions/{version}/ready", get(inference::model_ready)),
        ("/v2/models/{model}/versions/{version}/infer", post(inference::infer)),
    ]);
    routes.extend(segment::BATCHES.map(|path| (path, post(segment::batch))));
    routes.extend(segment::KINDS.iter().map(|(path, _)| (*path, post(segment::one))));
    routes
}

/// Largest body of a request to a route, unpacked, in bytes.
fn body_bytes_max(route: &str) -> usize {
    match route {
        "/v1/events" => segment::BATCH_BYTES_MAX,
        route if segment::BATCHES.contains(&route) => segment::BATCH_BYTES_MAX,
        inference::grpc::ROUTE => inference::BODY_BYTES_MAX,
        route if route.ends_with("/infer") => inference::BODY_BYTES_MAX,
        _ => BODY_BYTES_MAX,
    }
}

/// Whether a request's head is no longer than it may be. Of what is longer still, the libraries that read it say so, in a status alone.
fn head_is_short(request: &Request) -> Result<(), Refusal> {
    let too_large = |status, what: &str, bytes_max| {
        let message = format!("{what} has more than {bytes_max} bytes");
        Err(Refusal::new(Code::TooLarge, message).with_status(status))
    };
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > TARGET_BYTES_MAX {
        return too_large(StatusCode::URI_TOO_LONG, "the path with its query", TARGET_BYTES_MAX);
    }
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + FIELD_BYTES;
    if request.headers().iter().map(field).sum::<usize>() > FIELDS_BYTES_MAX {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return too_large(status, "the header", FIELDS_BYTES_MAX);
    }
    Ok(())
}

/// Errors of all kinds as problems, and with what the inference protocol has beside.
async fn as_problem(request: Request, next: Next) -> Response {
    let protocol = inference::is_at(request.uri().path());
    let infers = request.uri().path().ends_with("/infer");
    let response = problem(next.run(request).await).await;
    if !protocol {
        return response;
    }
    let mut response = inference::with_error(response);
    if !(infers && response.status().is_success()) {
        response.extensions_mut().insert(Unpacked);
    }
    response
}

/// Is not packed, whatever is accepted: Triton's server packs tensors only, and its client for asyncio, which says that it accepts gzip,
/// unpacks nothing else.
#[derive(Debug, Clone, Copy)]
struct Unpacked;

fn may_be_packed(_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions) -> bool {
    extensions.get::<Unpacked>().is_none()
}

/// All routes with what stands before them.
fn router(http: Http, config: &HttpConfig) -> anyhow::Result<Router> {
    let origins = Origins::new(&config.cors_origins)?;
    let mut router = Router::new();
    for (path, handler) in routes() {
        router = router.route(path, handler);
    }
    let router = router
        .route(inference::grpc::ROUTE, post(inference::grpc::call))
        .fallback(|| async { Refusal::new(Code::NotFound, "no such path; see /openapi.json") })
        .method_not_allowed_fallback(|| async { Refusal::method_not_allowed() })
        .layer(middleware::from_fn_with_state(bodies::Room::new(), bodies::bounded))
        .layer(RequestDecompressionLayer::new())
        // What is said of it in `bodies` comes first.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(as_problem))
        .layer(CompressionLayer::new().compress_when(DefaultPredicate::new().and(may_be_packed)))
        .layer(SetResponseHeaderLayer::overriding(TIMING_ALLOW_ORIGIN, origins.timing()))
        .layer(origins.cors())
        .layer(Extension(origins))
        .layer(middleware::from_fn_with_state(http.clone(), guard::watch));
    Ok(router.with_state(http))
}

/// Refuses, with what lets a page of an origin that may ask read it.
fn refusing(http: Http, config: &HttpConfig) -> anyhow::Result<Router> {
    let refuse = async |State(http): State<Http>, request: Request| guard::shed(&http, request).await;
    let origins = Origins::new(&config.cors_origins)?;
    Ok(Router::new().fallback(refuse).layer(origins.cors()).with_state(http))
}

/// That the same is served over HTTP/3, at this UDP port (RFC 7838).
fn alt_svc(udp_port: u16) -> HeaderValue {
    let value = format!("h3=\":{udp_port}\"; ma={}", 24 * 60 * 60);
    HeaderValue::try_from(value).expect("digits and ASCII")
}

/// Asks what the SDK would have asked.
async fn ask(
    gateway: &Gateway,
    caller: &Caller,
    trace: Trace,
    deadline_ms: u32,
    ask: Ask,
) -> Result<ClientReply, Refusal> {
    answered(gateway.answer(caller, ClientRequest { trace: trace.id, deadline_ms, ask }).await)
}

fn answered(reply: ClientReply) -> Result<ClientReply, Refusal> {
    match reply {
        ClientReply::Error(reply) => Err(reply.into()),
        reply => Ok(reply),
    }
}

/// A reply of another kind than the question.
fn unexpected(reply: &ClientReply) -> Refusal {
    ErrorReply::new(Code::Internal, format!("a reply of another kind: {reply:?}")).into()
}

async fn readyz(State(ready): State<Readiness>) -> Response {
    match ready() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => Refusal::new(Code::NotReady, reason).into_response(),
    }
}

async fn openapi(method: Method, headers: HeaderMap) -> Response {
    static TAG: LazyLock<HeaderValue> = LazyLock::new(|| {
        let digest = Digest::of(OPENAPI.as_bytes()).to_string();
        HeaderValue::try_from(format!("\"{}\"", &digest[..16])).expect("hex digits and quotes")
    });
    let ours = HeaderMap::from_iter([(header::ETAG, TAG.clone())]);
    let caching = (header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    let sent = part(&method, &headers, StatusCode::OK, &ours, None);
    let mut response = match sent {
        Part::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        _ => ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response(),
    };
    response.headers_mut().extend(ours.into_iter().chain([(Some(caching.0), caching.1)]));
    response
}

#[cfg(test)]
mod tests;
