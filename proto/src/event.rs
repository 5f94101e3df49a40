//! Events: what a visitor did. The only thing that flows from clients to the cloud.

use serde::{Deserialize, Serialize};

use crate::error::{Code, ErrorReply};
use crate::ids::{AnswerId, EventId, ItemId, SlotId, TraceId, VisitorId};
use crate::limits::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, EVENT_FUTURE_MS_MAX};

/// Name–value pairs: context, traits, custom attributes.
pub type Attributes = Vec<(String, String)>;

/// Something a visitor did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Made by the client; the event is counted once per id.
    pub id: EventId,
    /// Who did it.
    pub visitor: VisitorId,
    /// When, by the client's clock, in milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// The trace of the request that caused it.
    pub trace: TraceId,
    /// What was done.
    pub kind: EventKind,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EventKind {
    /// The visitor really saw an item.
    Impression {
        /// The item seen.
        item: ItemId,
        /// Where it was shown.
        slot: SlotId,
        /// Its place in the slot; the first is 0.
        position: u16,
        /// The answer that offered it.
        answer: Option<AnswerId>,
    },
    /// The visitor chose an item.
    Click {
        /// The item chosen.
        item: ItemId,
        /// Where it was shown.
        slot: SlotId,
        /// The answer that offered it.
        answer: Option<AnswerId>,
    },
    /// The visitor did what the item is offered for.
    Conversion {
        /// The item bought, booked, installed …
        item: ItemId,
        /// Its worth in millionths of the currency's unit.
        value_micros: i64,
        /// ISO 4217 code, for example `EUR`.
        currency: [u8; 3],
        /// The answer that offered it.
        answer: Option<AnswerId>,
    },
    /// The visitor judged an item.
    Rating {
        /// The item judged.
        item: ItemId,
        /// From 0.0 to 5.0.
        stars: f32,
    },
    /// Anything else. The name `identify` sets the visitor's traits.
    Custom {
        /// What an app calls it.
        name: String,
        /// Its attributes.
        attributes: Attributes,
    },
}

impl EventKind {
    /// The field's word for it, for metrics and storage.
    pub fn name(&self) -> &str {
        match self {
            EventKind::Impression { .. } => "impression",
            EventKind::Click { .. } => "click",
            EventKind::Conversion { .. } => "conversion",
            EventKind::Rating { .. } => "rating",
            EventKind::Custom { .. } => "custom",
        }
    }

    /// The item it is about, if any.
    pub fn item(&self) -> Option<&ItemId> {
        match self {
            EventKind::Impression { item, .. }
            | EventKind::Click { item, .. }
            | EventKind::Conversion { item, .. }
            | EventKind::Rating { item, .. } => Some(item),
            EventKind::Custom { .. } => None,
        }
    }
}

impl Event {
    /// Checks what types cannot: a UUIDv7 id, a time not in the future, stars in range, attributes within limits.
    pub fn check(&self, now_ms: u64) -> Result<(), ErrorReply> {
        let invalid =
            |what: String| Err(ErrorReply::new(Code::Invalid, format!("event {}: {what}", self.id)));
        if self.id.0.get_version_num() != 7 {
            return invalid("the id must be a UUIDv7 (RFC 9562)".into());
        }
        if self.at_ms > now_ms.saturating_add(EVENT_FUTURE_MS_MAX) {
            return invalid(format!("at_ms is {} ms in the future", self.at_ms - now_ms));
        }
        match &self.kind {
            EventKind::Rating { stars, .. } if !(0.0..=5.0).contains(stars) => {
                invalid(format!("stars must be from 0 to 5, not {stars}"))
            }
            EventKind::Conversion { currency, .. } if !currency.iter().all(u8::is_ascii_uppercase) => {
                invalid("currency must be an ISO 4217 code such as EUR".into())
            }
            EventKind::Custom { name, attributes } => {
                if name.is_empty() || name.len() > ATTRIBUTE_BYTES_MAX {
                    return invalid(format!("name must have 1 to {ATTRIBUTE_BYTES_MAX} bytes"));
                }
                check_attributes(attributes)
            }
            _ => Ok(()),
        }
    }
}

/// Checks number and sizes of name–value pairs.
pub fn check_attributes(attributes: &Attributes) -> Result<(), ErrorReply> {
    if attributes.len() > ATTRIBUTES_MAX {
        let message = format!("at most {ATTRIBUTES_MAX} attributes, not {}", attributes.len());
        return Err(ErrorReply::new(Code::TooLarge, message));
    }
    match attributes.iter().find(|(k, v)| k.len() > ATTRIBUTE_BYTES_MAX || v.len() > ATTRIBUTE_BYTES_MAX) {
        Some(_) => Err(ErrorReply::new(
            Code::TooLarge,
            format!("an attribute's name and value have at most {ATTRIBUTE_BYTES_MAX} bytes"),
        )),
        None => Ok(()),
    }
}
