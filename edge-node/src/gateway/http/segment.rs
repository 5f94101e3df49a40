//! The HTTP tracking API of Segment (its public specification, "HTTP Tracking API Source"): `identify`, `track`, `page`, `screen`,
//! `group`, `alias`, and `batch` of them. `messageId` makes a message count once; clocks are corrected by `sentAt`. Any content type
//! is taken for JSON, as its browser library sends text.

pub(super) mod flat;
pub(super) mod message;

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{MatchedPath, State};
use proto::{Code, ErrorReply, Event};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service::http::Refusal;

use super::HttpMetrics;
use super::auth::Presented;
use super::events::{read, send};
use super::guard::Trace;
use crate::clock;
use crate::gateway::Gateway;
use crate::gateway::apps::Caller;
use message::{Kind, Message, Received};

/// Largest message, in bytes, as Segment has it.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Largest batch, in bytes, as Segment has it.
pub(super) const BATCH_BYTES_MAX: usize = 500 * 1024;
/// Most messages of a batch, as Segment has it.
const BATCH_LEN_MAX: usize = 2_500;

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

/// What a body says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Envelope {
    write_key: Option<String>,
    pub(super) sent_at: Option<String>,
}

/// Many messages.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Batch<'a> {
    #[serde(borrow)]
    pub(super) batch: Vec<&'a RawValue>,
    write_key: Option<String>,
    pub(super) sent_at: Option<String>,
}

/// What Segment's clients wait for.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    success: bool,
}

pub(super) async fn one(
    State(gateway): State<Arc<Gateway>>,
    trace: Trace,
    path: MatchedPath,
    presented: Presented,
    body: Bytes,
) -> Result<Json<Done>, Refusal> {
    let envelope: Envelope = read(&body)?;
    let asker = presented.known(&gateway, envelope.write_key)?;
    small(body.len())?;
    let kind = KINDS.iter().find(|(known, _)| *known == path.as_str()).map(|(_, kind)| *kind);
    let mut message: Message = read(&body)?;
    message.kind = kind.or(message.kind);
    let received = Received { at_ms: clock::now_ms(), sent_at: envelope.sent_at, trace: trace.id };
    take(&gateway, &asker.caller, trace, message.events(&received)?).await
}

pub(super) async fn batch(
    State(gateway): State<Arc<Gateway>>,
    State(http): State<HttpMetrics>,
    trace: Trace,
    presented: Presented,
    body: Bytes,
) -> Result<Json<Done>, Refusal> {
    let Batch { batch, write_key, sent_at } = read(&body)?;
    let asker = presented.known(&gateway, write_key)?;
    if batch.len() > BATCH_LEN_MAX {
        let message = format!("a batch has at most {BATCH_LEN_MAX} messages, not {}", batch.len());
        return Err(Refusal::new(Code::TooLarge, message));
    }
    let received = Received { at_ms: clock::now_ms(), sent_at, trace: trace.id };
    let (mut events, mut skipped) = (Vec::with_capacity(batch.len()), 0);
    for message in batch {
        let told = small(message.get().len())
            .and_then(|()| read::<Message>(message.get().as_bytes())?.events(&received));
        match told {
            Ok(told) => events.extend(told),
            // Libraries throw a batch away that is refused: one message that is wrong must not take the others along.
            Err(error) => {
                skipped += 1;
                tracing::debug!(%error, "a message of a batch is skipped");
            }
        }
    }
    http.count_skipped(skipped);
    if events.is_empty() && skipped > 0 {
        return Ok(Json(Done { success: true }));
    }
    take(&gateway, &asker.caller, trace, events).await
}

async fn take(
    gateway: &Gateway,
    caller: &Caller,
    trace: Trace,
    events: Vec<Event>,
) -> Result<Json<Done>, Refusal> {
    send(gateway, caller, trace, events).await?;
    Ok(Json(Done { success: true }))
}

pub(super) fn small(len: usize) -> Result<(), ErrorReply> {
    match len {
        ..=MESSAGE_BYTES_MAX => Ok(()),
        _ => Err(ErrorReply::new(
            Code::TooLarge,
            format!("a message has at most {MESSAGE_BYTES_MAX} bytes, not {len}"),
        )),
    }
}
