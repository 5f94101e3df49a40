//! The HTTP tracking API of Segment (its public specification, "HTTP Tracking API Source"): `identify`, `track`, `page`, `screen`,
//! `group`, `alias`, and `batch` of them. `messageId` makes a message count once for a visitor; clocks are corrected by `sentAt`. Any
//! content type is taken for JSON, as its browser library sends text. What can be used of a message is used; what is changed or skipped is
//! said in the answer ([`notes`]).

pub(super) mod body;
pub(super) mod flat;
pub(super) mod lenient;
pub(super) mod message;
pub(super) mod notes;
mod shop;
pub(super) mod shown;
mod values;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{MatchedPath, State};
use axum::response::{IntoResponse as _, Response};
use proto::{Code, ErrorReply};
use serde::Serialize;
use service::http::Refusal;

use super::Http;
use super::auth::Presented;
use super::events::{Counted, send};
use super::guard::Trace;
use crate::clock;
use crate::gateway::apps::Scope;
use body::{Body, Told};
use lenient::mend;
use message::{Kind, Received};
use notes::{Note, Notes};

/// Largest batch, in bytes, as Segment has it.
pub(super) const BATCH_BYTES_MAX: usize = 500 * 1024;

/// Routes of many. The first is the specification's; Segment's libraries for browsers and Kotlin send to the second, those for Android, iOS and
/// older Ruby to the others.
pub(super) const BATCHES: [&str; 4] = ["/v1/batch", "/v1/b", "/v1/import", "/v1/import/"];

/// Routes of one message; the short ones are those of Segment's browser library.
pub(super) const KINDS: [(&str, Kind); 12] = [
    ("/v1/identify", Kind::Identify),
    ("/v1/i", Kind::Identify),
    ("/v1/track", Kind::Track),
    ("/v1/t", Kind::Track),
    ("/v1/page", Kind::Page),
    ("/v1/p", Kind::Page),
    ("/v1/screen", Kind::Screen),
    ("/v1/s", Kind::Screen),
    ("/v1/group", Kind::Group),
    ("/v1/g", Kind::Group),
    ("/v1/alias", Kind::Alias),
    ("/v1/a", Kind::Alias),
];

/// The kind of message that a route takes.
fn kind_at(path: &str) -> Option<Kind> {
    KINDS.iter().find(|(known, _)| *known == path).map(|(_, kind)| *kind)
}

/// What Segment's clients wait for, and what those who build with them look at.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    success: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed: Vec<Note>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<Note>,
}

pub(super) async fn one(
    State(http): State<Http>,
    trace: Trace,
    path: MatchedPath,
    presented: Presented,
    body: Bytes,
) -> Result<Response, Refusal> {
    take(http, trace, presented, &body, kind_at(path.as_str())).await
}

pub(super) async fn batch(
    State(http): State<Http>,
    trace: Trace,
    presented: Presented,
    body: Bytes,
) -> Result<Response, Refusal> {
    take(http, trace, presented, &body, None).await
}

/// Reads a body of one message, where its kind is known, or of many, and makes its events durable.
async fn take(
    http: Http,
    trace: Trace,
    presented: Presented,
    body: &[u8],
    kind: Option<Kind>,
) -> Result<Response, Refusal> {
    let gateway = &http.gateway;
    // Before the body is looked at, where the key does not stand in it.
    let known = presented.is_there().then(|| presented.permitted(gateway, None, Scope::Track)).transpose()?;
    let mended = mend(body);
    let body = Body::read(&mended, kind)?;
    if known.is_none() {
        presented.permitted(gateway, body.write_key.clone(), Scope::Track)?;
    }
    let sent_at = body.sent_at.clone();
    let received = Received { at_ms: clock::now_ms(), sent_at, trace: trace.id, nonce: fastrand::u128(..) };
    let Told { events, notes } = body.told(&received)?;
    // It may be large, and is of no use while the events become durable.
    drop(mended);
    http.metrics.count_notes(notes.changed.count(), notes.skipped.count());
    let mut headers = notes.headers();
    if events.is_empty() && kind.is_some() {
        return Err(refusal(&notes).into());
    }
    // Libraries throw a batch away that is refused: messages that are wrong do not take the others along, nor come again.
    if !events.is_empty() || notes.skipped.count() == 0 {
        let Counted { duplicates, .. } = send(gateway, trace, events).await?;
        if duplicates > 0 {
            headers.insert(notes::DUPLICATES, duplicates.into());
        }
    }
    let done = Done { success: true, changed: notes.changed.notes, skipped: notes.skipped.notes };
    Ok((headers, Json(done)).into_response())
}

/// Why a message that came alone is not taken.
fn refusal(notes: &Notes) -> ErrorReply {
    let why = notes.skipped.notes.last().map(|note| note.detail.clone());
    ErrorReply::new(Code::Invalid, why.unwrap_or_else(|| "nothing of it can be used".to_owned()))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::notes::Reason;
    use super::*;

    /// An answer with all that one can have.
    pub(in super::super) fn done() -> Value {
        let note = Note { at: "timestamp".into(), reason: Reason::Timestamp, detail: "text".into() };
        json!(Done { success: true, changed: vec![note.clone()], skipped: vec![note] })
    }

    #[test]
    fn an_answer_without_notes_is_what_segment_says() {
        let done = Done { success: true, changed: vec![], skipped: vec![] };
        assert_eq!(json!(done).to_string(), r#"{"success":true}"#);
    }
}
