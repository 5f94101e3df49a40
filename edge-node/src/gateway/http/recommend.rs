//! `POST /v1/recommend`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use proto::client::{
    Ask, ClientReply, Degraded, DetailedAnswer, DetailedRecommend, ItemDetails, Ranked, Reason, Recommend,
    ServedBy,
};
use proto::{AnswerId, DeviceId, ErrorReply, ItemId, ModelVersion, Revision, SlotId, TraceId, UserId};
use serde::{Deserialize, Serialize};
use service::http::{Body, Refusal};

use super::auth::Asker;
use super::guard::Trace;
use super::{ask, unexpected, visitor};
use crate::gateway::Gateway;

/// How many items, where nothing is said.
const COUNT: u16 = 10;

/// Which items, for whom and where.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// A person who is signed in.
    pub(super) user_id: Option<UserId>,
    /// Where the person is not known: an installation or a browser.
    pub(super) device_id: Option<DeviceId>,
    /// The place.
    pub(super) slot: SlotId,
    /// How many.
    #[serde(default = "count")]
    pub(super) count: u16,
    /// What an earlier answer said under that name: this answer then knows what was tracked before it.
    pub(super) session: Option<String>,
    /// What is known of the moment.
    #[serde(default)]
    pub(super) context: BTreeMap<String, String>,
    /// Not these.
    #[serde(default)]
    pub(super) exclude: Vec<ItemId>,
    /// What of each item: `title`, `categories`, `image`, `attributes`, or an attribute's name.
    #[serde(default)]
    pub(super) fields: Vec<String>,
    /// How long the caller waits, in milliseconds; 0: the node's default.
    #[serde(default)]
    pub(super) deadline_ms: u32,
}

fn count() -> u16 {
    COUNT
}

/// What is offered, best first, and how it came about.
#[derive(Debug, Serialize)]
pub(super) struct Offered {
    /// Name of this answer, for impressions and clicks to refer to.
    pub(super) id: AnswerId,
    /// At most as many as asked for.
    pub(super) items: Vec<Item>,
    /// Which stage served.
    pub(super) served_by: ServedBy,
    /// Why the answer is less than it could have been.
    pub(super) degraded: Vec<Degraded>,
    /// The retrieval model that was used.
    pub(super) retrieval: Option<ModelVersion>,
    /// The ranker that was used.
    pub(super) ranker: Option<ModelVersion>,
    /// The active bundle.
    pub(super) revision: Revision,
    /// False: what `session` stands for is not in it, or what is known was too old.
    pub(super) fresh: bool,
    /// How old what is known may be, in milliseconds.
    pub(super) age_ms: Option<u64>,
    /// Follows the request through the system.
    pub(super) trace_id: String,
}

/// One item.
#[derive(Debug, Serialize)]
pub(super) struct Item {
    /// Which.
    pub(super) item: ItemId,
    /// From 0 to 1, relative to the others of this answer, and never more than that of the item before it.
    pub(super) score: f32,
    /// Why.
    pub(super) reason: Reason,
    /// Its title, where it was asked for; so are those below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) categories: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) attributes: BTreeMap<String, String>,
}

impl Item {
    fn of(ranked: Ranked, details: ItemDetails) -> Self {
        let Ranked { item, score, reason } = ranked;
        let ItemDetails { title, categories, image, attributes } = details;
        Self { item, score, reason, title, categories, image, attributes: attributes.into_iter().collect() }
    }
}

pub(super) async fn recommend(
    State(gateway): State<Arc<Gateway>>,
    trace: Trace,
    asker: Asker,
    Body(wanted): Body<Wanted>,
) -> Result<Json<Offered>, Refusal> {
    let deadline_ms = wanted.deadline_ms;
    let asked = Ask::RecommendDetailed(wanted.asked()?);
    match ask(&gateway, &asker.caller, trace, deadline_ms, asked).await? {
        ClientReply::Detailed(answer) => Ok(Json(Offered::of(answer, trace.id))),
        other => Err(unexpected(&other)),
    }
}

impl Wanted {
    pub(super) fn asked(self) -> Result<DetailedRecommend, ErrorReply> {
        let recommend = Recommend {
            visitor: visitor::visitor(self.user_id, self.device_id)?,
            slot: self.slot,
            count: self.count,
            token: self.session.as_deref().map(visitor::token).transpose()?,
            context: self.context.into_iter().collect(),
            exclude: self.exclude,
        };
        Ok(DetailedRecommend { recommend, fields: self.fields })
    }
}

impl Offered {
    pub(super) fn of(detailed: DetailedAnswer, trace: TraceId) -> Self {
        let DetailedAnswer { answer, degraded, details } = detailed;
        let details = details.into_iter().chain(std::iter::repeat_with(ItemDetails::default));
        Self {
            id: answer.id,
            items: answer
                .items
                .into_iter()
                .zip(details)
                .map(|(ranked, known)| Item::of(ranked, known))
                .collect(),
            served_by: answer.served_by,
            degraded,
            retrieval: answer.retrieval,
            ranker: answer.ranker,
            revision: answer.revision,
            fresh: answer.fresh,
            age_ms: answer.age_ms,
            trace_id: trace.to_string(),
        }
    }
}
