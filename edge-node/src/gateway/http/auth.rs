//! App keys. A key names the app and is shown by every copy of it, so a page may carry one; what it may do is bounded here.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::Code;
use serde::Deserialize;
use service::http::{Query, Refusal};

use super::Http;
use crate::gateway::Gateway;

/// What a caller without a key hears.
const ASK_FOR_KEY: &str = "send an app key of this deployment: `Authorization: Bearer KEY`, as the user name of Basic, or ?key=KEY where headers cannot be set";

/// The key that a request brings, where HTTP has a place for one.
pub(super) struct Presented(Option<String>);

impl Presented {
    /// The app, by this key or by `other`: Segment's clients may have it in the body.
    pub(super) fn known(self, gateway: &Gateway, other: Option<String>) -> Result<App, Refusal> {
        match self.0.or(other) {
            Some(key) if gateway.knows(&key) => Ok(App { key: key.into() }),
            Some(_) => Err(Refusal::new(Code::Unauthenticated, "this app key is not known here")),
            None => Err(Refusal::new(Code::Unauthenticated, ASK_FOR_KEY)),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Presented {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Keyed {
            key: Option<String>,
        }
        let Query(Keyed { key }) = Query::from_request_parts(parts, state).await?;
        Ok(Self(key_of(&parts.headers).or(key)))
    }
}

/// An app that is known here.
#[derive(Clone)]
pub(super) struct App {
    key: Arc<str>,
}

impl App {
    /// What a request of this app brings, when it comes in JSON.
    pub(super) fn headers(&self) -> HeaderMap {
        let key = HeaderValue::try_from(format!("Bearer {}", self.key));
        let mut headers = HeaderMap::new();
        headers.extend(key.ok().map(|key| (header::AUTHORIZATION, key)));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers
    }
}

impl FromRequestParts<Http> for App {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, http: &Http) -> Result<Self, Refusal> {
        let presented = Presented::from_request_parts(parts, http).await?;
        presented.known(&Arc::<Gateway>::from_ref(http), None)
    }
}

/// `Bearer KEY`, or Basic with the key as the user's name (RFC 6750, RFC 7617).
fn key_of(headers: &HeaderMap) -> Option<String> {
    let (scheme, rest) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    Some(text.split_once(':').map_or(text.as_str(), |(user, _)| user).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_where_clients_put_it() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            key_of(&headers)
        };
        assert_eq!(with("Bearer key-1").as_deref(), Some("key-1"));
        assert_eq!(with(&format!("Basic {}", STANDARD.encode("key-1:"))).as_deref(), Some("key-1"));
        assert_eq!(with(&format!("basic {}", STANDARD.encode("key-1"))).as_deref(), Some("key-1"));
        for wrong in ["Basic !", "Digest x", "Bearer"] {
            assert_eq!(with(wrong), None, "{wrong}");
        }
        assert_eq!(key_of(&HeaderMap::new()), None);
    }
}
