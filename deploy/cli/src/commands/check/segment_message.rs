//! `segment-message`: what the tracking API makes of a message.

use chrono::DateTime;
use proto::{Code, ErrorReply};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Part, read};

pub(super) const PART: Part = Part {
    name: "segment-message",
    about: "a message of the tracking API (Segment's) → its events, and what was changed or skipped, and why",
    shapes: r#"  input   {"route": "track", "message": {…}, "received_at": "2026-11-22T08:00:00Z"}
          route: identify, track, page, screen, group, alias, or batch, as in /v1/ROUTE; message: the body that is
          posted there, a batch with its "batch"; received_at: the node's clock (RFC 3339), 2027-01-15T08:00:00Z
          where it is not said. Or the message alone, as it stands in a batch: its "type" is the route
  output  {"events": [event of /v1/events, …], "changed": [note, …], "skipped": [note, …]}
          a note: {"at": "batch[3].timestamp", "reason": a word of /openapi.json, "detail": text for people}
"#,
    run,
};

/// The node's clock where nobody says it: the output is to be the same tomorrow.
const RECEIVED_AT: &str = "2027-01-15T08:00:00Z";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input<'a> {
    route: String,
    #[serde(borrow)]
    message: &'a RawValue,
    received_at: Option<String>,
}

/// What tells a message alone from an [`Input`].
#[derive(Deserialize)]
struct Alone<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    batch: Option<&'a RawValue>,
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
}

impl Alone<'_> {
    fn route(&self) -> Option<String> {
        match self {
            Alone { message: Some(_), .. } => None,
            Alone { batch: Some(_), .. } => Some("batch".to_owned()),
            Alone { kind, .. } => serde_json::from_str(kind.as_ref()?.get()).ok(),
        }
    }
}

fn run(input: &RawValue) -> Result<Value, ErrorReply> {
    let alone = serde_json::from_str::<Alone<'_>>(input.get()).ok().and_then(|alone| alone.route());
    let Input { route, message, received_at } = match alone {
        Some(route) => Input { route, message: input, received_at: None },
        None => read(input)?,
    };
    let received_at = received_at.as_deref().unwrap_or(RECEIVED_AT);
    let moment = DateTime::parse_from_rfc3339(received_at).ok();
    let moment =
        moment.and_then(|moment| u64::try_from(moment.timestamp_millis()).ok()).ok_or_else(|| {
            let message = format!(
                "received_at is {received_at:?}, not a moment from 1970 on such as 2026-11-22T08:00:00Z"
            );
            ErrorReply::new(Code::Invalid, message)
        })?;
    edge_node::gateway::http::segment_message(&route, message.get().as_bytes(), moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(input: &str) -> Result<Value, ErrorReply> {
        run(serde_json::from_str(input).unwrap())
    }

    #[test]
    fn a_message_may_stand_alone() {
        let message = r#"{"type": "track", "event": "Product Viewed", "userId": "u", "messageId": "m", "properties": {"product_id": "p"}}"#;
        let whole = format!(r#"{{"route": "track", "message": {message}, "received_at": "{RECEIVED_AT}"}}"#);
        let alone = output(message).unwrap();
        assert_eq!(alone["events"][0]["item"], "p");
        assert_eq!(alone, output(&whole).unwrap());
        assert_eq!(output(&format!(r#"{{"batch": [{message}]}}"#)).unwrap()["events"], alone["events"]);
        for wrong in ["{}", "[]", r#"{"type": 7}"#, r#"{"type": "nonsense"}"#, r#"{"route": "track"}"#] {
            assert_eq!(output(wrong).unwrap_err().code, Code::Invalid, "{wrong}");
        }
    }
}
