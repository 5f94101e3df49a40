//! What of a body was not kept as it was said. Segment's libraries hear `{"success": true}` whatever became of a message, so whoever
//! builds with one finds here what was changed or skipped, and why: counted in two headers, and in words in the body.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::Value;

/// How much was kept otherwise than it was said, by reason.
pub const CHANGED: HeaderName = HeaderName::from_static("rockpool-changed");
/// How much was not kept, by reason.
pub const SKIPPED: HeaderName = HeaderName::from_static("rockpool-skipped");
/// How many events had been counted before.
pub const DUPLICATES: HeaderName = HeaderName::from_static("rockpool-duplicates");

/// Notes of a kind that are told in words; all are counted.
const NOTES_MAX: usize = 20;
/// As much of a value as a note repeats, in bytes.
const VALUE_BYTES_MAX: usize = 64;

/// Why something was changed or skipped: a field that was not usable as it was, or a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    AnonymousId,
    AnswerId,
    Attributes,
    Currency,
    Depth,
    Event,
    GroupId,
    Invalid,
    List,
    Malformed,
    MessageId,
    Name,
    Number,
    Position,
    PreviousId,
    Price,
    Product,
    ProductId,
    Products,
    Properties,
    Quantity,
    SentAt,
    Text,
    Timestamp,
    TooLarge,
    Traits,
    Type,
    UserId,
    Visitor,
}

#[cfg(test)]
impl Reason {
    pub const ALL: [Reason; 29] = [
        Self::AnonymousId,
        Self::AnswerId,
        Self::Attributes,
        Self::Currency,
        Self::Depth,
        Self::Event,
        Self::GroupId,
        Self::Invalid,
        Self::List,
        Self::Malformed,
        Self::MessageId,
        Self::Name,
        Self::Number,
        Self::Position,
        Self::PreviousId,
        Self::Price,
        Self::Product,
        Self::ProductId,
        Self::Products,
        Self::Properties,
        Self::Quantity,
        Self::SentAt,
        Self::Text,
        Self::Timestamp,
        Self::TooLarge,
        Self::Traits,
        Self::Type,
        Self::UserId,
        Self::Visitor,
    ];
}

/// One thing that was changed or skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Where it stands in the body: `batch[3].properties.products[0].price`.
    pub at: String,
    pub reason: Reason,
    /// For people: what came, and what became of it.
    pub detail: String,
}

/// Notes of one kind.
#[derive(Debug, Default)]
pub struct Told {
    pub notes: Vec<Note>,
    counts: BTreeMap<Reason, usize>,
}

impl Told {
    fn note(&mut self, note: Note) {
        *self.counts.entry(note.reason).or_default() += 1;
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.counts.values().sum()
    }

    /// An Integer with a parameter for each reason (RFC 9651, 3.3.1): `3;price=2;timestamp=1`.
    fn header(&self) -> Option<HeaderValue> {
        let word = |reason: &Reason| Some(serde_json::to_value(reason).ok()?.as_str()?.to_owned());
        let each =
            self.counts.iter().filter_map(|(reason, count)| Some(format!(";{}={count}", word(reason)?)));
        let value = format!("{}{}", self.count(), each.collect::<String>());
        (self.count() > 0).then(|| HeaderValue::try_from(value).ok()).flatten()
    }
}

/// What was changed and what was skipped of a body.
#[derive(Debug, Default)]
pub struct Notes {
    /// The part of the body that is being read.
    within: String,
    pub changed: Told,
    pub skipped: Told,
}

impl Notes {
    /// What follows is about this part: `batch[3]`.
    pub fn within(&mut self, part: String) {
        self.within = part;
    }

    /// The part that is being read.
    pub fn part(&self) -> &str {
        &self.within
    }

    /// Something is kept otherwise than it was said.
    pub fn changed(&mut self, at: &str, reason: Reason, detail: String) {
        let note = Note { at: self.place(at), reason, detail };
        tracing::debug!(?note, "a part of a message is changed");
        self.changed.note(note);
    }

    /// Something is not kept.
    pub fn skipped(&mut self, at: &str, reason: Reason, detail: String) {
        let note = Note { at: self.place(at), reason, detail };
        tracing::debug!(?note, "a part of a message is skipped");
        self.skipped.note(note);
    }

    fn place(&self, at: &str) -> String {
        match (self.within.as_str(), at) {
            (within, "") => within.to_owned(),
            ("", at) => at.to_owned(),
            (within, at) => format!("{within}.{at}"),
        }
    }

    /// Says how much there was.
    pub fn headers(&self) -> HeaderMap {
        let counts = [(CHANGED, self.changed.header()), (SKIPPED, self.skipped.header())];
        counts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// A value as a note repeats it.
pub fn shown(value: &Value) -> String {
    cut(&value.to_string())
}

/// As much of a text as a note repeats.
pub fn cut(text: &str) -> String {
    match text.floor_char_boundary(VALUE_BYTES_MAX) {
        len if len < text.len() => format!("{} …", &text[..len]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_some_are_told() {
        let mut notes = Notes::default();
        assert!(notes.headers().is_empty());
        for at in 0..=NOTES_MAX {
            notes.within(format!("batch[{at}]"));
            notes.changed("properties.price", Reason::Price, "unreadable".to_owned());
        }
        notes.changed("sentAt", Reason::SentAt, String::new());
        assert_eq!(notes.headers()[CHANGED], "22;price=21;sent_at=1");
        assert!(!notes.headers().contains_key(SKIPPED));
        assert_eq!(notes.changed.notes.len(), NOTES_MAX);
        assert_eq!(notes.changed.notes[3].at, "batch[3].properties.price");
    }

    #[test]
    fn a_note_repeats_no_more_than_it_needs() {
        assert_eq!(cut(&"é".repeat(1_000)).len(), VALUE_BYTES_MAX + " …".len());
        assert_eq!(cut("short"), "short");
    }
}
