//! Errors as they are said over HTTP: problem+json (RFC 9457) with the code of `proto`.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use proto::control::Problem;
use proto::{Code, ErrorReply, Fault};

/// An error on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    reply: ErrorReply,
}

impl Refusal {
    /// With the status of its code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self::from(ErrorReply::new(code, message))
    }

    /// The path is known, the method is not.
    pub fn method_not_allowed() -> Self {
        let reply = ErrorReply::new(Code::Invalid, "this path does not take this method; see /openapi.json");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, reply }
    }

    /// What is said.
    pub fn reply(&self) -> &ErrorReply {
        &self.reply
    }
}

/// The status for a code.
pub fn status(code: Code) -> StatusCode {
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

impl From<ErrorReply> for Refusal {
    fn from(reply: ErrorReply) -> Self {
        Self { status: status(reply.code), reply }
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        let code = match &rejection {
            JsonRejection::JsonDataError(_) => Code::Invalid,
            _ if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
            _ => Code::Malformed,
        };
        Self::new(code, rejection.body_text())
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Code::Malformed, rejection.body_text())
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::new(Code::Malformed, rejection.body_text())
    }
}

impl IntoResponse for Refusal {
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
        if code.fault() == Fault::Load || self.status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = u64::from(retry_after_ms.unwrap_or(1_000)).div_ceil(1_000);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
