//! `POST /v1/visitors/erase`, `GET /v1/visitors/erasure`: what is known of a visitor goes. What is known is at
//! `GET /v1/events/export?visitor=`, and in each PoP at its nodes' admin ports.

use axum::extract::State;
use axum::{Extension, Json};
use cloud_storage::Storage;
use proto::control::{EraseVisitor, ErasureView};
use proto::{Code, IdError, VisitorId};
use serde::Deserialize;
use service::http::{Body, Query};

use super::audit;
use super::auth::Caller;
use super::problem::ApiError;
use crate::clock::now_ms;

/// Whose erasure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whose {
    visitor: String,
}

pub(super) async fn erase(
    State(storage): State<Storage>,
    Extension(caller): Extension<Caller>,
    Body(EraseVisitor { visitor }): Body<EraseVisitor>,
) -> Result<Json<ErasureView>, ApiError> {
    let erased = match visitor_of(&visitor) {
        Ok(visitor) => storage.erase(&visitor, &caller.0, now_ms()).await.map_err(ApiError::from),
        Err(error) => Err(error),
    };
    match erased {
        Ok(view) => Ok(Json(view)),
        Err(error) => Err(audit::refused(&storage, &caller, "visitor.erase", error).await),
    }
}

pub(super) async fn erasure(
    State(storage): State<Storage>,
    Query(Whose { visitor }): Query<Whose>,
) -> Result<Json<ErasureView>, ApiError> {
    let found = storage.erasure(&visitor_of(&visitor)?).await?;
    found.map(Json).ok_or_else(|| ApiError::new(Code::NotFound, "this visitor was never erased"))
}

fn visitor_of(text: &str) -> Result<VisitorId, ApiError> {
    text.parse().map_err(|error: IdError| ApiError::new(Code::Invalid, error.to_string()))
}
