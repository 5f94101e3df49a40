//! `GET /v1/rules`, `PUT /v1/rules`: what people decide of what is served, apart from models and data.

use axum::extract::State;
use axum::{Extension, Json};
use cloud_registry::Registry;
use cloud_storage::Storage;
use proto::bundle::RuleSettings;
use proto::control::BundleView;
use serde::Deserialize;
use service::http::{Body, Query};

use super::auth::Caller;
use super::bundles::Changes;
use super::problem::ApiError;
use crate::clock::now_ms;

/// Why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    #[serde(default)]
    note: String,
}

pub(super) async fn show(State(registry): State<Registry>) -> Result<Json<RuleSettings>, ApiError> {
    Ok(Json(registry.rules().await?))
}

pub(super) async fn set(
    State(registry): State<Registry>,
    State(storage): State<Storage>,
    State(changes): State<Changes>,
    Extension(caller): Extension<Caller>,
    Query(Why { note }): Query<Why>,
    Body(settings): Body<RuleSettings>,
) -> Result<Json<BundleView>, ApiError> {
    let who = caller.0.clone();
    let setting = async move { registry.set_rules(settings, note, &who, now_ms()).await };
    changes.carry_out(storage, caller, "rules.set", setting).await
}
