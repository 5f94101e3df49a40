//! What an app asks for.

use std::time::Duration;

use proto::client::Recommend;
use proto::{ItemId, SessionToken, SlotId, VisitorId};

/// Items a request asks for that says no number.
const COUNT: u16 = 10;

/// Asks for items for a slot.
#[derive(Debug, Clone)]
pub struct SlotRequest {
    pub(crate) recommend: Recommend,
    pub(crate) fields: Vec<String>,
    pub(crate) deadline: Option<Duration>,
}

impl SlotRequest {
    /// Asks for 10 items.
    pub fn new(visitor: VisitorId, slot: SlotId) -> Self {
        let (token, context, exclude) = (None, Vec::new(), Vec::new());
        let recommend = Recommend { visitor, slot, count: COUNT, token, context, exclude };
        Self { recommend, fields: Vec::new(), deadline: None }
    }

    /// How many items, 1 to [`proto::limits::RECOMMEND_COUNT_MAX`].
    #[must_use]
    pub fn count(mut self, count: u16) -> Self {
        self.recommend.count = count;
        self
    }

    /// Says something of the moment: device, page, a trait of a visitor without a profile …
    #[must_use]
    pub fn context(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.recommend.context.push((name.into(), value.into()));
        self
    }

    /// Items not wanted in this answer.
    #[must_use]
    pub fn exclude(mut self, items: impl IntoIterator<Item = ItemId>) -> Self {
        self.recommend.exclude.extend(items);
        self
    }

    /// What is wanted of each item beside its id, by [`crate::Client::recommend_detailed`]: `title`, `categories`, `image`,
    /// `attributes` (all of them), or an attribute's name; at most [`proto::limits::FIELDS_MAX`].
    #[must_use]
    pub fn fields(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.fields.extend(names.into_iter().map(Into::into));
        self
    }

    /// How long the answer may take, failover included; else [`crate::Timing::deadline_ms`].
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Brings a token that the client does not know of, for example of another process. It is used where it is
    /// newer than the client's own for the same PoP.
    #[must_use]
    pub fn token(mut self, token: SessionToken) -> Self {
        self.recommend.token = Some(token);
        self
    }
}
