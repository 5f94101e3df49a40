//! Errors as they are said over HTTP: problem+json (RFC 9457) with the code of `proto`.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use proto::control::Problem;
use proto::{Code, ErrorReply, Fault};

/// As much as is kept of what others say of an error, in bytes.
const DETAIL_BYTES_MAX: usize = 4 * 1024;

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

    /// With another status than that of its code.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
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
        let ErrorReply { code, message, retry_after_ms } = self.reply.clone();
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
        response.extensions_mut().insert(self);
        response
    }
}

/// Makes errors that others said, an extractor or a layer of a library, problems as ours are: the same status and headers, and their text
/// as far as it goes. Ours are found among the extensions of their responses.
pub async fn problem(response: Response) -> Response {
    let status = response.status();
    let ours = response.extensions().get::<Refusal>().is_some();
    if ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = axum::body::to_bytes(body, DETAIL_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let detail = match text.as_str() {
        "" => status.canonical_reason().unwrap_or("the request was refused").to_lowercase(),
        text => text.to_owned(),
    };
    let problem = Refusal::new(code(status), detail).with_status(status).into_response();
    head.headers.remove(header::CONTENT_LENGTH);
    let (said, body) = problem.into_parts();
    head.headers.extend(said.headers);
    head.extensions.extend(said.extensions);
    Response::from_parts(head, body)
}

/// The code for a status that others chose.
fn code(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::LENGTH_REQUIRED | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Code::Malformed
        }
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::Forbidden,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::URI_TOO_LONG
        | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Code::TooLarge,
        StatusCode::TOO_MANY_REQUESTS => Code::RateLimited,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        status if status.is_server_error() => Code::Internal,
        _ => Code::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(response: Response) -> (StatusCode, Problem) {
        let status = response.status();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn what_others_say_is_said_as_a_problem() {
        let text = (StatusCode::PAYLOAD_TOO_LARGE, "length limit exceeded").into_response();
        let (status, problem_said) = said(problem(text).await).await;
        assert_eq!((status, problem_said.code), (StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge));
        assert_eq!(problem_said.detail, "length limit exceeded");
        let empty = (StatusCode::UNSUPPORTED_MEDIA_TYPE, [(header::ACCEPT_ENCODING, "gzip")]).into_response();
        let response = problem(empty).await;
        assert_eq!(response.headers()[header::ACCEPT_ENCODING], "gzip");
        let (status, problem_said) = said(response).await;
        assert_eq!((status.as_u16(), problem_said.status), (415, 415));
        assert_eq!(problem_said.detail, "unsupported media type");
    }

    #[tokio::test]
    async fn ours_and_what_is_no_error_is_left_alone() {
        let ours = problem(Refusal::new(Code::Conflict, "twice").into_response()).await;
        assert_eq!(said(ours).await.1.detail, "twice");
        let fine = problem((StatusCode::OK, "text").into_response()).await;
        assert_eq!(axum::body::to_bytes(fine.into_body(), 10).await.unwrap(), "text");
    }
}
