//! Moments, as text.

use chrono::DateTime;
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
