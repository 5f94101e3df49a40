//! A body of one message, or of many, as events. Pure: the handlers, `rockpool check` and the fuzz targets read the same way.

use std::ops::Range;

use proto::{Code, ErrorReply, Event};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::super::events::read;
use super::lenient::{Mended, Repair};
use super::message::{self, Kind, Received, Unusable};
use super::notes::{Notes, Reason};

/// Largest message, in bytes, as Segment has it.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Most messages of a batch, as Segment has it.
const BATCH_LEN_MAX: usize = 2_500;

/// What is posted.
#[derive(Debug)]
pub struct Body<'b> {
    mended: &'b Mended<'b>,
    messages: Messages<'b>,
    /// The app key, where it stands here.
    pub write_key: Option<String>,
    /// When it was sent, by the client's clock.
    pub sent_at: Value,
}

#[derive(Debug)]
enum Messages<'b> {
    One(Kind, Map<String, Value>),
    Many(Vec<&'b RawValue>),
}

/// What a body tells of.
#[derive(Debug, Default)]
pub struct Told {
    pub events: Vec<Event>,
    pub notes: Notes,
}

impl<'b> Body<'b> {
    /// One message of a kind; of none: many.
    ///
    /// # Errors
    /// Where it is not JSON, or not of this form.
    pub fn read(mended: &'b Mended<'b>, kind: Option<Kind>) -> Result<Self, ErrorReply> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Batch<'b> {
            #[serde(borrow)]
            batch: Vec<&'b RawValue>,
            #[serde(default)]
            write_key: Value,
            #[serde(default)]
            sent_at: Value,
        }
        let text = mended.text.as_bytes();
        let text_of = |value: &Value| value.as_str().map(str::to_owned);
        let Some(kind) = kind else {
            let Batch { batch, write_key, sent_at } = read(text)?;
            return Ok(Self {
                mended,
                messages: Messages::Many(batch),
                write_key: text_of(&write_key),
                sent_at,
            });
        };
        let message: Map<String, Value> = read(text)?;
        let write_key = message.get("writeKey").and_then(text_of);
        Ok(Self { mended, messages: Messages::One(kind, message), write_key, sent_at: Value::Null })
    }

    /// Its events, and what of it could not be kept as it was said.
    ///
    /// # Errors
    /// Where it is too large, or has too many messages.
    pub fn told(self, received: &Received) -> Result<Told, ErrorReply> {
        let mut told = Told::default();
        let text = self.mended.text.as_ref();
        let mut repairs = self.mended.repairs.as_slice();
        match self.messages {
            Messages::One(kind, message) => {
                small(text.len()).map_err(|unusable| ErrorReply::new(Code::TooLarge, unusable.detail))?;
                told.repaired(&mut repairs, usize::MAX);
                let events = message::events(&message, Some(kind), received, &mut told.notes);
                told.message(events);
            }
            Messages::Many(messages) => {
                if messages.len() > BATCH_LEN_MAX {
                    let message =
                        format!("a batch has at most {BATCH_LEN_MAX} messages, not {}", messages.len());
                    return Err(ErrorReply::new(Code::TooLarge, message));
                }
                for (at, message) in messages.into_iter().enumerate() {
                    let Range { start, end } = place(message, text);
                    told.notes.within(String::new());
                    told.repaired(&mut repairs, start);
                    told.notes.within(format!("batch[{at}]"));
                    told.repaired(&mut repairs, end);
                    let events = one_of_many(message, received, &mut told.notes);
                    told.message(events);
                }
                told.notes.within(String::new());
                told.repaired(&mut repairs, usize::MAX);
            }
        }
        Ok(told)
    }
}

fn one_of_many(message: &RawValue, received: &Received, notes: &mut Notes) -> Result<Vec<Event>, Unusable> {
    small(message.get().len())?;
    let read: Map<String, Value> = serde_json::from_str(message.get()).map_err(|error| {
        let detail = format!("the message is no object of JSON: {error}");
        Unusable { reason: Reason::Malformed, detail }
    })?;
    message::events(&read, None, received, notes)
}

impl Told {
    /// Notes what was mended before this place.
    fn repaired(&mut self, repairs: &mut &[Repair], before: usize) {
        let (these, rest) = repairs.split_at(repairs.partition_point(|repair| repair.at < before));
        for repair in these {
            self.notes.changed("", repair.reason, repair.detail.clone());
        }
        *repairs = rest;
    }

    fn message(&mut self, events: Result<Vec<Event>, Unusable>) {
        match events {
            Ok(events) => self.events.extend(events),
            Err(Unusable { reason, detail }) => self.notes.skipped("", reason, detail),
        }
    }
}

/// Where a part of a text stands in it.
fn place(part: &RawValue, text: &str) -> Range<usize> {
    let start = part.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + part.get().len()
}

fn small(len: usize) -> Result<(), Unusable> {
    match len {
        ..=MESSAGE_BYTES_MAX => Ok(()),
        _ => {
            let detail = format!("a message has at most {MESSAGE_BYTES_MAX} bytes, not {len}");
            Err(Unusable { reason: Reason::TooLarge, detail })
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::{EventKind, TraceId};
    use serde_json::json;

    use super::super::lenient::mend;
    use super::super::notes::Note;
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn told(kind: Option<Kind>, body: &[u8]) -> Told {
        let received = Received { at_ms: NOW, sent_at: Value::Null, trace: TraceId(7), nonce: 1 };
        let mended = mend(body);
        Body::read(&mended, kind).unwrap().told(&received).unwrap()
    }

    fn reasons(notes: &[Note]) -> Vec<(&str, Reason)> {
        notes.iter().map(|note| (note.at.as_str(), note.reason)).collect()
    }

    /// Each of them cost the whole message, or the whole batch.
    #[test]
    fn a_part_that_cannot_be_kept_takes_nothing_along() {
        let batch = br#"{"batch": [
            {"type": "track", "userId": "u", "event": "a", "properties": {"bad": "\ud800", "good": 1}},
            {"type": "track", "userId": "u", "event": "b", "properties": {"big": 1e400, "nan": NaN}},
            {"type": "group", "userId": 42.0, "groupId": 12345678901234567890123},
            {"type": "sing", "userId": "u"}, 7, {"type": "page", "userId": {}},
            {"type": "track", "userId": "u", "event": "c", "event": "d"}
        ]}"#;
        let Told { events, notes } = told(None, batch);
        let said: Vec<_> = events
            .iter()
            .map(|event| match &event.kind {
                EventKind::Custom { name, attributes } => (name.as_str(), json!(attributes)),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            ("a", json!([["bad", "\u{fffd}"], ["good", "1"]])),
            ("b", json!([["big", "1e400"], ["nan", "NaN"]])),
            ("group", json!([["group_id", "12345678901234567890123"]])),
            ("d", json!([])),
        ];
        assert_eq!(said, expected);
        assert_eq!(events[2].visitor.to_string(), "u:42");
        let changed = reasons(&notes.changed.notes);
        let number = ("batch[1]", Reason::Number);
        assert_eq!(
            changed,
            [("batch[0]", Reason::Text), number, number, ("batch[5].userId", Reason::UserId)]
        );
        let skipped =
            [("batch[3]", Reason::Type), ("batch[4]", Reason::Malformed), ("batch[5]", Reason::Visitor)];
        assert_eq!(reasons(&notes.skipped.notes), skipped);
    }

    #[test]
    fn one_that_is_too_large_is_skipped_with_its_name() {
        let large = "x".repeat(MESSAGE_BYTES_MAX);
        let batch = json!({"batch": [
            {"type": "page", "userId": "u", "name": large}, {"type": "page", "userId": "u"},
        ]});
        let Told { events, notes } = told(None, batch.to_string().as_bytes());
        assert_eq!(events.len(), 1);
        assert_eq!(reasons(&notes.skipped.notes), [("batch[0]", Reason::TooLarge)]);
    }

    #[test]
    fn messages_without_ids_count_one_by_one() {
        let batch = br#"{"batch": [{"type": "page", "userId": "u"}, {"type": "page", "userId": "u"},
            {"type": "page", "userId": "u", "messageId": 1}, {"type": "page", "userId": "u", "messageId": "1"}]}"#;
        let ids: Vec<_> = told(None, batch).events.iter().map(|event| event.id).collect();
        assert!(ids[0] != ids[1] && ids[1] != ids[2]);
        assert_eq!(ids[2], ids[3]);
    }

    #[test]
    fn what_is_mended_beside_the_messages_is_noted_too() {
        let body = b"\xef\xbb\xbf{\"context\": \"\\udfff\", \"batch\": [{\"type\": \"page\", \"userId\": \"\xff\"}], \"more\": NaN}";
        let Told { events, notes } = told(None, body);
        assert_eq!(events[0].visitor.to_string(), "d:".replace('d', "u") + "\u{fffd}");
        let said = reasons(&notes.changed.notes);
        assert_eq!(said, [("", Reason::Text), ("", Reason::Text), ("", Reason::Number)]);
        assert_eq!(told(Some(Kind::Page), br#"{"userId": "\ud800", "type": "track"}"#).events.len(), 1);
    }
}
