//! `POST /v1/events`: what visitors did, in our own form. Any content type is taken for JSON, so that a page can send it with
//! `navigator.sendBeacon`, which asks nobody first only where the body is text.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use proto::client::{Ask, ClientReply, ClientRequest, Track, Tracked};
use proto::limits::{EVENT_FUTURE_MS_MAX, TRACK_EVENTS_MAX};
use proto::{AnswerId, Code, DeviceId, ErrorReply, Event, EventId, EventKind, ItemId, SlotId, UserId};
use serde::{Deserialize, Serialize};
use service::http::Refusal;

use super::auth::Asker;
use super::guard::Trace;
use super::segment::notes::{Notes, Reason};
use super::time::at_ms;
use super::{answered, unexpected, visitor};
use crate::clock;
use crate::gateway::Gateway;
use crate::gateway::apps::Scope;

/// A batch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch {
    /// In the order they happened.
    pub(super) events: Vec<Happened>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Type {
    Impression,
    Click,
    Conversion,
    Rating,
    Custom,
}

/// One event.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Happened {
    /// A UUIDv7 of the client's: the event is counted once, however often it is sent. None: as often as it is sent.
    pub(super) id: Option<EventId>,
    pub(super) user_id: Option<UserId>,
    pub(super) device_id: Option<DeviceId>,
    /// When (RFC 3339). None: now.
    pub(super) timestamp: Option<String>,
    pub(super) r#type: Option<Type>,
    pub(super) item: Option<ItemId>,
    pub(super) slot: Option<SlotId>,
    /// In the slot; the first is 0.
    pub(super) position: u16,
    /// The answer that offered the item.
    pub(super) answer: Option<AnswerId>,
    /// Of a conversion, in the currency's unit.
    pub(super) value: f64,
    /// ISO 4217.
    pub(super) currency: Option<String>,
    pub(super) stars: Option<f32>,
    /// Of a custom event; `identify` sets the visitor's traits.
    pub(super) name: Option<String>,
    pub(super) attributes: BTreeMap<String, String>,
}

/// What is durable now.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Counted {
    /// Brings later answers up to this.
    pub(super) session: String,
    /// Counted now.
    pub(super) accepted: u32,
    /// Had been counted before.
    pub(super) duplicates: u32,
}

pub(super) async fn track(
    State(gateway): State<Arc<Gateway>>,
    trace: Trace,
    asker: Asker,
    body: Bytes,
) -> Result<(HeaderMap, Json<Counted>), Refusal> {
    // Before anything is looked at: what is wrong counts, too.
    gateway.apps.permit(&asker.caller, Scope::Track)?;
    let batch: Batch = read(&body)?;
    let now_ms = clock::now_ms();
    let mut notes = Notes::default();
    let events = batch.events.into_iter().enumerate();
    let events = events.map(|(at, event)| {
        notes.within(format!("events[{at}]"));
        event.noted(now_ms, &mut notes).event(trace, now_ms).map_err(|error| named(at, error))
    });
    let events = events.collect::<Result<_, _>>()?;
    let tracked = send(&gateway, trace, events).await?;
    Ok((notes.headers(), Json(tracked)))
}

/// Reads JSON, and says what is wrong with it.
pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ErrorReply> {
    serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() { Code::Invalid } else { Code::Malformed };
        ErrorReply::new(code, format!("the body is not the JSON that is due here: {error}"))
    })
}

/// Makes events durable that may be sent, in order, in as many pieces as it takes.
pub(super) async fn send(gateway: &Gateway, trace: Trace, events: Vec<Event>) -> Result<Counted, Refusal> {
    let (mut last, mut accepted, mut duplicates) = (None, 0, 0);
    if events.is_empty() {
        return Err(Refusal::new(Code::Invalid, "there is no event in it"));
    }
    for piece in events.chunks(TRACK_EVENTS_MAX) {
        // Not the short default of a recommendation: nobody looks at a page while this is written.
        let asked = Ask::Track(Track { events: piece.to_vec() });
        match answered(
            gateway
                .answer_permitted(ClientRequest { trace: trace.id, deadline_ms: u32::MAX, ask: asked })
                .await,
        )? {
            ClientReply::Tracked(Tracked { token, accepted: new, duplicates: old }) => {
                accepted += new;
                duplicates += old;
                last = Some(token);
            }
            other => return Err(unexpected(&other)),
        }
    }
    let session = last.as_ref().map(visitor::token_text).unwrap_or_default();
    Ok(Counted { session, accepted, duplicates })
}

fn named(at: usize, error: ErrorReply) -> ErrorReply {
    ErrorReply::new(error.code, format!("events[{at}]: {}", error.message))
}

impl Happened {
    /// Notes what is kept otherwise than it was said: a time in the future is the time of arrival (`gateway`). All else that is wrong is
    /// refused.
    fn noted(self, now_ms: u64, notes: &mut Notes) -> Self {
        let future_ms = now_ms.saturating_add(EVENT_FUTURE_MS_MAX);
        if self.timestamp.as_deref().is_some_and(|text| at_ms(text).is_ok_and(|at_ms| at_ms > future_ms)) {
            notes.changed("timestamp", Reason::Timestamp, "it is in the future: arrival counts".to_owned());
        }
        self
    }

    pub(super) fn event(self, trace: Trace, now_ms: u64) -> Result<Event, ErrorReply> {
        let at_ms = self.timestamp.as_deref().map(at_ms).transpose()?.unwrap_or(now_ms);
        let id = self.id.unwrap_or_else(|| EventId(uuid::Uuid::now_v7()));
        let visitor = visitor::visitor(self.user_id.clone(), self.device_id.clone())?;
        Ok(Event { id, visitor, at_ms, trace: trace.id, kind: self.kind()? })
    }

    fn kind(self) -> Result<EventKind, ErrorReply> {
        let lacks = |what: &str| ErrorReply::new(Code::Invalid, format!("`{what}` is missing"));
        let item = || self.item.clone().ok_or_else(|| lacks("item"));
        let slot = || self.slot.clone().ok_or_else(|| lacks("slot"));
        Ok(match self.r#type.ok_or_else(|| lacks("type"))? {
            Type::Impression => EventKind::Impression {
                item: item()?,
                slot: slot()?,
                position: self.position,
                answer: self.answer,
            },
            Type::Click => EventKind::Click { item: item()?, slot: slot()?, answer: self.answer },
            Type::Conversion => EventKind::Conversion {
                item: item()?,
                value_micros: micros(self.value)?,
                currency: currency(self.currency.as_deref().ok_or_else(|| lacks("currency"))?)?,
                answer: self.answer,
            },
            Type::Rating => {
                EventKind::Rating { item: item()?, stars: self.stars.ok_or_else(|| lacks("stars"))? }
            }
            Type::Custom => EventKind::Custom {
                name: self.name.ok_or_else(|| lacks("name"))?,
                attributes: self.attributes.into_iter().collect(),
            },
        })
    }
}

/// An amount, in millionths of its unit.
pub(super) fn micros(value: f64) -> Result<i64, ErrorReply> {
    let micros = (value * 1e6).round();
    // Whole numbers up to here are exact.
    if micros.abs() <= 2_f64.powi(53) {
        return Ok(micros as i64);
    }
    Err(ErrorReply::new(Code::Invalid, format!("{value} is no amount of money")))
}

/// An ISO 4217 code.
pub(super) fn currency(text: &str) -> Result<[u8; 3], ErrorReply> {
    let code = text.to_ascii_uppercase().into_bytes().try_into().ok();
    code.filter(|code: &[u8; 3]| code.iter().all(u8::is_ascii_uppercase)).ok_or_else(|| {
        ErrorReply::new(Code::Invalid, format!("currency is an ISO 4217 code such as EUR, not {text:?}"))
    })
}
