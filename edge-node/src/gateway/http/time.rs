//! Moments, as text.

use chrono::{DateTime, SecondsFormat};
use proto::{Code, ErrorReply};

/// RFC 3339 to milliseconds since 1970 UTC.
pub(super) fn at_ms(text: &str) -> Result<u64, ErrorReply> {
    let moment = DateTime::parse_from_rfc3339(text).ok().map(|moment| moment.timestamp_millis());
    moment.and_then(|ms| u64::try_from(ms).ok()).ok_or_else(|| {
        let message =
            format!("{text:?} is no moment from 1970 on such as 2026-11-22T08:00:00.000Z (RFC 3339)");
        ErrorReply::new(Code::Invalid, message)
    })
}

/// [`at_ms`] in reverse.
pub(super) fn utc(at_ms: u64) -> String {
    let moment = i64::try_from(at_ms).ok().and_then(DateTime::from_timestamp_millis);
    moment.map_or_else(|| at_ms.to_string(), |at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
}
