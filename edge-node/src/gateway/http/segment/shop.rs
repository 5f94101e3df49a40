//! What shops say in the words of Segment's e-commerce specification teaches the models: a product that was clicked or viewed is a click,
//! one that was ordered a conversion, one in a list that was viewed an impression.

use proto::{AnswerId, EventKind, ItemId, SlotId};
use serde_json::{Map, Value};

use super::super::events::{currency, micros};
use super::notes::{Notes, Reason, shown};
use super::values::{self, Read};

/// Most products of one message that become events of their own.
const PRODUCTS_MAX: usize = 100;
/// Where a product was shown, where the message does not say.
const SLOT: &str = "page";
/// The currency of an order that does not say, as Segment's specification has it.
const CURRENCY: &str = "USD";
/// ISO 4217: no currency.
const NO_CURRENCY: [u8; 3] = [b'X'; 3];

/// An event for each product, with its place in the message; none, where it names none.
pub fn kinds(name: &str, properties: &Map<String, Value>, notes: &mut Notes) -> Vec<(u32, EventKind)> {
    match name {
        "Product Clicked" | "Product Viewed" => {
            let shop = Shop { properties, notes };
            shop.clicked().into_iter().map(|kind| (0, kind)).collect()
        }
        "Product List Viewed" => Shop { properties, notes }.listed(),
        "Order Completed" => Shop { properties, notes }.ordered(),
        _ => Vec::new(),
    }
}

/// A message of a shop's.
struct Shop<'m> {
    properties: &'m Map<String, Value>,
    notes: &'m mut Notes,
}

impl<'m> Shop<'m> {
    fn clicked(mut self) -> Option<EventKind> {
        let Some(item) = self.item("properties", self.properties) else {
            let detail = "no product_id or sku can be used: kept as a custom event".to_owned();
            self.notes.changed("properties", Reason::ProductId, detail);
            return None;
        };
        Some(EventKind::Click { item, slot: self.slot(), answer: self.answer() })
    }

    fn listed(mut self) -> Vec<(u32, EventKind)> {
        let (slot, answer, products) = (self.slot(), self.answer(), self.products());
        let mut impression = |(at, product): (u32, &'m Map<String, Value>)| {
            let within = within(at);
            let item = self.product(&within, product)?;
            let position = self.position(&within, product).unwrap_or(u16::try_from(at).unwrap_or(u16::MAX));
            Some((at, EventKind::Impression { item, slot: slot.clone(), position, answer }))
        };
        products.into_iter().filter_map(&mut impression).collect()
    }

    fn ordered(mut self) -> Vec<(u32, EventKind)> {
        let products = self.products();
        if products.is_empty() {
            return Vec::new();
        }
        let (currency, answer) = (self.currency(), self.answer());
        let mut conversion = |(at, product): (u32, &'m Map<String, Value>)| {
            let within = within(at);
            let item = self.product(&within, product)?;
            let value_micros = self.worth(&within, product);
            Some((at, EventKind::Conversion { item, value_micros, currency, answer }))
        };
        products.into_iter().filter_map(&mut conversion).collect()
    }

    /// The products, with their places.
    fn products(&mut self) -> Vec<(u32, &'m Map<String, Value>)> {
        let at = "properties.products";
        let products: &'m [Value] = match self.properties.get("products") {
            None | Some(Value::Null) => &[],
            Some(Value::Array(products)) => products,
            Some(one @ Value::Object(_)) => {
                let detail = "is one product, and no list: taken as a list of one".to_owned();
                self.notes.changed(at, Reason::Products, detail);
                std::slice::from_ref(one)
            }
            Some(other) => {
                let detail = format!("{} is no list of products", shown(other));
                self.notes.skipped(at, Reason::Products, detail);
                &[]
            }
        };
        if let Some(more) = products.len().checked_sub(PRODUCTS_MAX).filter(|more| *more > 0) {
            let detail = format!("{more} products are left out: {PRODUCTS_MAX} of a message become events");
            self.notes.skipped(at, Reason::Products, detail);
        }
        let mut found = Vec::new();
        for (at, product) in (0..).zip(products.iter().take(PRODUCTS_MAX)) {
            match product {
                Value::Object(product) => found.push((at, product)),
                other => {
                    let detail = format!("{} is no product", shown(other));
                    self.notes.skipped(&within(at), Reason::Product, detail);
                }
            }
        }
        found
    }

    /// A product's id; it is skipped where it has none.
    fn product(&mut self, within: &str, product: &Map<String, Value>) -> Option<ItemId> {
        let item = self.item(within, product);
        if item.is_none() {
            let detail = "the product has no product_id or sku that can be used".to_owned();
            self.notes.skipped(within, Reason::ProductId, detail);
        }
        item
    }

    /// The first of its ids that can be used.
    fn item(&mut self, within: &str, product: &Map<String, Value>) -> Option<ItemId> {
        for name in ["product_id", "productId", "id", "sku"] {
            let Some(value) = product.get(name).filter(|value| !none(value)) else { continue };
            match values::text(value).map(ItemId::new) {
                Some(Ok(item)) => return Some(item),
                Some(Err(error)) => self.refused(within, name, Reason::ProductId, value, &error.to_string()),
                None => self.refused(within, name, Reason::ProductId, value, "an id is text or a number"),
            }
        }
        None
    }

    fn refused(&mut self, within: &str, name: &str, reason: Reason, value: &Value, why: &str) {
        self.notes.changed(
            &format!("{within}.{name}"),
            reason,
            format!("{} is not used: {why}", shown(value)),
        );
    }

    fn slot(&mut self) -> SlotId {
        for name in ["list_id", "list", "category"] {
            let Some(value) = self.properties.get(name).filter(|value| !none(value)) else { continue };
            match values::text(value).map(SlotId::new) {
                Some(Ok(slot)) => return slot,
                Some(Err(error)) => {
                    self.refused("properties", name, Reason::List, value, &error.to_string());
                }
                None => self.refused("properties", name, Reason::List, value, "a list's name is text"),
            }
        }
        SlotId::new(SLOT).expect("a short word is an id")
    }

    fn answer(&mut self) -> Option<AnswerId> {
        let value = self.properties.get("answer_id").filter(|value| !none(value))?;
        let answer = value.as_str().and_then(|text| text.parse().ok()).map(AnswerId);
        if answer.is_none() {
            let why = "it is not the id of an answer, unchanged";
            self.refused("properties", "answer_id", Reason::AnswerId, value, why);
        }
        answer
    }

    fn currency(&mut self) -> [u8; 3] {
        let said = self.properties.get("currency").filter(|value| !none(value));
        let code = match said {
            None => currency(CURRENCY),
            Some(value) => currency(value.as_str().unwrap_or_default().trim()),
        };
        code.unwrap_or_else(|error| {
            let no_currency = String::from_utf8_lossy(&NO_CURRENCY);
            let detail = format!("{}: the worth is kept in {no_currency}, no currency", error.message);
            self.notes.changed("properties.currency", Reason::Currency, detail);
            NO_CURRENCY
        })
    }

    /// Price times quantity, in millionths.
    fn worth(&mut self, within: &str, product: &Map<String, Value>) -> i64 {
        let quantity = match product.get("quantity").filter(|value| !none(value)) {
            None => 1.0,
            Some(value) => self.amount(within, "quantity", Reason::Quantity, value).unwrap_or(1.0),
        };
        let at = format!("{within}.price");
        let Some(value) = product.get("price").filter(|value| !none(value)) else {
            let detail = "there is none: the product is counted with a worth of 0".to_owned();
            self.notes.changed(&at, Reason::Price, detail);
            return 0;
        };
        let price = self.amount(within, "price", Reason::Price, value).unwrap_or_default();
        micros(price * quantity).unwrap_or_else(|error| {
            let detail = format!("{}: the product is counted with a worth of 0", error.message);
            self.notes.changed(&at, Reason::Price, detail);
            0
        })
    }

    fn amount(&mut self, within: &str, name: &str, reason: Reason, value: &Value) -> Option<f64> {
        let read = values::amount(value);
        let instead = if reason == Reason::Quantity { "1 is taken" } else { "0 is taken" };
        let detail = match &read {
            Some(Read { how: None, .. }) => None,
            Some(Read { value: number, how: Some(how) }) => {
                Some(format!("{} is {how}: {number}", shown(value)))
            }
            None => Some(format!("{} is no amount such as 12.50: {instead}", shown(value))),
        };
        if let Some(detail) = detail {
            self.notes.changed(&format!("{within}.{name}"), reason, detail);
        }
        read.map(|read| read.value)
    }

    fn position(&mut self, within: &str, product: &Map<String, Value>) -> Option<u16> {
        let value = product.get("position").filter(|value| !none(value))?;
        let number = values::amount(value).map(|read| read.value);
        let position =
            number.filter(|number| number.fract() == 0.0 && (0.0..=f64::from(u16::MAX)).contains(number));
        if position.is_none() {
            let why = "a position is a whole number from 0 to 65535; the place in the list is taken";
            self.refused(within, "position", Reason::Position, value, why);
        }
        position.map(|number| number as u16)
    }
}

fn within(at: u32) -> String {
    format!("properties.products[{at}]")
}

fn none(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(str::is_empty)
}
