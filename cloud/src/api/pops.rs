//! `GET /v1/pops`, `GET /v1/pops/{pop}`.

use axum::Json;
use axum::extract::State;
use cloud_storage::Storage;
use proto::control::PopView;
use proto::{Code, PopId};
use service::http::Path;

use super::problem::ApiError;

pub(super) async fn list(State(storage): State<Storage>) -> Result<Json<Vec<PopView>>, ApiError> {
    Ok(Json(storage.pops().await?))
}

pub(super) async fn one(
    State(storage): State<Storage>,
    Path(pop): Path<PopId>,
) -> Result<Json<PopView>, ApiError> {
    let view = storage.pop(&pop).await?;
    view.map(Json).ok_or_else(|| ApiError::new(Code::NotFound, format!("no PoP {pop} ever spoke")))
}
