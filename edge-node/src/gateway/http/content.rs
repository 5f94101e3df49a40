//! `/c/{origin}/…`: the door of the content cache. Anybody may ask: what needs a key is the origin's to refuse.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use edge_cache::origin::OriginError;
use edge_cache::{CACHE_STATUS, Cache, Failure};
use http_body_util::{BodyExt as _, Limited};
use proto::control::{ContentPurged, PurgeContent};
use proto::{Code, ErrorReply};
use service::http::{Body, Refusal};

use super::Http;
use super::auth::{Asker, PeerAddress, key_of};
use crate::gateway::apps::Scope;

/// Largest body of a request that is passed on, in bytes.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Where content is.
pub(super) const PREFIX: &str = "/c/";
/// The same, for metrics.
pub(super) const ROUTE: &str = "/c/{origin}/{*path}";

pub(super) async fn content(http: &Http, mut request: Request) -> Result<Response, Refusal> {
    let (gateway, cache) = (&http.gateway, &http.purger.cache);
    let from = request.extensions().get::<PeerAddress>().and_then(|PeerAddress(address)| *address);
    gateway.apps.permit_address(from)?;
    let target = request.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
    let Some((origin, target)) =
        target.strip_prefix(PREFIX).and_then(|rest| rest.find('/').map(|at| rest.split_at(at)))
    else {
        return Err(Refusal::new(Code::NotFound, "content is at /c/{origin}/…"));
    };
    let headers = request.headers_mut();
    // Of this node's own, not of the origin's: an app key is nobody else's to see.
    if key_of(headers).is_some_and(|key| gateway.apps.find(&key).is_some()) {
        headers.remove(header::AUTHORIZATION);
    }
    let request = request.map(|body| Limited::new(body, BODY_BYTES_MAX).boxed_unsync());
    match cache.serve(origin, target, from, request).await {
        Ok(mut response) => {
            relocate(cache, origin, response.headers_mut());
            Ok(response.map(axum::body::Body::new))
        }
        Err(failure) => Ok(refused(&failure)),
    }
}

/// A redirection within the origin leads back here.
fn relocate(cache: &Cache, origin: &str, headers: &mut HeaderMap) {
    let Some(location) = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()) else { return };
    let moved = cache.path_here(origin, location).and_then(|path| HeaderValue::try_from(path).ok());
    headers.extend(moved.map(|moved| (header::LOCATION, moved)));
}

fn refused(failure: &Failure) -> Response {
    let (code, status) = match failure {
        Failure::NoOrigin(_) => (Code::NotFound, "fwd=bypass; detail=no-origin"),
        Failure::Target => (Code::Invalid, "fwd=bypass; detail=target"),
        Failure::Method => return Refusal::method_not_allowed().into_response(),
        Failure::NotCached => (Code::DeadlineExceeded, "fwd=request; detail=only-if-cached"),
        Failure::Full | Failure::Origin(OriginError::Busy(_)) => {
            (Code::Overloaded, "fwd=miss; detail=overloaded")
        }
        Failure::Origin(OriginError::TimedOut(_)) => (Code::DeadlineExceeded, "fwd=miss; detail=offline"),
        Failure::Origin(_) => (Code::Unavailable, "fwd=miss; detail=offline"),
    };
    let mut reply = ErrorReply::new(code, failure.to_string());
    if let Failure::Origin(OriginError::LeftAlone(_, wait)) = failure {
        reply = reply.retry_after_ms(u32::try_from(wait.as_millis()).unwrap_or(u32::MAX));
    }
    let mut response = Refusal::from(reply).into_response();
    response
        .headers_mut()
        .extend(HeaderValue::try_from(format!("Rockpool; {status}")).ok().map(|did| (CACHE_STATUS, did)));
    response
}

/// `POST /v1/purge`: makes stored content void on all nodes of the PoP.
pub(super) async fn purge(
    State(http): State<Http>,
    asker: Asker,
    Body(asked): Body<PurgeContent>,
) -> Result<Json<ContentPurged>, Refusal> {
    http.gateway.apps.permit(&asker.caller, Scope::Purge)?;
    tracing::info!(target: "audit", app = asker.caller.app.name, urls = asked.urls.len(), tags = asked.tags.len(), all = asked.all, "content is purged");
    Ok(Json(http.purger.purge(&asked).await?))
}
