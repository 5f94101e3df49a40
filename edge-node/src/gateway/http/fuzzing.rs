//! The parsers of this door for the fuzz targets (edge-node/fuzz), each as its handler calls it. Not there in any other build.

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use inference::{ModelSpec, Tensor};
use prost::Message as _;
use proto::client::Recommend;
use proto::{Code, ErrorReply, Event, SessionToken, TraceId};

use super::events::{self, read};
use super::guard::{self, Trace};
use super::http3::frames::{Frames, Kind};
use super::inference::grpc::Asked;
use super::inference::message::Inference;
use super::recommend::Wanted;
use super::segment::body::{Body as Posted, Told};
use super::segment::kind_at;
use super::segment::lenient::mend;
use super::segment::message::Received;
use super::{auth, inference as door, time, visitor, webtransport};

pub use super::segment::flat::flat;

/// Whether a stream of HTTP/3, one way or a request's, is let pass when it comes in these pieces.
pub fn passes<'p>(one_way: bool, mut pieces: impl Iterator<Item = &'p [u8]>) -> bool {
    let mut frames = Frames::new(if one_way { Kind::OneWay } else { Kind::Request });
    pieces.all(|piece| frames.pass(piece).is_ok())
}

/// The body of `POST /v1/recommend`.
///
/// # Errors
/// What the caller hears.
pub fn recommend(body: &[u8]) -> Result<Recommend, ErrorReply> {
    read::<Wanted>(body)?.asked()
}

/// What a client brings again of an answer.
pub fn token_text(token: &SessionToken) -> String {
    visitor::token_text(token)
}

/// Reads it.
///
/// # Errors
/// What the caller hears.
pub fn token(text: &str) -> Result<SessionToken, ErrorReply> {
    visitor::token(text)
}

/// The body of `POST /v1/events`.
///
/// # Errors
/// What the caller hears.
pub fn events(body: &[u8], now_ms: u64) -> Result<Vec<Event>, ErrorReply> {
    let trace = Trace { id: TraceId(1) };
    read::<events::Batch>(body)?.events.into_iter().map(|event| event.event(trace, now_ms)).collect()
}

/// What is posted to a route of the tracking API; any other path is a batch's. With how much was changed and skipped.
///
/// # Errors
/// What the caller hears.
pub fn segment(path: &str, body: &[u8], now_ms: u64) -> Result<(Vec<Event>, usize, usize), ErrorReply> {
    let mended = mend(body);
    let body = Posted::read(&mended, kind_at(path))?;
    let received = Received { at_ms: now_ms, sent_at: body.sent_at.clone(), trace: TraceId(1), nonce: 1 };
    let Told { events, notes } = body.told(&received)?;
    assert!(notes.headers().len() <= 2, "and what they say can be sent");
    Ok((events, notes.changed.count(), notes.skipped.count()))
}

/// JSON that was mended: its text, and how much was done.
pub fn mended(body: &[u8]) -> (String, usize) {
    let mended = mend(body);
    (mended.text.into_owned(), mended.repairs.len())
}

/// What stands on a stream of WebTransport, as a request.
///
/// # Errors
/// What the caller hears.
pub fn webtransport(asked: &[u8], headers: HeaderMap) -> Result<Request<Body>, ErrorReply> {
    webtransport::request(asked, headers)
}

/// Most rows of a request to a model.
pub const ROWS_MAX: usize = door::ROWS_MAX;

/// The inputs and the number of rows of a request to a model.
///
/// # Errors
/// What the caller hears.
pub fn tensors(
    model: &ModelSpec,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(Vec<Tensor>, usize), ErrorReply> {
    Inference::read(model, ROWS_MAX, headers, body).map(|read| (read.inputs, read.rows))
}

/// The same of a message of gRPC.
///
/// # Errors
/// What the caller hears.
pub fn tensors_over_grpc(model: &ModelSpec, message: &[u8]) -> Result<(Vec<Tensor>, usize), ErrorReply> {
    let asked =
        Asked::decode(message).map_err(|error| ErrorReply::new(Code::Malformed, error.to_string()))?;
    asked.read(model, ROWS_MAX).map(|read| (read.inputs, read.rows))
}

/// A `traceparent`.
pub fn trace_id(parent: &str) -> Option<TraceId> {
    guard::trace_id(parent)
}

/// The app key that a header brings.
pub fn key_of(headers: &HeaderMap) -> Option<String> {
    auth::key_of(headers)
}

/// A moment, in milliseconds since 1970.
///
/// # Errors
/// What the caller hears.
pub fn at_ms(text: &str) -> Result<u64, ErrorReply> {
    time::at_ms(text)
}
