//! Errors of the control API: what the parts of the cloud say, on its way out.

use axum::response::{IntoResponse, Response};
use cloud_registry::RegistryError;
use cloud_storage::StorageError;
use proto::{Code, ErrorReply, Fault};
use service::http::Refusal;

use crate::identities::IdentityError;
use crate::pops::LossError;

/// An error on its way out.
#[derive(Debug, Clone)]
pub(super) struct ApiError(Refusal);

impl ApiError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Refusal::new(code, message))
    }

    pub(super) fn method_not_allowed() -> Self {
        Self(Refusal::method_not_allowed())
    }

    /// The code, for the audit log.
    pub(super) fn reply(&self) -> &ErrorReply {
        self.0.reply()
    }
}

impl From<ErrorReply> for ApiError {
    fn from(reply: ErrorReply) -> Self {
        Self(reply.into())
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        logged(&error, error.reply())
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        logged(&error, error.reply())
    }
}

impl From<LossError> for ApiError {
    fn from(error: LossError) -> Self {
        logged(&error, error.reply())
    }
}

impl From<IdentityError> for ApiError {
    fn from(error: IdentityError) -> Self {
        logged(&error, error.reply())
    }
}

/// What the system did wrong is logged here, once, with its chain; the caller is told without it.
fn logged(error: &(dyn std::error::Error + 'static), reply: ErrorReply) -> ApiError {
    if reply.code.fault() == Fault::System {
        tracing::error!(error, code = %reply.code, "an API request failed");
    } else {
        tracing::info!(error, code = %reply.code, "an API request was refused");
    }
    reply.into()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}
