//! The admin port of a process: metrics for Prometheus, liveness, readiness. Bind it to loopback.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use prometheus::{Encoder, Registry, TextEncoder};
use proto::Code;
use tokio::net::TcpListener;

use crate::http::{Refusal, problem};
use crate::shutdown::Shutdown;

/// Says whether the process can serve, and if not, why.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What a person should look at, though the process can serve; one line each.
pub type Remarks = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// `/metrics`, `/healthz` (the process answers) and `/readyz` (it can serve; else 503, and the reason as a problem).
pub fn router(registry: Registry, ready: Readiness, remarks: Remarks) -> Router {
    let metrics = Router::new().route("/metrics", get(metrics)).with_state(registry);
    let readiness = Router::new().route("/readyz", get(readyz)).with_state((ready, remarks));
    Router::new().route("/healthz", get(|| async { "ok\n" })).merge(metrics).merge(readiness)
}

/// Serves until shutdown.
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> std::io::Result<()> {
    let router = router
        .fallback(|| async { Refusal::new(Code::NotFound, "no such path") })
        .method_not_allowed_fallback(|| async { Refusal::method_not_allowed() })
        .layer(middleware::map_response(problem));
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// All metrics, as Prometheus reads them.
pub async fn metrics(State(registry): State<Registry>) -> impl IntoResponse {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {e}\n")).into_response(),
    }
}

async fn readyz(State((ready, remarks)): State<(Readiness, Remarks)>) -> Response {
    match ready() {
        Ok(()) => said(&remarks()).into_response(),
        Err(reason) => Refusal::new(Code::NotReady, reason).into_response(),
    }
}

/// "ready", and what should be looked at all the same.
pub fn said(remarks: &[String]) -> String {
    remarks.iter().fold("ready\n".to_owned(), |text, remark| format!("{text}but: {remark}\n"))
}
