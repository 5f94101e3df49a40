//! The people's door: the control API, HTTP and JSON with an admin token. What it speaks is in `openapi.json`, which is
//! served, and which a test holds against [`routes`].
//!
//! A request: request id and span → a place among those in flight → the token (for `/v1` and `/metrics`) → its time limit → its handler.

mod artifacts;
mod audit;
mod auth;
mod bundles;
mod events;
mod guard;
mod input;
mod listener;
mod nodes;
mod pops;
mod problem;
mod rollouts;
mod rules;
mod visitors;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRef, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};
use cloud_registry::Registry;
use cloud_storage::Storage;
use proto::Code;
use service::http::Refusal;
use service::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::config::ApiConfig;
use crate::health::Health;
use crate::identities::Identities;
use crate::metrics::ApiMetrics;
use crate::pops::Pops;

pub use auth::{Token, token};
use problem::ApiError;

/// The description of the API (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("../openapi.json");

/// What handlers are made of. Each takes the part it needs.
#[derive(Debug, Clone, FromRef)]
pub struct Api {
    storage: Storage,
    registry: Registry,
    identities: Identities,
    pops: Pops,
    health: Health,
    token: Arc<Token>,
    guard: guard::Guard,
    all_metrics: prometheus::Registry,
    uploads: artifacts::Uploads,
    changes: bundles::Changes,
    limits: Limits,
}

/// How much a request may send and how long it may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    body_bytes_max: usize,
    short: Duration,
    long: Duration,
}

impl Api {
    /// Puts the parts together.
    #[expect(clippy::too_many_arguments, reason = "each part, once, in the composition root")]
    pub fn new(
        config: &ApiConfig,
        token: Token,
        storage: Storage,
        registry: Registry,
        identities: Identities,
        pops: Pops,
        health: Health,
        metrics: ApiMetrics,
        all_metrics: prometheus::Registry,
    ) -> Self {
        let limits = Limits {
            body_bytes_max: config.body_bytes_max,
            short: Duration::from_millis(config.timeout_ms),
            long: Duration::from_millis(config.upload_timeout_ms),
        };
        Self {
            storage,
            registry,
            identities,
            pops,
            health,
            token: Arc::new(token),
            guard: guard::Guard::new(metrics, config.in_flight_max),
            all_metrics,
            uploads: artifacts::Uploads(Arc::new(Semaphore::new(config.uploads_max))),
            changes: bundles::Changes(TaskTracker::new()),
            limits,
        }
    }
}

/// Serves until shutdown; requests in flight are answered first.
pub async fn serve(
    api: Api,
    listener: TcpListener,
    connections_max: usize,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let changes = api.changes.0.clone();
    let service = router(api).into_make_service_with_connect_info::<listener::Address>();
    let listener = listener::Bounded::new(listener, connections_max);
    axum::serve(listener, service).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    // What a caller began and did not wait for.
    changes.close();
    changes.wait().await;
    Ok(())
}

/// Who may ask, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Anybody: says nothing that is secret.
    Open,
    /// Whoever has the token; `timeout_ms`.
    Short,
    /// Whoever has the token; `upload_timeout_ms`.
    Long,
}

/// Every route.
fn routes() -> Vec<(&'static str, Class, MethodRouter<Api>)> {
    vec![
        ("/healthz", Class::Open, get(|| async { "ok\n" })),
        ("/readyz", Class::Open, get(readyz)),
        ("/openapi.json", Class::Open, get(openapi)),
        ("/metrics", Class::Short, get(service::admin::metrics)),
        ("/v1/pops", Class::Short, get(pops::list)),
        ("/v1/pops/{pop}", Class::Short, get(pops::one)),
        ("/v1/pops/{pop}/accept-loss", Class::Long, post(pops::accept_loss)),
        ("/v1/events", Class::Short, get(events::recent)),
        ("/v1/events/count", Class::Short, get(events::count)),
        ("/v1/events/export", Class::Short, get(events::export)),
        ("/v1/artifacts", Class::Long, post(artifacts::store).layer(DefaultBodyLimit::disable())),
        ("/v1/bundles", Class::Long, get(bundles::list).post(bundles::publish)),
        ("/v1/bundles/{revision}", Class::Short, get(bundles::one)),
        ("/v1/bundles/{revision}/rollback", Class::Long, post(bundles::rollback)),
        ("/v1/rollouts", Class::Short, get(rollouts::list)),
        ("/v1/rollouts/{revision}/promote", Class::Short, post(rollouts::promote)),
        ("/v1/rollouts/{revision}/stop", Class::Short, post(rollouts::stop)),
        ("/v1/rules", Class::Long, get(rules::show).put(rules::set)),
        ("/v1/signing-key", Class::Short, get(bundles::signing_key)),
        ("/v1/nodes/enrolments", Class::Short, post(nodes::enrolment)),
        ("/v1/nodes/revoked", Class::Short, get(nodes::revoked)),
        ("/v1/nodes/{pop}/{node}/revoke", Class::Short, post(nodes::revoke)),
        ("/v1/visitors/erase", Class::Short, post(visitors::erase)),
        ("/v1/visitors/erasure", Class::Short, get(visitors::erasure)),
        ("/v1/audit", Class::Short, get(audit::recent)),
    ]
}

/// All routes with what stands before them.
pub fn router(api: Api) -> Router {
    let mut router = Router::new();
    for (path, class, handler) in routes() {
        let time = if class == Class::Long { api.limits.long } else { api.limits.short };
        let timed = handler.layer(middleware::from_fn_with_state(time, guard::within));
        router = router.route(
            path,
            match class {
                Class::Open => timed,
                Class::Short | Class::Long => {
                    timed.layer(middleware::from_fn_with_state(api.clone(), auth::check))
                }
            },
        );
    }
    router
        .fallback(|| async { ApiError::new(Code::NotFound, "no such path; see /openapi.json") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(DefaultBodyLimit::max(api.limits.body_bytes_max))
        .layer(middleware::from_fn_with_state(api.limits, as_problem))
        .layer(middleware::from_fn_with_state(api.guard.clone(), guard::watch))
        .with_state(api)
}

/// Errors of all kinds as problems. Of a body that is too large, axum says so without the limit.
async fn as_problem(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let response = service::http::problem(next.run(request).await).await;
    let refusal = response.extensions().get::<Refusal>();
    let nameless = |refusal: &Refusal| refusal.reply().message.ends_with("length limit exceeded");
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE && refusal.is_some_and(nameless) {
        let detail = format!("the body has more than {} bytes", limits.body_bytes_max);
        return ApiError::new(Code::TooLarge, detail).into_response();
    }
    response
}

async fn readyz(State(health): State<Health>) -> Response {
    match health.check() {
        Ok(()) => (StatusCode::OK, service::admin::said(&health.remarks())).into_response(),
        Err(reason) => ApiError::new(Code::NotReady, reason).into_response(),
    }
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

#[cfg(test)]
mod tests;
