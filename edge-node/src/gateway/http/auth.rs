//! App keys, as HTTP brings them.

use std::net::IpAddr;
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
use crate::gateway::apps::{Caller, Scope};

/// What a caller without a key hears.
const ASK_FOR_KEY: &str = "send an app key of this deployment: `Authorization: Bearer KEY`, as the user name of Basic, or ?key=KEY where headers cannot be set";

/// The key that a request brings, where HTTP has a place for one, and from where it comes.
pub(super) struct Presented {
    key: Option<String>,
    address: Option<IpAddr>,
}

impl Presented {
    /// Whether there is a key.
    pub(super) fn is_there(&self) -> bool {
        self.key.is_some()
    }

    /// Who asks, by this key or by `other`: Segment's clients may have it in the body.
    fn known(&self, gateway: &Gateway, other: Option<String>) -> Result<Asker, Refusal> {
        let ask = || Refusal::new(Code::Unauthenticated, ASK_FOR_KEY);
        let key = self.key.clone().or(other).ok_or_else(ask)?;
        let caller = Caller { app: gateway.app(&key)?, address: self.address };
        Ok(Asker { caller, key: key.into() })
    }

    /// Lets whoever asks do something, once.
    pub(super) fn permitted(
        &self,
        gateway: &Gateway,
        other: Option<String>,
        scope: Scope,
    ) -> Result<(), Refusal> {
        Ok(gateway.apps.permit(&self.known(gateway, other)?.caller, scope)?)
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
        let address = parts.extensions.get::<PeerAddress>().and_then(|PeerAddress(address)| *address);
        Ok(Self { key: key_of(&parts.headers).or(key), address })
    }
}

/// Where a request comes from: a part of it, put there by whoever took it in.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerAddress(pub(super) Option<IpAddr>);

/// Who asks, with a key that is known here.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) caller: Caller,
    key: Arc<str>,
}

impl Asker {
    /// What a request of the same brings, when it comes in JSON.
    pub(super) fn headers(&self) -> HeaderMap {
        let key = HeaderValue::try_from(format!("Bearer {}", self.key));
        let mut headers = HeaderMap::new();
        headers.extend(key.ok().map(|key| (header::AUTHORIZATION, key)));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers
    }
}

impl FromRequestParts<Http> for Asker {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, http: &Http) -> Result<Self, Refusal> {
        let presented = Presented::from_request_parts(parts, http).await?;
        presented.known(&Arc::<Gateway>::from_ref(http), None)
    }
}

/// `Bearer KEY`, or Basic with the key as the user's name (RFC 6750, RFC 7617).
pub(super) fn key_of(headers: &HeaderMap) -> Option<String> {
    key_in(headers.get(header::AUTHORIZATION)?)
}

/// The same, of one line.
pub(super) fn key_in(authorization: &HeaderValue) -> Option<String> {
    let (scheme, rest) = authorization.to_str().ok()?.split_once(' ')?;
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
