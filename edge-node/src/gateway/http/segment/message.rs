//! One message as events. What shops say in the words of Segment's e-commerce specification teaches the models: a product that was
//! clicked or viewed is a click, one that was ordered a conversion, one in a list that was viewed an impression.

use proto::{
    AnswerId, Code, DeviceId, ErrorReply, Event, EventId, EventKind, ItemId, SlotId, TraceId, UserId,
    VisitorId,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::super::events::{currency, micros};
use super::super::time::at_ms;
use super::super::visitor::visitor;
use super::flat::flat;

/// Most products of one message that become events of their own.
const PRODUCTS_MAX: usize = 100;
/// Where a product was shown, where the message does not say.
const SLOT: &str = "page";
/// The custom event that sets traits (`proto::profile`).
const IDENTIFY: &str = "identify";

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Identify,
    Track,
    Page,
    Screen,
    Group,
    Alias,
}

/// Ids are text, but some clients send numbers.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
}

impl Id {
    fn text(&self) -> String {
        match self {
            Id::Text(text) => text.clone(),
            Id::Number(number) => number.to_string(),
        }
    }
}

/// A message, as far as it matters here; what else it says is let alone.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Message {
    #[serde(rename = "type")]
    pub kind: Option<Kind>,
    message_id: Option<String>,
    user_id: Option<Id>,
    anonymous_id: Option<Id>,
    timestamp: Option<String>,
    original_timestamp: Option<String>,
    sent_at: Option<String>,
    event: Option<String>,
    name: Option<String>,
    category: Option<String>,
    group_id: Option<Id>,
    previous_id: Option<Id>,
    properties: Option<Map<String, Value>>,
    traits: Option<Map<String, Value>>,
}

/// When and how a message came.
#[derive(Debug, Clone)]
pub struct Received {
    /// By the node's clock.
    pub at_ms: u64,
    /// When the batch was sent, by the client's.
    pub sent_at: Option<String>,
    /// The request's trace.
    pub trace: TraceId,
}

impl Message {
    /// The events that it tells of; one at least.
    ///
    /// # Errors
    /// Where it is of no kind, about nobody, or of no moment.
    pub fn events(self, received: &Received) -> Result<Vec<Event>, ErrorReply> {
        let kind = self
            .kind
            .ok_or_else(|| invalid("`type` is missing: identify, track, page, screen, group or alias"))?;
        let visitor = self.visitor()?;
        let said = self.original_timestamp.as_deref().or(self.timestamp.as_deref()).map(at_ms).transpose()?;
        let at_ms = self.happened(said, received)?;
        let message_id = self.message_id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let kinds = self.kinds(kind)?;
        let event = |(part, kind)| Event {
            id: event_id(&message_id, said.unwrap_or(0), part),
            visitor: visitor.clone(),
            at_ms,
            trace: received.trace,
            kind,
        };
        let events: Vec<Event> = (0_u32..).zip(kinds).map(event).collect();
        events.iter().try_for_each(|event| event.check(received.at_ms))?;
        Ok(events)
    }

    fn visitor(&self) -> Result<VisitorId, ErrorReply> {
        let wrong = |error: proto::IdError| invalid(&error.to_string());
        let user = self
            .user_id
            .as_ref()
            .filter(|id| !id.text().is_empty())
            .map(|id| UserId::new(id.text()))
            .transpose()
            .map_err(wrong)?;
        let device = self
            .anonymous_id
            .as_ref()
            .filter(|id| !id.text().is_empty())
            .map(|id| DeviceId::new(id.text()))
            .transpose()
            .map_err(wrong)?;
        visitor(user, device).map_err(|_| invalid("say whom it is about: userId or anonymousId"))
    }

    /// The client's clock may be wrong, but it is the same for both its times: `receivedAt − (sentAt − originalTimestamp)`.
    fn happened(&self, said: Option<u64>, received: &Received) -> Result<u64, ErrorReply> {
        let Some(said) = said else { return Ok(received.at_ms) };
        let sent = self.sent_at.as_deref().or(received.sent_at.as_deref()).map(at_ms).transpose()?;
        let at_ms = match sent {
            Some(sent) => received.at_ms.saturating_sub(sent.saturating_sub(said)),
            None => said,
        };
        // What has come has happened.
        Ok(at_ms.min(received.at_ms))
    }

    fn kinds(self, kind: Kind) -> Result<Vec<EventKind>, ErrorReply> {
        let properties = self.properties.unwrap_or_default();
        let traits = self.traits.unwrap_or_default();
        let custom = |name: &str, more: &[(&str, Option<String>)], mut object: Map<String, Value>| {
            // What the message says of itself goes before what its properties say; of both, what is too long is left out.
            let more = more.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
            object.extend(more.map(|(name, value)| (name, Value::String(value))));
            vec![EventKind::Custom { name: name.to_owned(), attributes: flat(&object) }]
        };
        Ok(match kind {
            Kind::Identify => custom(IDENTIFY, &[], traits),
            Kind::Track => {
                let name = self
                    .event
                    .filter(|name| !name.is_empty())
                    .ok_or_else(|| invalid("`event` is missing"))?;
                match shop(&name, &properties)? {
                    // In our words `identify` sets the visitor's traits, which a track does not.
                    _ if name == IDENTIFY => custom("track identify", &[], properties),
                    kinds if kinds.is_empty() => custom(&name, &[], properties),
                    kinds => kinds,
                }
            }
            Kind::Page => custom("page", &[("name", self.name), ("category", self.category)], properties),
            Kind::Screen => custom("screen", &[("name", self.name), ("category", self.category)], properties),
            Kind::Group => custom("group", &[("group_id", self.group_id.map(|id| id.text()))], traits),
            Kind::Alias => {
                custom("alias", &[("previous_id", self.previous_id.map(|id| id.text()))], Map::new())
            }
        })
    }
}

/// What a shop's event tells of products; nothing, where it names none.
fn shop(name: &str, properties: &Map<String, Value>) -> Result<Vec<EventKind>, ErrorReply> {
    let answer = text(properties, &["answer_id"]).and_then(|id| id.parse().ok()).map(AnswerId);
    let listed = text(properties, &["list_id", "list", "category"]);
    let slot = listed.and_then(|slot| SlotId::new(slot).ok());
    let slot = slot.map_or_else(|| SlotId::new(SLOT), Ok).map_err(|error| invalid(&error.to_string()))?;
    let products = properties.get("products").and_then(Value::as_array).into_iter().flatten();
    let products = products.filter_map(Value::as_object).take(PRODUCTS_MAX);
    Ok(match name {
        "Product Clicked" | "Product Viewed" => {
            item(properties).map(|item| EventKind::Click { item, slot, answer }).into_iter().collect()
        }
        "Product List Viewed" => (0_u16..)
            .zip(products)
            .filter_map(|(at, product)| {
                let position = number(product, "position").map_or(at, |position| position as u16);
                Some(EventKind::Impression { item: item(product)?, slot: slot.clone(), position, answer })
            })
            .collect(),
        "Order Completed" => {
            let currency = currency(text(properties, &["currency"]).as_deref().unwrap_or("USD"))?;
            let bought = products.filter_map(|product| Some((item(product)?, product)));
            let bought = bought.map(|(item, product)| {
                let worth =
                    number(product, "price").unwrap_or(0.0) * number(product, "quantity").unwrap_or(1.0);
                Ok(EventKind::Conversion { item, value_micros: micros(worth)?, currency, answer })
            });
            bought.collect::<Result<_, ErrorReply>>()?
        }
        _ => Vec::new(),
    })
}

fn item(product: &Map<String, Value>) -> Option<ItemId> {
    ItemId::new(text(product, &["product_id", "productId", "id", "sku"])?).ok()
}

fn text(object: &Map<String, Value>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| match object.get(*name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

fn number(object: &Map<String, Value>, name: &str) -> Option<f64> {
    match object.get(name)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// The same for the same message: its id can be any text, an event's is a UUIDv7. Its time is what the client said, uncorrected:
/// the correction differs each time the message is sent.
fn event_id(message_id: &str, said_ms: u64, part: u32) -> EventId {
    let hash = Sha256::new().chain_update(message_id).chain_update(part.to_be_bytes()).finalize();
    let mut random = [0; 10];
    random.copy_from_slice(&hash[..10]);
    EventId(uuid::Builder::from_unix_timestamp_millis(said_ms, &random).into_uuid())
}

fn invalid(message: &str) -> ErrorReply {
    ErrorReply::new(Code::Invalid, message)
}

#[cfg(test)]
mod tests;
