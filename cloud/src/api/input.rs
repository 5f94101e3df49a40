//! What a request says: path, query and JSON body, with errors in our own form.

use axum::extract::{FromRequest, FromRequestParts};
use serde::Deserialize;

use super::problem::ApiError;

/// A JSON body.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(ApiError))]
pub(super) struct Body<T>(pub(super) T);

/// A query string.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub(super) struct Query<T>(pub(super) T);

/// Parts of the path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub(super) struct Path<T>(pub(super) T);

/// `?limit=`; each query has a maximum of its own.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    #[serde(default = "limit_default")]
    pub(super) limit: u32,
}

/// How many rows without `?limit=`.
pub(super) fn limit_default() -> u32 {
    100
}
