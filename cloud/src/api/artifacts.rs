//! `POST /v1/artifacts?kind=&digest=`: the body is the file.

use std::sync::Arc;

use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::{Extension, Json};
use cloud_storage::{Storage, StorageError, Upload};
use futures::StreamExt;
use inference::bundle::artifact_bytes_max;
use proto::bundle::ArtifactKind;
use proto::control::ArtifactStored;
use proto::{Code, Digest};
use serde::Deserialize;
use service::http::Query;
use tokio::sync::Semaphore;

use super::audit;
use super::auth::Caller;
use super::problem::ApiError;
use crate::clock::now_ms;

/// Places for uploads.
#[derive(Debug, Clone)]
pub(super) struct Uploads(pub(super) Arc<Semaphore>);

/// What the body is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Announced {
    kind: ArtifactKind,
    /// If given, the body must have it.
    digest: Option<String>,
}

pub(super) async fn store(
    State(storage): State<Storage>,
    State(uploads): State<Uploads>,
    Extension(caller): Extension<Caller>,
    Query(announced): Query<Announced>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ArtifactStored>, ApiError> {
    let Ok(_place) = uploads.0.try_acquire() else {
        return Err(ApiError::new(Code::Overloaded, "too many uploads at once"));
    };
    match take_in(&storage, &caller, announced, &headers, body).await {
        Ok(stored) => Ok(Json(stored)),
        Err(error) => Err(audit::refused(&storage, &caller, "artifact.store", error).await),
    }
}

async fn take_in(
    storage: &Storage,
    caller: &Caller,
    announced: Announced,
    headers: &HeaderMap,
    body: Body,
) -> Result<ArtifactStored, ApiError> {
    let digest = announced.digest.as_deref().map(digest).transpose()?;
    let max = artifact_bytes_max(announced.kind);
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > max) {
        // Said before a byte is read.
        return Err(StorageError::TooLarge { max }.into());
    }
    let mut upload = storage.upload(announced.kind, max).await?;
    receive(&mut upload, body.into_data_stream()).await?;
    Ok(upload.finish(digest, &caller.0, now_ms()).await?)
}

async fn receive(upload: &mut Upload, mut body: BodyDataStream) -> Result<(), ApiError> {
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|e| ApiError::new(Code::Malformed, format!("the body broke off: {e}")))?;
        upload.write(&chunk).await?;
    }
    Ok(())
}

fn digest(text: &str) -> Result<Digest, ApiError> {
    Digest::from_hex(text).ok_or_else(|| ApiError::new(Code::Malformed, "a digest is 64 hex digits"))
}
