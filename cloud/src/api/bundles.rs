//! `/v1/bundles` and below, `GET /v1/signing-key`.

use axum::extract::State;
use axum::{Extension, Json};
use cloud_registry::{Registry, RegistryError};
use cloud_storage::Storage;
use proto::control::{BundleView, PublishBundle, SigningKey};
use proto::{Code, Revision};
use serde::Deserialize;
use service::http::{Body, Path, Query};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::audit;
use super::auth::Caller;
use super::input::Limit;
use super::problem::ApiError;
use crate::clock::now_ms;

/// Changes under way. They go on when their caller leaves, and a shutdown waits for them: a publication that stops half way
/// would leave its caller not knowing, and the audit log without a line.
#[derive(Debug, Clone)]
pub(super) struct Changes(pub(super) TaskTracker);

/// Why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    #[serde(default)]
    note: String,
}

pub(super) async fn list(
    State(storage): State<Storage>,
    Query(Limit { limit }): Query<Limit>,
) -> Result<Json<Vec<BundleView>>, ApiError> {
    let bundles = storage.bundles(limit).await?;
    Ok(Json(bundles.iter().map(|bundle| bundle.view()).collect()))
}

pub(super) async fn one(
    State(storage): State<Storage>,
    Path(revision): Path<u64>,
) -> Result<Json<BundleView>, ApiError> {
    let bundle = storage.bundle(Revision(revision)).await?;
    let bundle = bundle.ok_or(RegistryError::NoRevision(Revision(revision)))?;
    Ok(Json(bundle.view()))
}

pub(super) async fn publish(
    State(registry): State<Registry>,
    State(storage): State<Storage>,
    State(changes): State<Changes>,
    Extension(caller): Extension<Caller>,
    Body(bundle): Body<PublishBundle>,
) -> Result<Json<BundleView>, ApiError> {
    let who = caller.0.clone();
    let publishing = async move { registry.publish(bundle, &who, now_ms()).await };
    changes.carry_out(storage, caller, "bundle.publish", publishing).await
}

pub(super) async fn rollback(
    State(registry): State<Registry>,
    State(storage): State<Storage>,
    State(changes): State<Changes>,
    Extension(caller): Extension<Caller>,
    Path(to): Path<u64>,
    Query(Why { note }): Query<Why>,
) -> Result<Json<BundleView>, ApiError> {
    let who = caller.0.clone();
    let going_back = async move { registry.rollback(Revision(to), note, &who, now_ms()).await };
    changes.carry_out(storage, caller, "bundle.rollback", going_back).await
}

pub(super) async fn signing_key(State(registry): State<Registry>) -> Json<SigningKey> {
    Json(SigningKey { ed25519: registry.public_key().to_string() })
}

impl Changes {
    pub(super) async fn carry_out<T: Send + 'static, E: Into<ApiError> + Send + 'static>(
        &self,
        storage: Storage,
        caller: Caller,
        what: &'static str,
        change: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<Json<T>, ApiError> {
        let work = async move {
            match change.await {
                Ok(view) => Ok(Json(view)),
                Err(error) => Err(audit::refused(&storage, &caller, what, error.into()).await),
            }
        };
        let done = self.0.spawn(work.in_current_span()).await;
        done.unwrap_or_else(|_| {
            Err(ApiError::new(Code::Internal, "the change broke off; look at the cloud's log"))
        })
    }
}
