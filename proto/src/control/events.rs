//! Events as the control API shows them, page by page, and the erasure of a visitor.

use serde::{Deserialize, Serialize};

use crate::event::{Attributes, Event, EventKind};
use crate::ids::{AnswerId, EventId, ItemId, Offset, PopId, SlotId};

/// An event as the control API shows it, with all that is known of it. What its kind does not have is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Its place among all events of the cloud: the cursor of an export.
    #[serde(default)]
    pub seq: u64,
    /// Its id.
    pub id: EventId,
    /// The PoP it came from first.
    pub pop: PopId,
    /// Its place among the PoP's events.
    pub offset: Offset,
    /// Who: `u:<user>` or `d:<device>`.
    pub visitor: String,
    /// impression, click, conversion, rating, custom.
    pub kind: String,
    /// The item it is about, if any.
    pub item: Option<ItemId>,
    /// When, by the client's clock, milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// When it came to the cloud, milliseconds since 1970 UTC.
    pub received_at_ms: u64,
    /// Trace id, 32 hex digits; all zeros: none.
    pub trace: String,
    /// Where the item was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotId>,
    /// An impression's place in the slot; the first is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u16>,
    /// The answer that offered the item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerId>,
    /// A conversion's worth, in millionths of the currency's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_micros: Option<i64>,
    /// Its ISO 4217 code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// A rating's stars, 0 to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stars: Option<f32>,
    /// What an app calls a custom event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A custom event's attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

impl EventView {
    /// An event that the cloud holds at `seq`, and holds as the PoP's event number `offset`.
    pub fn new(seq: u64, pop: PopId, offset: Offset, received_at_ms: u64, event: Event) -> Self {
        let mut view = Self {
            seq,
            id: event.id,
            pop,
            offset,
            visitor: event.visitor.to_string(),
            kind: event.kind.name().to_owned(),
            item: event.kind.item().cloned(),
            at_ms: event.at_ms,
            received_at_ms,
            trace: event.trace.to_string(),
            slot: None,
            position: None,
            answer: None,
            value_micros: None,
            currency: None,
            stars: None,
            name: None,
            attributes: None,
        };
        match event.kind {
            EventKind::Impression { slot, position, answer, .. } => {
                (view.slot, view.position, view.answer) = (Some(slot), Some(position), answer);
            }
            EventKind::Click { slot, answer, .. } => (view.slot, view.answer) = (Some(slot), answer),
            EventKind::Conversion { value_micros, currency, answer, .. } => {
                (view.value_micros, view.answer) = (Some(value_micros), answer);
                view.currency = Some(String::from_utf8_lossy(&currency).into_owned());
            }
            EventKind::Rating { stars, .. } => view.stars = Some(stars),
            EventKind::Custom { name, attributes } => {
                (view.name, view.attributes) = (Some(name), Some(attributes));
            }
        }
        view
    }
}

/// A page of an export of events, in the order in which the cloud took them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventPage {
    /// At most as many as asked for, and fewer where they are large.
    pub events: Vec<EventView>,
    /// Where the next page begins: `after` of the next question.
    pub next: u64,
    /// The last event that the cloud held when it was asked. An export is complete once `next` is not below it.
    pub last: u64,
}

/// Asks for everything that is known of a visitor to be erased, in the cloud and in every PoP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EraseVisitor {
    /// `u:<user>` or `d:<device>`.
    pub visitor: String,
}

/// How far an erasure has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureView {
    /// Its number.
    pub number: u64,
    /// What happened up to then is erased, also what arrives later. Milliseconds since 1970 UTC.
    pub erased_at_ms: u64,
    /// Events that the cloud held and has erased.
    pub events: u64,
    /// PoPs that have not yet said that they have erased it. They do when they can reach the cloud.
    pub waiting: Vec<PopId>,
}
