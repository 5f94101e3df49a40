//! `GET /v1/audit`, and the lines that refused changes leave in it. A change that was made writes its own line, in its own
//! transaction.

use axum::Json;
use axum::extract::State;
use cloud_storage::{Change, Storage};
use proto::control::AuditView;
use service::http::Query;

use super::auth::Caller;
use super::input::Limit;
use super::problem::ApiError;
use crate::clock::now_ms;

pub(super) async fn recent(
    State(storage): State<Storage>,
    Query(Limit { limit }): Query<Limit>,
) -> Result<Json<Vec<AuditView>>, ApiError> {
    Ok(Json(storage.audit_recent(limit).await?))
}

/// Writes down that a change was refused.
pub(super) async fn refused(storage: &Storage, caller: &Caller, what: &str, error: ApiError) -> ApiError {
    let change = Change {
        at_ms: now_ms(),
        who: caller.0.clone(),
        what: what.to_owned(),
        detail: format!("refused: {}", error.reply()),
    };
    if let Err(e) = storage.audit(&change).await {
        tracing::error!(
            error = &e as &dyn std::error::Error,
            what,
            "a refused change is missing in the audit log"
        );
    }
    error
}
