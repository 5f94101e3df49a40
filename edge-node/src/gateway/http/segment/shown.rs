//! What becomes of a message, without a node: for `rockpool check segment-message`.

use proto::{Code, ErrorReply, Event, EventKind, TraceId, VisitorId};
use serde_json::{Map, Value, json};

use super::super::time::utc;
use super::body::{Body, Told};
use super::lenient::mend;
use super::message::Received;
use super::{BATCHES, kind_at};

/// The events of a body that is posted to `/v1/{route}` at this moment, as `POST /v1/events` would have them, and what of it is
/// changed or skipped, and why.
///
/// # Errors
/// Where there is no such route, or the body is not JSON.
pub fn segment_message(route: &str, body: &[u8], received_at_ms: u64) -> Result<Value, ErrorReply> {
    let path = format!("/v1/{}", route.trim_start_matches("/v1/"));
    let kind = kind_at(&path);
    if kind.is_none() && !BATCHES.contains(&path.as_str()) {
        let message = format!("route is {route:?}, not identify, track, page, screen, group, alias or batch");
        return Err(ErrorReply::new(Code::Invalid, message));
    }
    let mended = mend(body);
    let body = Body::read(&mended, kind)?;
    let received =
        Received { at_ms: received_at_ms, sent_at: body.sent_at.clone(), trace: TraceId(0), nonce: 0 };
    let Told { events, notes } = body.told(&received)?;
    let events: Vec<Value> = events.iter().map(event).collect();
    Ok(json!({"events": events, "changed": notes.changed.notes, "skipped": notes.skipped.notes}))
}

/// In the form of `POST /v1/events`.
fn event(event: &Event) -> Value {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            shown.insert(name.to_owned(), value);
        }
    };
    put("id", json!(event.id));
    match &event.visitor {
        VisitorId::User(id) => put("user_id", json!(id)),
        VisitorId::Device(id) => put("device_id", json!(id)),
    }
    put("timestamp", json!(utc(event.at_ms)));
    put("type", json!(event.kind.name()));
    put("item", json!(event.kind.item()));
    match &event.kind {
        EventKind::Impression { slot, position, answer, .. } => {
            put("slot", json!(slot));
            put("position", json!(position));
            put("answer", json!(answer));
        }
        EventKind::Click { slot, answer, .. } => {
            put("slot", json!(slot));
            put("answer", json!(answer));
        }
        EventKind::Conversion { value_micros, currency, answer, .. } => {
            put("value", json!(*value_micros as f64 / 1e6));
            put("currency", json!(String::from_utf8_lossy(currency)));
            put("answer", json!(answer));
        }
        EventKind::Rating { stars, .. } => put("stars", json!(stars)),
        EventKind::Custom { name, attributes } => {
            put("name", json!(name));
            let pairs = attributes.iter().map(|(name, value)| (name.clone(), json!(value)));
            put("attributes", Value::Object(pairs.collect()));
        }
    }
    Value::Object(shown)
}
