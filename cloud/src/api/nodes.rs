//! `POST /v1/nodes/enrolments`, `POST /v1/nodes/{pop}/{node}/revoke`, `GET /v1/nodes/revoked`.

use axum::extract::State;
use axum::{Extension, Json};
use cloud_storage::Storage;
use proto::control::{EnrolNode, EnrolmentToken, RevokeNode, RevokedNode};
use proto::{NodeId, PopId};
use service::http::{Body, Path};

use super::audit;
use super::auth::Caller;
use super::problem::ApiError;
use crate::clock::now_ms;
use crate::identities::Identities;

pub(super) async fn enrolment(
    State(identities): State<Identities>,
    State(storage): State<Storage>,
    Extension(caller): Extension<Caller>,
    Body(asked): Body<EnrolNode>,
) -> Result<Json<EnrolmentToken>, ApiError> {
    match identities.make_token(asked, &caller.0, now_ms()).await {
        Ok(token) => Ok(Json(token)),
        Err(error) => Err(audit::refused(&storage, &caller, "node.enrol_token", error.into()).await),
    }
}

pub(super) async fn revoke(
    State(identities): State<Identities>,
    State(storage): State<Storage>,
    Extension(caller): Extension<Caller>,
    Path((pop, node)): Path<(PopId, u64)>,
    Body(asked): Body<RevokeNode>,
) -> Result<Json<RevokedNode>, ApiError> {
    match identities.revoke(&pop, NodeId(node), &asked, &caller.0, now_ms()).await {
        Ok(revoked) => Ok(Json(revoked)),
        Err(error) => Err(audit::refused(&storage, &caller, "node.revoke", error.into()).await),
    }
}

pub(super) async fn revoked(State(storage): State<Storage>) -> Result<Json<Vec<RevokedNode>>, ApiError> {
    Ok(Json(storage.revoked().await?))
}
