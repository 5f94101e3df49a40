//! What stands before every route: a request id, a place among the requests in flight, a time limit, metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use proto::Code;
use service::http::{REQUEST_ID, known_method, request_id};
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::problem::ApiError;
use crate::metrics::ApiMetrics;

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
