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
          posted there, a batch with its "batch"; received_at: the node's clock (RFC 3339)
  output  {"events": [event of /v1/events, …], "changed": [note, …], "skipped": [note, …]}
          a note: {"at": "batch[3].timestamp", "reason": a word of /openapi.json, "detail": text for people}
"#,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input<'a> {
    route: String,
    #[serde(borrow)]
    message: &'a RawValue,
    received_at: String,
}

fn run(input: &RawValue) -> Result<Value, ErrorReply> {
    let Input { route, message, received_at } = read(input)?;
    let moment = DateTime::parse_from_rfc3339(&received_at).ok();
    let moment =
        moment.and_then(|moment| u64::try_from(moment.timestamp_millis()).ok()).ok_or_else(|| {
            let message = format!(
                "received_at is {received_at:?}, not a moment from 1970 on such as 2026-11-22T08:00:00Z"
            );
            ErrorReply::new(Code::Invalid, message)
        })?;
    edge_node::gateway::http::segment_message(&route, message.get().as_bytes(), moment)
}
