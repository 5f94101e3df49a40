//! Errors as they are said over HTTP: problem+json (RFC 9457) with the code of `proto`.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cloud_registry::RegistryError;
use cloud_storage::StorageError;
use proto::control::Problem;
use proto::{Code, ErrorReply, Fault};

use crate::identities::IdentityError;

/// An error on its way out.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    status: StatusCode,
    reply: ErrorReply,
}

impl ApiError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self::from(ErrorReply::new(code, message))
    }

    pub(super) fn method_not_allowed() -> Self {
        let reply = ErrorReply::new(Code::Invalid, "this path does not take this method; see /openapi.json");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, reply }
    }

    /// The code, for the audit log.
    pub(super) fn reply(&self) -> &ErrorReply {
        &self.reply
    }
}

/// The status for a code.
fn status(code: Code) -> StatusCode {
    match code {
        Code::Malformed => StatusCode::BAD_REQUEST,
        Code::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Conflict | Code::OutOfOrder => StatusCode::CONFLICT,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Overloaded | Code::Unavailable | Code::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        Code::Corrupt | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<ErrorReply> for ApiError {
    fn from(reply: ErrorReply) -> Self {
        Self { status: status(reply.code), reply }
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

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let code = match &rejection {
            JsonRejection::JsonDataError(_) => Code::Invalid,
            _ if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
            _ => Code::Malformed,
        };
        Self::new(code, rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Code::Malformed, rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(Code::Malformed, rejection.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let ErrorReply { code, message, retry_after_ms } = self.reply;
        let problem = Problem { code, status: self.status.as_u16(), detail: message };
        let body = serde_json::to_vec(&problem).expect("a problem has text and numbers only");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if code.fault() == Fault::Load {
            let seconds = u64::from(retry_after_ms.unwrap_or(1_000)).div_ceil(1_000);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
