//! What stands before every route: a request id, a place among the requests in flight, a time limit, metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use proto::Code;
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::problem::ApiError;
use crate::metrics::ApiMetrics;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that a caller may choose, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Counts requests, and bounds how many run.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    metrics: ApiMetrics,
    in_flight: Arc<Semaphore>,
}

impl Guard {
    pub(super) fn new(metrics: ApiMetrics, in_flight_max: usize) -> Self {
        Self { metrics, in_flight: Arc::new(Semaphore::new(in_flight_max)) }
    }
}

/// Watches over one request.
pub(super) async fn watch(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id(request.headers());
    let method = known_method(request.method());
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("api", request_id = id.to_str().unwrap_or_default(), method, route);
    let mut response = match guard.in_flight.try_acquire() {
        Ok(_place) => next.run(request).instrument(span.clone()).await,
        Err(_) => ApiError::new(Code::Overloaded, "too many requests in flight").into_response(),
    };
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    guard.metrics.answered(method, &route, status, took);
    span.in_scope(|| tracing::debug!(status, took_us = took.as_micros(), "answered"));
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Gives the request its time, and no more.
pub(super) async fn within(State(time): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("not done within {} ms; whether it will be is unknown", time.as_millis());
            ApiError::new(Code::DeadlineExceeded, detail).into_response()
        }
    }
}

/// The caller's id, if it is a sound one; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sound = |id: &&HeaderValue| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(sound).cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::now_v7().to_string();
        HeaderValue::from_str(&id).expect("a UUID's text is ASCII")
    })
}

/// A caller can invent methods, and each would be a metric of its own.
fn known_method(method: &axum::http::Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_request_id_is_kept_and_another_replaced() {
        let with = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            request_id(&headers)
        };
        assert_eq!(with(b"abc-1"), "abc-1");
        for wrong in [&b""[..], b"a b", &[b'x'; REQUEST_ID_BYTES_MAX + 1]] {
            assert_eq!(with(wrong).len(), 36, "{wrong:?}");
        }
    }

    #[test]
    fn invented_methods_share_a_metric() {
        assert_eq!(known_method(&axum::http::Method::from_bytes(b"BREW").unwrap()), "other");
        assert_eq!(known_method(&axum::http::Method::GET), "GET");
    }
}
