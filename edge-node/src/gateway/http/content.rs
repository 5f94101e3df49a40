//! `/c/{origin}/…`: the door of the content cache. Anybody may ask: what needs a key is the origin's to refuse.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use edge_cache::origin::OriginError;
use edge_cache::upload::UploadError;
use edge_cache::{CACHE_STATUS, CacheBody, Failure, Looked};
use http_body_util::BodyExt as _;
use proto::control::{ContentPurged, PurgeContent};
use proto::{Code, ErrorReply};
use service::http::{Body as JsonBody, Refusal};

use super::auth::{Asker, PeerAddress, key_in};
use super::guard::Watch;
use super::{Http, guard};
use crate::gateway::apps::Scope;

/// Where content is.
pub(super) const PREFIX: &str = "/c/";
/// The same, for metrics.
pub(super) const ROUTE: &str = "/c/{origin}/{*path}";

/// Answers a request for content. Most are answered with what is stored, at once: only the others carry along what waiting needs.
pub(super) async fn content(http: &Http, request: Request) -> Response {
    let watch = Watch::begin(http, &request);
    let (head, body) = request.into_parts();
    let body = guard::whole(body);
    let uri = head.uri.clone();
    let response = match look(http, &uri, head) {
        Ok(Looked::Hit(response)) => located(http, &uri, response),
        Ok(Looked::Ask(wanted)) => {
            let answer = async {
                let body = body.map_err(Into::into).boxed_unsync();
                match http.purger.cache.ask(wanted, body).await {
                    Ok(response) => located(http, &uri, response),
                    Err(failure) => refused(&failure),
                }
            };
            Box::pin(watch.within(ROUTE, answer)).await
        }
        Err(response) => *response,
    };
    watch.end(ROUTE, response)
}

fn look(http: &Http, uri: &Uri, mut head: Parts) -> Result<Looked, Box<Response>> {
    let gateway = &http.gateway;
    let from = head.extensions.get::<PeerAddress>().and_then(|PeerAddress(address)| *address);
    gateway.apps.permit_address(from).map_err(|reply| Box::new(Refusal::from(reply).into_response()))?;
    let nowhere = || Box::new(Refusal::new(Code::NotFound, "content is at /c/{origin}/…").into_response());
    let (origin, target) = located_at(uri).ok_or_else(nowhere)?;
    // Of this node's own, not of the origin's: an app key is nobody else's to see, on whichever line it stands.
    let ours = |line: &HeaderValue| key_in(line).is_some_and(|key| gateway.apps.find(&key).is_some());
    if head.headers.get_all(header::AUTHORIZATION).iter().any(ours) {
        head.headers.remove(header::AUTHORIZATION);
    }
    http.purger
        .cache
        .look(origin, target, from, head.method, head.headers)
        .map_err(|failure| Box::new(refused(&failure)))
}

/// The origin's name, and what lies there.
fn located_at(uri: &Uri) -> Option<(&str, &str)> {
    let target = uri.path_and_query()?.as_str().strip_prefix(PREFIX)?;
    target.find('/').map(|at| target.split_at(at))
}

/// A redirection within the origin leads back here, and so does where something was created. What `Location` means beside other
/// statuses is between the origin and who asks (RFC 9110, 10.2.2).
fn located(http: &Http, uri: &Uri, mut response: axum::http::Response<CacheBody>) -> Response {
    let status = response.status();
    let leads = status.is_redirection() || status == StatusCode::CREATED;
    let moved = || {
        if !leads {
            return None;
        }
        let (origin, _) = located_at(uri)?;
        let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
        HeaderValue::try_from(http.purger.cache.path_here(origin, location)?).ok()
    };
    if let Some(moved) = moved() {
        response.headers_mut().insert(header::LOCATION, moved);
    }
    response.map(Body::new)
}

fn refused(failure: &Failure) -> Response {
    let (code, status) = match failure {
        Failure::NoOrigin(_) => (Code::NotFound, "fwd=bypass; detail=no-origin"),
        Failure::Target => (Code::Invalid, "fwd=bypass; detail=target"),
        Failure::Coding => (Code::Malformed, "fwd=bypass; detail=transfer-coding"),
        Failure::Method => return Refusal::method_not_allowed().into_response(),
        Failure::NotCached => (Code::DeadlineExceeded, "fwd=request; detail=only-if-cached"),
        Failure::Full | Failure::Origin(OriginError::Busy(_)) => {
            (Code::Overloaded, "fwd=miss; detail=overloaded")
        }
        Failure::Origin(OriginError::Upload(UploadError::TooLarge)) => {
            (Code::TooLarge, "fwd=method; detail=body-too-large")
        }
        Failure::Origin(OriginError::Upload(UploadError::Broken)) => {
            (Code::Malformed, "fwd=method; detail=body-broken")
        }
        Failure::Origin(OriginError::Upload(UploadError::Slow)) => {
            (Code::DeadlineExceeded, "fwd=method; detail=body-slow")
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
    JsonBody(asked): JsonBody<PurgeContent>,
) -> Result<Json<ContentPurged>, Refusal> {
    http.gateway.apps.permit(&asker.caller, Scope::Purge)?;
    tracing::info!(target: "audit", app = asker.caller.app.name, urls = asked.urls.len(), tags = asked.tags.len(), all = asked.all, "content is purged");
    Ok(Json(http.purger.purge(&asked).await?))
}
