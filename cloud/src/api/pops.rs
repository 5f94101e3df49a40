//! `GET /v1/pops`, `GET /v1/pops/{pop}`, `POST /v1/pops/{pop}/accept-loss`.

use axum::extract::State;
use axum::{Extension, Json};
use cloud_storage::Storage;
use proto::control::{AcceptLoss, LossAccepted, PopView};
use proto::{Code, PopId};
use service::http::{Body, Path};

use super::auth::Caller;
use super::bundles::Changes;
use super::problem::ApiError;
use crate::clock::now_ms;
use crate::pops::Pops;

pub(super) async fn list(State(pops): State<Pops>) -> Result<Json<Vec<PopView>>, ApiError> {
    Ok(Json(pops.list(now_ms()).await?))
}

pub(super) async fn one(State(pops): State<Pops>, Path(pop): Path<PopId>) -> Result<Json<PopView>, ApiError> {
    let view = pops.one(&pop, now_ms()).await?;
    view.map(Json).ok_or_else(|| ApiError::new(Code::NotFound, format!("no PoP {pop} ever spoke")))
}

pub(super) async fn accept_loss(
    State(pops): State<Pops>,
    State(storage): State<Storage>,
    State(changes): State<Changes>,
    Extension(caller): Extension<Caller>,
    Path(pop): Path<PopId>,
    Body(asked): Body<AcceptLoss>,
) -> Result<Json<LossAccepted>, ApiError> {
    let who = caller.0.clone();
    let accepting = async move { pops.accept_loss(&pop, &asked, &who, now_ms()).await };
    changes.carry_out(storage, caller, "cloud.accept_loss", accepting).await
}
