//! One message as events. Every part of it that can be used is used, and what is not is noted: a client that cannot be changed is
//! understood as far as it goes.

use std::fmt::Display;

use proto::limits::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, EVENT_FUTURE_MS_MAX};
use proto::{DeviceId, Event, EventId, EventKind, TraceId, UserId, VisitorId};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::flat::flat;
use super::notes::{Notes, Reason, shown};
use super::{shop, values};

/// The custom event that sets traits (`proto::profile`).
const IDENTIFY: &str = "identify";

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Identify,
    Track,
    Page,
    Screen,
    Group,
    Alias,
}

impl Kind {
    const ALL: [(&str, Kind); 6] = [
        ("identify", Kind::Identify),
        ("track", Kind::Track),
        ("page", Kind::Page),
        ("screen", Kind::Screen),
        ("group", Kind::Group),
        ("alias", Kind::Alias),
    ];

    fn of(word: &Value) -> Option<Self> {
        let word = word.as_str()?;
        Self::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, kind)| *kind)
    }
}

/// When and how a body came.
#[derive(Debug, Clone)]
pub struct Received {
    /// By the node's clock.
    pub at_ms: u64,
    /// When the batch was sent, by the client's.
    pub sent_at: Value,
    /// The request's trace.
    pub trace: TraceId,
    /// Another for every request: a message without an id counts as often as it is sent.
    pub nonce: u128,
}

/// A message is not kept at all, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Unusable {
    pub reason: Reason,
    pub detail: String,
}

fn unusable<T>(reason: Reason, detail: impl Display) -> Result<T, Unusable> {
    Err(Unusable { reason, detail: detail.to_string() })
}

/// The events that a message tells of; one at least.
///
/// # Errors
/// Where it is of no kind, or about nobody.
pub fn events(
    message: &Map<String, Value>,
    kind: Option<Kind>,
    received: &Received,
    notes: &mut Notes,
) -> Result<Vec<Event>, Unusable> {
    Message { said: message, received, notes }.events(kind)
}

/// A message that is being read.
struct Message<'m> {
    said: &'m Map<String, Value>,
    received: &'m Received,
    notes: &'m mut Notes,
}

impl Message<'_> {
    fn events(mut self, kind: Option<Kind>) -> Result<Vec<Event>, Unusable> {
        let Some(kind) = kind.or_else(|| Kind::of(self.field("type")?)) else {
            let said = self.field("type").map_or_else(|| "missing".to_owned(), shown);
            let detail =
                format!("`type` is {said}; it is one of identify, track, page, screen, group, alias");
            return unusable(Reason::Type, detail);
        };
        let visitor = self.visitor()?;
        let kinds = self.kinds(kind)?;
        let at_ms = self.happened();
        let message_id = self.message_id();
        let event = |(part, kind)| Event {
            id: event_id(&visitor, &message_id, part),
            visitor: visitor.clone(),
            at_ms,
            trace: self.received.trace,
            kind,
        };
        let events: Vec<Event> = kinds.into_iter().map(event).collect();
        let sound = events.iter().try_for_each(|event| event.check(self.received.at_ms));
        sound.or_else(|error| unusable(Reason::Invalid, error.message))?;
        Ok(events)
    }

    fn field(&self, name: &str) -> Option<&Value> {
        self.said.get(name).filter(|value| !value.is_null())
    }

    /// A text, or a number that stands for one.
    fn text(&mut self, name: &str, reason: Reason) -> Option<String> {
        let value = self.field(name)?;
        let text = values::text(value);
        if text.is_none() {
            let detail = format!("{} is not used: it is neither text nor a number", shown(value));
            self.notes.changed(name, reason, detail);
        }
        text.filter(|text| !text.is_empty())
    }

    fn visitor(&mut self) -> Result<VisitorId, Unusable> {
        let user = self.text("userId", Reason::UserId).map(UserId::new);
        let device = self.text("anonymousId", Reason::AnonymousId).map(DeviceId::new);
        let wrong = |name: &str, error: &dyn Display| format!("{name} is not used: {error}");
        match (user, device) {
            (Some(Ok(user)), _) => Ok(VisitorId::User(user)),
            (Some(Err(error)), Some(Ok(device))) => {
                self.notes.changed("userId", Reason::UserId, wrong("userId", &error));
                Ok(VisitorId::Device(device))
            }
            (None, Some(Ok(device))) => Ok(VisitorId::Device(device)),
            (Some(Err(error)), _) => unusable(Reason::UserId, wrong("userId", &error)),
            (None, Some(Err(error))) => unusable(Reason::AnonymousId, wrong("anonymousId", &error)),
            (None, None) => unusable(Reason::Visitor, "say whom it is about: userId or anonymousId"),
        }
    }

    fn message_id(&mut self) -> String {
        self.text("messageId", Reason::MessageId)
            .unwrap_or_else(|| format!("{:032x}.{}", self.received.nonce, self.notes.part()))
    }

    /// The client's clock may be wrong, but it is the same for both its times: `receivedAt − (sentAt − originalTimestamp)`.
    fn happened(&mut self) -> u64 {
        let received_ms = self.received.at_ms;
        let names = ["originalTimestamp", "timestamp"];
        let Some((name, said)) = names.into_iter().find_map(|name| {
            let value = self.field(name)?.clone();
            Some((name, self.moment(name, Reason::Timestamp, &value)?))
        }) else {
            return received_ms;
        };
        let sent = self.field("sentAt").cloned().unwrap_or_else(|| self.received.sent_at.clone());
        let sent = if sent.is_null() { None } else { self.moment("sentAt", Reason::SentAt, &sent) };
        if sent.is_some_and(|sent| said > sent.saturating_add(EVENT_FUTURE_MS_MAX)) {
            let detail = "it is later than sentAt, by which it was sent: the time of arrival is taken";
            self.notes.changed(name, Reason::Timestamp, detail.to_owned());
        }
        let at_ms = match sent.map(|sent| received_ms.checked_sub(sent.saturating_sub(said))) {
            Some(Some(corrected)) => return corrected,
            Some(None) => {
                let detail =
                    "it was sent longer after it happened than there is time since 1970: sentAt is not used";
                self.notes.changed("sentAt", Reason::SentAt, detail.to_owned());
                said
            }
            None => said,
        };
        if at_ms > received_ms.saturating_add(EVENT_FUTURE_MS_MAX) {
            let detail = format!(
                "it is {} s in the future: the time of arrival is taken",
                (at_ms - received_ms) / 1_000
            );
            self.notes.changed(name, Reason::Timestamp, detail);
        }
        // What has come has happened.
        at_ms.min(received_ms)
    }

    fn moment(&mut self, name: &str, reason: Reason, value: &Value) -> Option<u64> {
        let read = values::moment(value);
        match &read {
            Some(read) => {
                if let Some(how) = read.how {
                    self.notes.changed(name, reason, format!("{}: {how}", shown(value)));
                }
            }
            None => {
                let instead = if reason == Reason::SentAt {
                    "the client's clock is not corrected"
                } else {
                    "where nothing else says when, it is the time of arrival"
                };
                let detail = format!(
                    "{} is no moment from 1970 on such as 2026-11-22T08:00:00.000Z: {instead}",
                    shown(value)
                );
                self.notes.changed(name, reason, detail);
            }
        }
        read.map(|read| read.value)
    }

    /// Each with its place among what the message tells of.
    fn kinds(&mut self, kind: Kind) -> Result<Vec<(u32, EventKind)>, Unusable> {
        let custom = match kind {
            Kind::Track => return self.track(),
            Kind::Identify => self.custom(IDENTIFY, Vec::new(), "traits", Reason::Traits),
            Kind::Page | Kind::Screen => {
                let said = ["name", "category"].map(|name| (name, self.text(name, Reason::Name)));
                let name = if kind == Kind::Page { "page" } else { "screen" };
                self.custom(name, said.into(), "properties", Reason::Properties)
            }
            Kind::Group => {
                let group = self.text("groupId", Reason::GroupId);
                self.custom("group", vec![("group_id", group)], "traits", Reason::Traits)
            }
            Kind::Alias => {
                let previous = self.text("previousId", Reason::PreviousId);
                self.custom("alias", vec![("previous_id", previous)], "", Reason::Properties)
            }
        };
        Ok(vec![(0, custom)])
    }

    fn track(&mut self) -> Result<Vec<(u32, EventKind)>, Unusable> {
        let Some(mut name) = self.text("event", Reason::Event) else {
            return unusable(Reason::Event, "`event`, the name of what happened, is missing");
        };
        let properties = self.object("properties", Reason::Properties);
        let kinds = shop::kinds(&name, &properties, self.notes);
        if !kinds.is_empty() {
            return Ok(kinds);
        }
        if name == IDENTIFY {
            // In our words `identify` sets the visitor's traits, which a track does not.
            "track identify".clone_into(&mut name);
        }
        if name.len() > ATTRIBUTE_BYTES_MAX {
            let detail = format!("{} bytes are cut to {ATTRIBUTE_BYTES_MAX}", name.len());
            self.notes.changed("event", Reason::Event, detail);
            name.truncate(name.floor_char_boundary(ATTRIBUTE_BYTES_MAX));
        }
        let attributes = self.attributes("properties", &properties);
        Ok(vec![(0, EventKind::Custom { name, attributes })])
    }

    /// An event of Segment's other kinds. What the message says of itself goes before what its properties say.
    fn custom(
        &mut self,
        name: &str,
        said: Vec<(&str, Option<String>)>,
        object: &str,
        reason: Reason,
    ) -> EventKind {
        let mut pairs = if object.is_empty() { Map::new() } else { self.object(object, reason) };
        pairs.extend(said.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
        EventKind::Custom { name: name.to_owned(), attributes: self.attributes(object, &pairs) }
    }

    fn object(&mut self, name: &str, reason: Reason) -> Map<String, Value> {
        match self.field(name) {
            Some(Value::Object(object)) => object.clone(),
            Some(other) => {
                let detail = format!("{} is not used: it is no object", shown(other));
                self.notes.changed(name, reason, detail);
                Map::new()
            }
            None => Map::new(),
        }
    }

    fn attributes(&mut self, at: &str, object: &Map<String, Value>) -> Vec<(String, String)> {
        let (attributes, left_out) = flat(object);
        if left_out > 0 {
            let detail = format!(
                "{left_out} are left out: an event has {ATTRIBUTES_MAX}, of at most {ATTRIBUTE_BYTES_MAX} bytes each"
            );
            self.notes.changed(at, Reason::Attributes, detail);
        }
        attributes
    }
}

/// The same for the same message of the same visitor, whenever it says that it happened: a message's id can be any text, an event's is a
/// UUIDv7. The time in it is 0. The visitor is part of it because clients with poor ids (a counter, say) take no others' events away.
fn event_id(visitor: &VisitorId, message_id: &str, part: u32) -> EventId {
    // No id has a NUL in it.
    let whose = format!("{visitor}\0");
    let hash = Sha256::new().chain_update(whose).chain_update(message_id).chain_update(part.to_be_bytes());
    let mut random = [0; 10];
    random.copy_from_slice(&hash.finalize()[..10]);
    EventId(uuid::Builder::from_unix_timestamp_millis(0, &random).into_uuid())
}

#[cfg(test)]
mod tests;
