//! An event as a row of text, and a visitor as a column of an interactions file.

use dataset::convert::Column;
use proto::control::EventView;
use proto::{DeviceId, IdError, UserId, VisitorId};

/// The columns, in order. The first five are what [`dataset::files::SCHEMA`] asks for, by name.
pub(super) const COLUMNS: [&str; 17] = [
    "visitor_id",
    "item_id",
    "timestamp",
    "rating",
    "kind",
    "value",
    "currency",
    "slot",
    "position",
    "answer_id",
    "event_id",
    "pop",
    "offset",
    "received_at",
    "trace_id",
    "name",
    "attributes",
];

/// What a column of this name holds.
pub(super) fn column(name: &str) -> Column {
    match name {
        "timestamp" | "position" | "offset" | "received_at" => Column::Whole,
        "rating" | "value" => Column::Real,
        _ => Column::Text,
    }
}

/// One row. What an event does not have is empty.
pub(super) fn row(event: &EventView) -> [String; COLUMNS.len()] {
    let text = |part: Option<String>| part.unwrap_or_default();
    let traced = event.trace.bytes().any(|digit| digit != b'0');
    [
        visitor_column(&event.visitor).to_owned(),
        text(event.item.as_ref().map(ToString::to_string)),
        event.at_ms.to_string(),
        text(event.stars.map(|stars| stars.to_string())),
        event.kind.clone(),
        text(event.value_micros.map(decimal)),
        text(event.currency.clone()),
        text(event.slot.as_ref().map(ToString::to_string)),
        text(event.position.map(|position| position.to_string())),
        text(event.answer.map(|answer| answer.to_string())),
        event.id.to_string(),
        event.pop.to_string(),
        event.offset.to_string(),
        event.received_at_ms.to_string(),
        if traced { event.trace.clone() } else { String::new() },
        text(event.name.clone()),
        text(event.attributes.as_ref().and_then(|pairs| serde_json::to_string(pairs).ok())),
    ]
}

/// Millionths as people write them: `12.5`.
fn decimal(micros: i64) -> String {
    let (sign, micros) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
    let text = format!("{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `u:ada` is `ada`, as in the files that people have; a device keeps its `d:`, and so does the user whose id begins like one.
fn visitor_column(visitor: &str) -> &str {
    match visitor.strip_prefix("u:") {
        Some(user) if !user.starts_with("u:") && !user.starts_with("d:") => user,
        _ => visitor,
    }
}

/// The visitor that such a column names.
///
/// # Errors
/// Where the text is no id.
pub fn visitor_of(column: &str) -> Result<VisitorId, IdError> {
    match column.split_once(':') {
        Some(("d", device)) => DeviceId::new(device).map(VisitorId::Device),
        Some(("u", user)) => UserId::new(user).map(VisitorId::User),
        _ => UserId::new(column).map(VisitorId::User),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_visitor_goes_there_and_back() {
        for visitor in ["u:ada", "d:phone-7", "u:u:odd", "u:d:odd", "d:u:x", "u:a:b", "u:u"] {
            let back = visitor_of(visitor_column(visitor)).unwrap();
            assert_eq!(back.to_string(), visitor);
        }
        assert_eq!(visitor_column("u:ada"), "ada");
        assert!(visitor_of("").is_err());
    }

    #[test]
    fn money_is_exact() {
        for (micros, text) in
            [(12_500_000, "12.5"), (0, "0"), (-1, "-0.000001"), (3_000_000, "3"), (-2_250_000, "-2.25")]
        {
            assert_eq!(decimal(micros), text);
        }
        assert_eq!(decimal(i64::MIN), "-9223372036854.775808");
    }
}
