//! What stands before every route: a request id, the trace, a time limit, metrics; and what is said to those who come to none.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use edge_cache::CACHE_STATUS;
use http_body::{Body as _, Frame, SizeHint};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use proto::{Code, TraceId};
use service::http::{REQUEST_ID, Refusal, known_method, request_id};
use tracing::Instrument;

use super::leftover::Whole;
use super::{Http, content};
use crate::clock;

/// How long a request may take, its body included: the longest deadline, and as long again.
pub(super) const REQUEST_WITHIN: Duration = Duration::from_secs(20);

/// What the door counts.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    /// Of content: looked up once, as most of it takes no longer than that.
    content_seconds: Histogram,
    /// Of bodies of the tracking API.
    changed: IntCounter,
    skipped: IntCounter,
    /// Connections now.
    pub connections: IntGauge,
    /// Of those that were, what made room for others.
    pub displaced: IntCounter,
}

impl HttpMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let requests =
            Opts::new("rockpool_http_requests_total", "Requests over HTTP, by method, route and status");
        let requests = IntCounterVec::new(requests, &["method", "route", "status"])?;
        let seconds =
            HistogramOpts::new("rockpool_http_request_seconds", "Time to answer over HTTP, by route")
                .buckets(prometheus::exponential_buckets(0.0005, 2.0, 15)?);
        let seconds = HistogramVec::new(seconds, &["route"])?;
        let changed = "Parts of messages of the tracking API that were kept otherwise than they were said";
        let changed = IntCounter::new("rockpool_http_segment_changed_total", changed)?;
        registry.register(Box::new(changed.clone()))?;
        let skipped = "Messages of the tracking API, and parts of them, that were wrong, and skipped";
        let skipped = IntCounter::new("rockpool_http_segment_skipped_total", skipped)?;
        registry.register(Box::new(skipped.clone()))?;
        let connections = IntGauge::new("rockpool_http_connections", "Connections over HTTP now")?;
        let displaced = "Connections over TCP that were ended to make room for others";
        let displaced = IntCounter::new("rockpool_http_displaced_total", displaced)?;
        registry.register(Box::new(displaced.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        let content_seconds = seconds.with_label_values(&[content::ROUTE]);
        Ok(Self { requests, seconds, content_seconds, changed, skipped, connections, displaced })
    }

    fn seconds(&self, route: &str) -> Histogram {
        match route {
            content::ROUTE => self.content_seconds.clone(),
            route => self.seconds.with_label_values(&[route]),
        }
    }

    /// What of a body of the tracking API was not kept as it was said.
    pub(super) fn count_notes(&self, changed: usize, skipped: usize) {
        self.changed.inc_by(changed as u64);
        self.skipped.inc_by(skipped as u64);
    }
}

/// Watches over one request of a route.
pub(super) async fn watch(State(http): State<Http>, mut request: Request, next: Next) -> Response {
    let watch = Watch::begin(&http, &request);
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    request.extensions_mut().insert(watch.trace);
    let response = watch.within(&route, next.run(request.map(whole))).await;
    watch.end(&route, response)
}

/// Was asked with HEAD.
#[derive(Debug, Clone, Copy)]
struct Head;

/// What is answered to HEAD is what GET would be, but for the body (RFC 9110, 9.3.2): so it is asked with GET of all that stands behind,
/// and [`Watch`] leaves the body out, when it is known how it would have been sent.
pub(super) fn as_get(mut request: Request) -> Request {
    if *request.method() == Method::HEAD {
        *request.method_mut() = Method::GET;
        request.extensions_mut().insert(Head);
    }
    request
}

/// A body that is not sent, of whatever length.
struct Unsent;

impl http_body::Body for Unsent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    // Its length is unknown: nobody is to say that it is 0.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A body that is read to its end, whatever becomes of its request.
pub(super) fn whole(body: Body) -> Body {
    if body.is_end_stream() { body } else { Body::new(Whole::new(body)) }
}

/// What is known of a request while it is answered.
pub(super) struct Watch<'a> {
    http: &'a Http,
    begun: Instant,
    id: HeaderValue,
    trace: Trace,
    method: &'static str,
    version: Version,
}

impl<'a> Watch<'a> {
    pub(super) fn begin<B>(http: &'a Http, request: &axum::http::Request<B>) -> Self {
        let headers = request.headers();
        Self {
            http,
            begun: Instant::now(),
            id: request_id(headers),
            trace: Trace::of(headers),
            method: match request.extensions().get::<Head>() {
                Some(Head) => "HEAD",
                None => known_method(request.method()),
            },
            version: request.version(),
        }
    }

    /// Answers within the time that a request may take.
    pub(super) async fn within(&self, route: &str, answer: impl Future<Output = Response>) -> Response {
        let Self { id, trace, method, .. } = self;
        let span = tracing::debug_span!("http", request_id = id.to_str().unwrap_or_default(), trace_id = %trace.id, method, route);
        let answered = tokio::time::timeout(REQUEST_WITHIN, answer.instrument(span)).await;
        answered.unwrap_or_else(|_| {
            let detail =
                format!("not done within {} s; whether it will be is unknown", REQUEST_WITHIN.as_secs());
            Refusal::new(Code::DeadlineExceeded, detail).into_response()
        })
    }

    /// Counts it.
    pub(super) fn end(self, route: &str, response: Response) -> Response {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.http.metrics.seconds(route).observe(seconds);
        self.sent(route, response)
    }

    /// Says what every answer says.
    fn sent(self, route: &str, mut response: Response) -> Response {
        let Self { http, id, method, version, .. } = self;
        http.metrics.requests.with_label_values(&[method, route, response.status().as_str()]).inc();
        if method == Method::HEAD && !response.body().is_end_stream() {
            let len = std::mem::replace(response.body_mut(), Body::new(Unsent)).size_hint().exact();
            let len = len.map(|len| (header::CONTENT_LENGTH, HeaderValue::from(len)));
            response.headers_mut().extend(len);
        }
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, id);
        if version <= Version::HTTP_11 && http.leaving.is_cancelled() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // Answers are about one visitor at one moment; content is what its origin says.
        if !headers.contains_key(CACHE_STATUS) {
            headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        }
        response
    }
}

/// Refuses what the node cannot do: before anything is spent on it, and not sooner than its caller does harm by asking again.
pub(super) async fn shed(http: &Http, request: Request) -> Response {
    let watch = Watch::begin(http, &request);
    let shedder = &http.gateway.shedder;
    // Whoever still sends may look for an answer only then.
    drop(whole(request.into_body()));
    shedder.hold_back().await;
    watch.sent("none", Refusal::from(shedder.refusal()).into_response())
}

/// Now, as HTTP says it.
pub(super) fn date() -> HeaderValue {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(clock::now_ms());
    HeaderValue::try_from(httpdate::fmt_http_date(now)).expect("a date is ASCII")
}

/// The trace that a request belongs to: the caller's (<https://www.w3.org/TR/trace-context/>), or a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) id: TraceId,
}

impl Trace {
    fn of(headers: &HeaderMap) -> Self {
        let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
        let id = parent.and_then(trace_id).unwrap_or_else(|| TraceId(fastrand::u128(1..)));
        Self { id }
    }
}

/// Version 00, or what a later version must begin with.
pub(super) fn trace_id(parent: &str) -> Option<TraceId> {
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut fields = parent.split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let lengths = [version.len(), trace.len(), span.len(), flags.len()] == [2, 32, 16, 2];
    let sound = lengths && [version, trace, span, flags].into_iter().all(hex);
    if !sound
        || version == "ff"
        || (version == "00" && fields.next().is_some())
        || span.bytes().all(|b| b == b'0')
    {
        return None;
    }
    u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0).map(TraceId)
}

impl<S: Sync> FromRequestParts<S> for Trace {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Trace>().copied().unwrap_or_else(|| Trace::of(&parts.headers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples of the specification, and what it says of others.
    #[test]
    fn a_traceparent_is_read_as_the_specification_says() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let whole = Some(TraceId(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c));
        assert_eq!(trace_id(&format!("00-{trace}-b7ad6b7169203331-01")), whole);
        assert_eq!(trace_id(&format!("cc-{trace}-b7ad6b7169203331-01-what-the-future-holds")), whole);
        for wrong in [
            format!("00-{trace}-b7ad6b7169203331-01-more"),
            format!("ff-{trace}-b7ad6b7169203331-01"),
            format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}"),
            String::new(),
        ] {
            assert_eq!(trace_id(&wrong), None, "{wrong}");
        }
    }
}
