//! The client conversation: an app, through the SDK, asks a node.
//!
//! One request and one reply a stream. The first request on a connection must be [`Ask::Session`]; it presents the app
//! key, and the connection is authorised from then on. A batch of events may be sent again: events are counted once.

use serde::{Deserialize, Serialize};

use crate::bundle::Item;
use crate::error::{Code, ErrorReply};
use crate::event::{Attributes, Event, check_attributes};
use crate::ids::{
    AnswerId, ItemId, ModelVersion, NodeId, PopId, Revision, SessionToken, SlotId, TraceId, VisitorId,
};
use crate::limits::{
    ATTRIBUTE_BYTES_MAX, EXCLUDE_ITEMS_MAX, FIELDS_MAX, RECOMMEND_COUNT_MAX, TRACK_EVENTS_MAX,
};

/// A request with what every request carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientRequest {
    /// Follows the request through the system.
    pub trace: TraceId,
    /// How long the client waits from when the node reads this, in milliseconds. 0: the node's default.
    pub deadline_ms: u32,
    /// What is asked.
    pub ask: Ask,
}

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// Open a session.
    Session(OpenSession),
    /// Answer a slot.
    Recommend(Recommend),
    /// Count events.
    Track(Track),
    /// Are you there?
    Ping,
    /// Answer a slot, with what is known of the items and of how the answer came about.
    RecommendDetailed(DetailedRecommend),
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ClientReply {
    /// To [`Ask::Session`].
    Session(SessionOpened),
    /// To [`Ask::Recommend`].
    Answer(Answer),
    /// To [`Ask::Track`].
    Tracked(Tracked),
    /// To [`Ask::Ping`].
    Pong,
    /// Instead of any of them.
    Error(ErrorReply),
    /// To [`Ask::RecommendDetailed`].
    Detailed(DetailedAnswer),
}

/// Presents the app.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenSession {
    /// The app's secret key.
    pub app_key: String,
    /// Name and version of the client, for people: `rockpool-rust/0.1.0`.
    pub agent: String,
}

// The key is a secret: it must not reach a log through `{:?}`.
impl std::fmt::Debug for OpenSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSession").field("agent", &self.agent).finish_non_exhaustive()
    }
}

/// Says who answers, and who else could.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionOpened {
    /// The PoP.
    pub pop: PopId,
    /// The node.
    pub node: NodeId,
    /// Client addresses (`host:port`) of all nodes of the PoP, for failover.
    pub nodes: Vec<String>,
}

/// Asks for items for a slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recommend {
    /// For whom.
    pub visitor: VisitorId,
    /// For what place.
    pub slot: SlotId,
    /// How many items, from 1 to [`RECOMMEND_COUNT_MAX`].
    pub count: u16,
    /// What the client must have seen.
    pub token: Option<SessionToken>,
    /// What is known of the moment: device, page, traits of a visitor without a profile …
    pub context: Attributes,
    /// Items not wanted in this answer, at most [`EXCLUDE_ITEMS_MAX`].
    pub exclude: Vec<ItemId>,
}

impl Recommend {
    /// Checks what types cannot.
    pub fn check(&self) -> Result<(), ErrorReply> {
        if !(1..=RECOMMEND_COUNT_MAX).contains(&usize::from(self.count)) {
            let message = format!("count must be from 1 to {RECOMMEND_COUNT_MAX}, not {}", self.count);
            return Err(ErrorReply::new(Code::Invalid, message));
        }
        if self.exclude.len() > EXCLUDE_ITEMS_MAX {
            let message = format!("at most {EXCLUDE_ITEMS_MAX} excluded items, not {}", self.exclude.len());
            return Err(ErrorReply::new(Code::TooLarge, message));
        }
        check_attributes(&self.context)
    }
}

/// Which stage of the pipeline the answer comes from; each is the fallback of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServedBy {
    /// Retrieved by the model and ranked by the model.
    Ranked,
    /// Retrieved by the model; ranking failed or had no time left.
    Retrieved,
    /// What the visitor's segment likes.
    Segment,
    /// What most visitors like.
    Popular,
    /// The node has no bundle yet.
    Nothing,
}

/// Why an item is in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It fits what the visitor did before.
    Taste,
    /// The visitor's segment likes it.
    Segment,
    /// Most visitors like it.
    Popular,
    /// It is new: nobody has dealt with it, so it is tried.
    New,
    /// The visitor has met it before, and nothing else is left.
    Again,
}

/// Why an answer is less than it could have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Degraded {
    /// The node has more to do than it can bear: no model was run.
    Shed,
    /// A model did not get its turn, or did not end, within its share of the deadline.
    ModelTimeout,
    /// A model failed.
    ModelFailed,
    /// The active bundle has no retrieval model.
    NoModel,
    /// The node has no bundle yet.
    NoBundle,
    /// What the node knows of the visitor may be too old to be used: the visitor was answered as an unknown one.
    Stale,
    /// What the session token stands for was not known here in time.
    Behind,
}

/// Asks for items for a slot, and for what is known of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetailedRecommend {
    /// For whom, where, how many.
    pub recommend: Recommend,
    /// What of each item: `title`, `categories`, `image`, `attributes` (all of them), or an attribute's name. At most
    /// [`FIELDS_MAX`].
    pub fields: Vec<String>,
}

impl DetailedRecommend {
    /// Checks what types cannot.
    pub fn check(&self) -> Result<(), ErrorReply> {
        if self.fields.len() > FIELDS_MAX {
            let message = format!("at most {FIELDS_MAX} fields, not {}", self.fields.len());
            return Err(ErrorReply::new(Code::TooLarge, message));
        }
        if self.fields.iter().any(|field| field.is_empty() || field.len() > ATTRIBUTE_BYTES_MAX) {
            let message = format!("a field's name has 1 to {ATTRIBUTE_BYTES_MAX} bytes");
            return Err(ErrorReply::new(Code::Invalid, message));
        }
        self.recommend.check()
    }
}

/// An answer with what was asked of its items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetailedAnswer {
    /// The answer.
    pub answer: Answer,
    /// Why it is less than it could have been; empty: it is not.
    pub degraded: Vec<Degraded>,
    /// What was asked of each item of the answer, in their order; empty where nothing was asked.
    pub details: Vec<ItemDetails>,
}

impl DetailedAnswer {
    /// The answer as clients of before know it: they have no word for the newer reasons.
    pub fn plain(mut self) -> Answer {
        for ranked in &mut self.answer.items {
            if matches!(ranked.reason, Reason::New | Reason::Again) {
                ranked.reason = Reason::Popular;
            }
        }
        self.answer
    }
}

/// What was asked of an item, as the active bundle's catalog has it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ItemDetails {
    /// Its title.
    pub title: Option<String>,
    /// Its categories.
    pub categories: Option<Vec<String>>,
    /// Its picture, if it has one.
    pub image: Option<String>,
    /// Those of its attributes that were asked for, and that it has.
    pub attributes: Attributes,
}

impl ItemDetails {
    /// What `fields` name of an item.
    pub fn of(item: &Item, fields: &[String]) -> Self {
        let asked = |name: &str| fields.iter().any(|field| field == name);
        let all = asked("attributes");
        let attributes = item.attributes.iter().filter(|(name, _)| all || asked(name));
        Self {
            title: asked("title").then(|| item.title.clone()),
            categories: asked("categories").then(|| item.categories.clone()),
            image: item.image.clone().filter(|_| asked("image")),
            attributes: attributes.cloned().collect(),
        }
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let texts = self.title.iter().chain(&self.image).chain(self.categories.iter().flatten());
        let pairs = self.attributes.iter().map(|(name, value)| name.len() + value.len() + 8);
        texts.map(|text| text.len() + 8).sum::<usize>() + pairs.sum::<usize>()
    }
}

/// One item of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// Which.
    pub item: ItemId,
    /// From 0 to 1, relative to the other candidates of this answer, and never more than that of the item before it: it orders,
    /// and is no probability.
    pub score: f32,
    /// Why.
    pub reason: Reason,
}

/// The items for a slot, best first, and how they came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Name of this answer, for impressions and clicks to refer to.
    pub id: AnswerId,
    /// At most as many as asked for.
    pub items: Vec<Ranked>,
    /// Which stage served.
    pub served_by: ServedBy,
    /// The retrieval model that was used.
    pub retrieval: Option<ModelVersion>,
    /// The ranker that was used.
    pub ranker: Option<ModelVersion>,
    /// The active bundle. 0: none yet.
    pub revision: Revision,
    /// Log index the node had applied.
    pub applied: u64,
    /// False: the node could not reach the request's session token in time, or its view was too old to be used.
    pub fresh: bool,
    /// How old the view may be: what the PoP acknowledged longer ago is in it. None: the node cannot say, because no leader
    /// has answered it since it started.
    pub age_ms: Option<u64>,
}

/// A batch of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// From 1 to [`TRACK_EVENTS_MAX`], in the order they happened.
    pub events: Vec<Event>,
}

impl Track {
    /// Checks every event; the first that is wrong refuses the batch.
    pub fn check(&self, now_ms: u64) -> Result<(), ErrorReply> {
        if self.events.is_empty() || self.events.len() > TRACK_EVENTS_MAX {
            let message = format!("a batch has 1 to {TRACK_EVENTS_MAX} events, not {}", self.events.len());
            return Err(ErrorReply::new(Code::TooLarge, message));
        }
        self.events.iter().try_for_each(|event| event.check(now_ms))
    }
}

/// The events are durable on a majority of the PoP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tracked {
    /// Brings later reads up to this write.
    pub token: SessionToken,
    /// Events counted now.
    pub accepted: u32,
    /// Events that had been counted before.
    pub duplicates: u32,
}
