//! `GET /v1/events`, `GET /v1/events/count`, `GET /v1/events/export`.

use axum::Json;
use axum::extract::State;
use cloud_storage::events::RECENT_MAX;
use cloud_storage::{Filter, Storage};
use proto::control::{EventCounts, EventPage, EventView};
use proto::{Code, TraceId};
use serde::Deserialize;
use service::http::Query;

use super::input::limit_default;
use super::problem::ApiError;

/// Which events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `u:<user>` or `d:<device>`.
    visitor: Option<String>,
    /// 32 hex digits.
    trace: Option<String>,
    #[serde(default = "limit_default")]
    limit: u32,
}

pub(super) async fn recent(
    State(storage): State<Storage>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Vec<EventView>>, ApiError> {
    let trace = wanted.trace.as_deref().map(trace).transpose()?;
    let filter = Filter { visitor: wanted.visitor, trace };
    Ok(Json(storage.events_recent(&filter, wanted.limit.min(RECENT_MAX)).await?))
}

/// Which page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// The cursor: `next` of the page before.
    #[serde(default)]
    after: u64,
    /// `u:<user>` or `d:<device>`.
    visitor: Option<String>,
    #[serde(default = "page_default")]
    limit: u32,
}

fn page_default() -> u32 {
    RECENT_MAX
}

pub(super) async fn export(
    State(storage): State<Storage>,
    Query(page): Query<Page>,
) -> Result<Json<EventPage>, ApiError> {
    Ok(Json(storage.events_page(page.after, page.visitor.as_deref(), page.limit).await?))
}

pub(super) async fn count(State(storage): State<Storage>) -> Result<Json<EventCounts>, ApiError> {
    Ok(Json(storage.event_counts().await?))
}

/// Reads a W3C trace id (<https://www.w3.org/TR/trace-context/#trace-id>).
fn trace(text: &str) -> Result<TraceId, ApiError> {
    let sound = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = if sound { u128::from_str_radix(text, 16).ok() } else { None };
    number.map(TraceId).ok_or_else(|| ApiError::new(Code::Malformed, "a trace id is 32 hex digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_goes_there_and_back() {
        let id = TraceId(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(trace(&id.to_string()).unwrap(), id);
        for wrong in ["", "af", &"g".repeat(32), "+0af7651916cd43dd8448eb211c80319"] {
            assert!(trace(wrong).is_err(), "{wrong:?}");
        }
    }
}
