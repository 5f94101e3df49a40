//! WebTransport over HTTP/3, for pages that ask often: a session is opened at `/v1/session?key=KEY`, and each stream of it carries one
//! request in JSON, to the same routes as over HTTP.
//!
//! ```json
//! {"path": "/v1/recommend", "body": {"user_id": "u-1", "slot": "home"}}      what the caller writes, and ends
//! {"status": 200, "body": {"items": []}}                                     what it reads; a problem's body is problem+json
//! ```
//!
//! On a stream one way the same is said, and nothing is heard. Datagrams are not read: nothing here may be lost.

use std::collections::HashMap;
use std::error::Error as _;
use std::future::poll_fn;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use axum::response::IntoResponse as _;
use h3::error::{Code as Http3Code, StreamError};
use h3::ext::Protocol;
use h3::quic::{RecvStream, SendStream};
use h3::server::RequestStream;
use h3::stream::BufRecvStream;
use h3::webtransport::SessionId;
use http_body_util::LengthLimitError;
use proto::{Code, ErrorReply};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service::http::Refusal;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;

use super::auth::Asker;
use super::events::read;
use super::guard::REQUEST_WITHIN;
use super::http3::{Both, Incoming, Talk};
use super::origins::Origins;
use super::segment::BATCH_BYTES_MAX;
use super::server::HEAD_WITHIN;

/// Sessions of one connection.
pub(super) const SESSIONS_MAX: usize = 16;
/// Longest request on a stream, in bytes: a batch and what stands around it.
const ASKED_BYTES_MAX: usize = BATCH_BYTES_MAX + 1_024;
/// Longest answer, in bytes.
const SAID_BYTES_MAX: usize = 1024 * 1024;
/// A stream of a session that is not known (draft-ietf-webtrans-http3, 9.5).
const BUFFERED_STREAM_REJECTED: u64 = 0x3994_bd84;
/// How a browser asks for the draft that is spoken here.
const DRAFT: (&str, HeaderValue) = ("sec-webtransport-http3-draft", HeaderValue::from_static("draft02"));

/// The sessions of one connection, by the stream that opened each.
pub(super) struct Sessions(watch::Sender<HashMap<SessionId, HeaderMap>>);

impl Sessions {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(HashMap::new()))
    }

    /// Remembers what each request of it shall bring.
    fn open(&self, id: SessionId, headers: HeaderMap) -> bool {
        self.0.send_if_modified(|sessions| {
            let has_place = sessions.len() < SESSIONS_MAX;
            if has_place {
                sessions.insert(id, headers);
            }
            has_place
        })
    }

    fn close(&self, id: SessionId) {
        self.0.send_modify(|sessions| drop(sessions.remove(&id)));
    }

    /// A stream may overtake the request that opens its session.
    async fn of(&self, id: SessionId) -> Option<HeaderMap> {
        let mut known = self.0.subscribe();
        let found = tokio::time::timeout(HEAD_WITHIN, known.wait_for(|sessions| sessions.contains_key(&id)));
        found.await.ok()?.ok()?.get(&id).cloned()
    }
}

/// The route that opens a session: any page whose origin may ask, with an app key.
pub(super) async fn open(
    asker: Asker,
    protocol: Option<Extension<Protocol>>,
    Extension(origins): Extension<Origins>,
    headers: HeaderMap,
) -> Result<Extension<Asker>, Refusal> {
    // Others of extended CONNECT (RFC 9220, 3) are not spoken here: CONNECT-UDP, say.
    if protocol.is_none_or(|Extension(protocol)| protocol != Protocol::WEB_TRANSPORT) {
        return Err(Refusal::new(Code::Invalid, "this path opens sessions of WebTransport over HTTP/3"));
    }
    match headers.get(header::ORIGIN) {
        Some(origin) if !origins.may_ask(origin) => {
            Err(Refusal::new(Code::Forbidden, "pages of this origin may not ask here (http.cors_origins)"))
        }
        _ => Ok(Extension(asker)),
    }
}

/// A session, from the request that opens it to its end.
pub(super) async fn session(
    request: Request<()>,
    mut stream: RequestStream<Both, Bytes>,
    talk: &Talk,
) -> Result<(), StreamError> {
    let id = stream.send_id().into_inner();
    let response = talk.hear(request.map(|()| Body::empty())).await;
    let asker = response.extensions().get::<Asker>().cloned();
    let (Some(asker), Ok(id)) = (asker, SessionId::try_from(id)) else {
        return refuse(response, &mut stream).await;
    };
    if !talk.sessions.open(id, asker.headers()) {
        let message = format!("a connection has at most {SESSIONS_MAX} sessions");
        return refuse(Refusal::new(Code::RateLimited, message).into_response(), &mut stream).await;
    }
    let (mut head, _) = Response::new(()).into_parts();
    head.headers.insert(DRAFT.0, DRAFT.1);
    let opened =
        tokio::time::timeout(REQUEST_WITHIN, stream.send_response(Response::from_parts(head, ()))).await;
    let _used = talk.activity.begin_lasting();
    let lived = match opened {
        Ok(Ok(())) => tokio::select! {
            lived = until_its_end(&mut stream) => lived,
            // What was asked in it is still answered; the page opens another session on another connection.
            () = talk.ending.cancelled() => Ok(()),
        },
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(()),
    };
    talk.sessions.close(id);
    let _ = tokio::time::timeout(REQUEST_WITHIN, stream.finish()).await;
    lived
}

/// What comes here are capsules (RFC 9297); none of them asks for anything but the end, which ends the stream.
async fn until_its_end(stream: &mut RequestStream<Both, Bytes>) -> Result<(), StreamError> {
    while stream.recv_data().await?.is_some() {}
    Ok(())
}

async fn refuse(
    response: Response<Body>,
    stream: &mut RequestStream<Both, Bytes>,
) -> Result<(), StreamError> {
    let (head, body) = response.into_parts();
    let said = async {
        stream.send_response(Response::from_parts(head, ())).await?;
        if let Ok(body) = axum::body::to_bytes(body, SAID_BYTES_MAX).await {
            stream.send_data(body).await?;
        }
        stream.finish().await
    };
    tokio::time::timeout(REQUEST_WITHIN, said).await.unwrap_or(Ok(()))
}

/// One request, and its answer.
pub(super) async fn both_ways(mut stream: BufRecvStream<Both, Bytes>, session: SessionId, talk: Arc<Talk>) {
    let Some(headers) = talk.sessions.of(session).await else {
        stream.stop_sending(BUFFERED_STREAM_REJECTED);
        return stream.reset(BUFFERED_STREAM_REJECTED);
    };
    let response = match receive(&mut stream).await {
        Ok(asked) => ask(&asked, headers, &talk).await,
        Err(refusal) => refusal.into_response(),
    };
    let said = said(response).await;
    let written = async {
        stream.write_all(&said).await?;
        stream.shutdown().await
    };
    match tokio::time::timeout(REQUEST_WITHIN, written).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an answer over WebTransport was not taken"),
        Err(_) => stream.reset(Http3Code::H3_REQUEST_CANCELLED.value()),
    }
}

/// One request whose answer nobody waits for.
pub(super) async fn one_way(mut stream: BufRecvStream<Incoming, Bytes>, session: SessionId, talk: Arc<Talk>) {
    let Some(headers) = talk.sessions.of(session).await else {
        return stream.stop_sending(BUFFERED_STREAM_REJECTED);
    };
    if let Ok(asked) = receive(&mut stream).await {
        ask(&asked, headers, &talk).await;
    }
}

async fn receive<S: RecvStream>(stream: &mut BufRecvStream<S, Bytes>) -> Result<Vec<u8>, Refusal> {
    let mut asked = Vec::new();
    let all = async {
        let broken = |_| Refusal::new(Code::Malformed, "the stream broke off before the request's end");
        while let Some(data) = poll_fn(|cx| stream.poll_data(cx)).await.map_err(broken)? {
            if asked.len() + data.len() > ASKED_BYTES_MAX {
                let message = format!("a request on a stream has at most {ASKED_BYTES_MAX} bytes");
                return Err(Refusal::new(Code::TooLarge, message));
            }
            asked.extend_from_slice(&data);
        }
        Ok(())
    };
    let read = tokio::time::timeout(REQUEST_WITHIN, all).await;
    read.unwrap_or_else(|_| {
        let message = format!("the request did not end within {} s", REQUEST_WITHIN.as_secs());
        Err(Refusal::new(Code::DeadlineExceeded, message))
    })?;
    Ok(asked)
}

/// What stands on a stream.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    path: String,
    #[serde(borrow)]
    body: &'a RawValue,
    /// As the header of that name.
    traceparent: Option<String>,
}

/// What is answered.
#[derive(Debug, Serialize)]
struct Said<'a> {
    status: u16,
    /// Seconds, where trying again is worth it.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<&'a str>,
    body: &'a RawValue,
}

async fn ask(asked: &[u8], headers: HeaderMap, talk: &Talk) -> Response<Body> {
    match request(asked, headers) {
        Ok(request) => talk.hear(request).await,
        Err(error) => Refusal::from(error).into_response(),
    }
}

pub(super) fn request(asked: &[u8], headers: HeaderMap) -> Result<Request<Body>, ErrorReply> {
    let Asked { path, body, traceparent } = read(asked)?;
    let invalid = |what: &str| ErrorReply::new(Code::Invalid, format!("{what} cannot be read"));
    let mut request = Request::new(Body::from(body.get().to_owned()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::try_from(path).map_err(|_| invalid("path"))?;
    *request.headers_mut() = headers;
    if let Some(traceparent) = traceparent {
        let value = HeaderValue::try_from(traceparent).map_err(|_| invalid("traceparent"))?;
        request.headers_mut().insert("traceparent", value);
    }
    Ok(request)
}

async fn said(response: Response<Body>) -> Vec<u8> {
    let (mut head, body) = response.into_parts();
    let body = match axum::body::to_bytes(body, SAID_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => {
            let too_long = error.source().is_some_and(|cause| cause.is::<LengthLimitError>());
            let refusal = match too_long {
                true => {
                    let message = format!("the answer is longer than {SAID_BYTES_MAX} bytes: ask over HTTP");
                    Refusal::new(Code::TooLarge, message)
                }
                false => Refusal::new(Code::Internal, "the answer broke off before its end"),
            };
            let (refused, problem) = refusal.into_response().into_parts();
            head = refused;
            axum::body::to_bytes(problem, SAID_BYTES_MAX).await.unwrap_or_default()
        }
    };
    // What is no JSON is said as text.
    let text = |bytes: &[u8]| serde_json::value::to_raw_value(&String::from_utf8_lossy(bytes));
    let body = match serde_json::from_slice::<Box<RawValue>>(&body) {
        Ok(body) => Ok(body),
        Err(_) => text(&body),
    };
    let said = body.and_then(|body| {
        let retry_after = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        serde_json::to_vec(&Said { status: head.status.as_u16(), retry_after, body: &body })
    });
    said.unwrap_or_else(|error| {
        tracing::error!(%error, "an answer is no JSON");
        format!("{{\"status\":{},\"body\":null}}", StatusCode::INTERNAL_SERVER_ERROR.as_u16()).into_bytes()
    })
}
