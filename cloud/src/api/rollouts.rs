//! `GET /v1/rollouts`, `POST /v1/rollouts/{revision}/promote`, `POST /v1/rollouts/{revision}/stop`.

use axum::extract::State;
use axum::{Extension, Json};
use cloud_registry::Registry;
use cloud_storage::Storage;
use proto::Revision;
use proto::control::{EndRollout, RolloutView};
use service::http::{Body, Path, Query};

use super::auth::Caller;
use super::bundles::Changes;
use super::input::Limit;
use super::problem::ApiError;
use crate::clock::now_ms;

pub(super) async fn list(
    State(registry): State<Registry>,
    Query(Limit { limit }): Query<Limit>,
) -> Result<Json<Vec<RolloutView>>, ApiError> {
    Ok(Json(registry.rollouts(limit).await?))
}

pub(super) async fn promote(
    State(registry): State<Registry>,
    State(storage): State<Storage>,
    State(changes): State<Changes>,
    Extension(caller): Extension<Caller>,
    Path(revision): Path<u64>,
    Body(EndRollout { reason }): Body<EndRollout>,
) -> Result<Json<RolloutView>, ApiError> {
    let who = caller.0.clone();
    let promoting = async move { registry.promote(Revision(revision), &reason, &who, now_ms()).await };
    changes.carry_out(storage, caller, "rollout.promote", promoting).await
}

pub(super) async fn stop(
    State(registry): State<Registry>,
    State(storage): State<Storage>,
    State(changes): State<Changes>,
    Extension(caller): Extension<Caller>,
    Path(revision): Path<u64>,
    Body(EndRollout { reason }): Body<EndRollout>,
) -> Result<Json<RolloutView>, ApiError> {
    let who = caller.0.clone();
    let stopping = async move { registry.stop(Revision(revision), &reason, &who, now_ms()).await };
    changes.carry_out(storage, caller, "rollout.stop", stopping).await
}
