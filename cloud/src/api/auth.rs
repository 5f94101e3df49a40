//! The admin token, and who a change is written down for.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use proto::Code;
use service::secrets;

use super::listener::Address;
use super::problem::ApiError;

/// A token shorter than this can be guessed, in bytes.
const TOKEN_BYTES_MIN: usize = 16;

/// The admin token. It is never shown.
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The token from the environment, else from its file; makes one where neither is.
pub fn token(given: Option<String>, file: &Path) -> anyhow::Result<Token> {
    let text = match given {
        Some(given) => given,
        None if file.exists() => secrets::read(file)?,
        None => {
            let made = secrets::generate();
            secrets::write_new(file, &made)?;
            tracing::info!(file = %file.display(), "made the admin token");
            made
        }
    };
    Token::new(text).with_context(|| format!("the admin token of {}", file.display()))
}

impl Token {
    fn new(text: String) -> anyhow::Result<Self> {
        let sound = text.len() >= TOKEN_BYTES_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
        anyhow::ensure!(
            sound,
            "it must have at least {TOKEN_BYTES_MIN} bytes of printable ASCII without spaces"
        );
        Ok(Self(text))
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, shown) = value.as_bytes().split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(shown)
        });
        shown.is_some_and(|shown| secrets::equal(shown, self.0.as_bytes()))
    }
}

/// Who asks: whoever holds the token, from where.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) String);

/// Lets requests with the token pass.
pub(super) async fn check(State(token): State<Arc<Token>>, mut request: Request, next: Next) -> Response {
    let from = request.extensions().get::<ConnectInfo<Address>>().map(|info| info.0.0.ip().to_string());
    let from = from.unwrap_or_else(|| "unknown".to_owned());
    if !token.admits(request.headers()) {
        tracing::warn!(from, "an API request without the admin token");
        let detail = "send the admin token: `Authorization: Bearer <token>`";
        return ApiError::new(Code::Unauthenticated, detail).into_response();
    }
    request.extensions_mut().insert(Caller(format!("admin@{from}")));
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn only_the_token_itself_is_admitted() {
        let token = Token::new("0123456789abcdef".into()).unwrap();
        assert!(token.admits(&headers("Bearer 0123456789abcdef")));
        assert!(token.admits(&headers("bearer 0123456789abcdef")));
        for wrong in
            ["", "Bearer", "Bearer ", "Bearer 0123456789abcdee", "Basic 0123456789abcdef", "0123456789abcdef"]
        {
            assert!(!token.admits(&headers(wrong)), "{wrong:?}");
        }
        assert!(!token.admits(&HeaderMap::new()));
    }

    #[test]
    fn a_short_or_empty_token_admits_nobody() {
        assert!(Token::new(String::new()).is_err());
        assert!(Token::new("short".into()).is_err());
        assert!(Token::new("has a space in the middle".into()).is_err());
    }

    #[test]
    fn the_token_comes_from_the_environment_the_file_or_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("admin.token");
        let made = token(None, &file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(token(None, &file).unwrap().0, made.0, "the same at the next start");
        assert_eq!(token(Some("from-the-environment".into()), &file).unwrap().0, "from-the-environment");
        assert!(token(Some(String::new()), &file).is_err(), "an empty variable is a mistake, not a wish");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(token(None, &file).is_err());
    }

    #[test]
    fn the_token_is_not_shown() {
        assert_eq!(format!("{:?}", Token::new("0123456789abcdef".into()).unwrap()), "Token");
    }
}
