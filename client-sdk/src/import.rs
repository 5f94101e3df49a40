//! Hands over what happened before: events with ids and times of their own, past the queue.

use std::sync::Arc;
use std::time::Duration;

use proto::client::{Ask, ClientReply, Track, Tracked};
use proto::limits::TRACK_EVENTS_MAX;
use proto::{Code, ErrorReply, Event, Retry};
use tokio::time::Instant;

use crate::client::Inner;
use crate::error::SdkError;
use crate::ids::new_trace;
use crate::pool::AskError;
use crate::session::{Address, Failure, backoff_ms};

impl Inner {
    /// Asks one node after another until one has taken the events, or the time is over. Events dedupe by id, so sending them again
    /// is safe.
    pub(crate) async fn import(&self, events: Vec<Event>, within: Duration) -> Result<Tracked, SdkError> {
        if events.is_empty() || events.len() > TRACK_EVENTS_MAX {
            let message = format!("1 to {TRACK_EVENTS_MAX} events at a time, not {}", events.len());
            return Err(SdkError::Refused { node: None, reply: ErrorReply::new(Code::TooLarge, message) });
        }
        let until = Instant::now() + within;
        let (mut failures, mut avoid) = (0_u32, None);
        loop {
            let address = self.delivery_node(avoid.take()).await;
            let AskError { failure, error } = match self.hand_over(&address, events.clone()).await {
                Ok(tracked) => {
                    self.session().nodes.succeeded(&address);
                    return Ok(tracked);
                }
                Err(asked) => asked,
            };
            failures += 1;
            let timing = &self.config.timing;
            let pause_ms =
                backoff_ms(failures, timing.backoff_base_ms, timing.backoff_max_ms, fastrand::f64());
            let pause_ms = match &failure {
                Failure::Refused(reply) if reply.code.retry() == Retry::Never => {
                    return Err(Arc::unwrap_or_clone(error));
                }
                Failure::Refused(reply) => pause_ms.max(reply.retry_after_ms.map_or(0, u64::from)),
                Failure::Unreachable | Failure::Silent | Failure::Ended => pause_ms,
            };
            let pause = Duration::from_millis(pause_ms);
            if Instant::now() + pause >= until || self.closing.is_cancelled() {
                return Err(Arc::unwrap_or_clone(error));
            }
            tracing::debug!(node = %address, %error, "the events were not taken, and are sent again");
            avoid = Some(address);
            tokio::time::sleep(pause).await;
        }
    }

    async fn hand_over(&self, address: &Address, events: Vec<Event>) -> Result<Tracked, AskError> {
        let connection = self.connect(address).await?;
        let timeout = Duration::from_millis(self.config.timing.delivery_timeout_ms);
        match connection.ask(new_trace(), Ask::Track(Track { events }), timeout).await? {
            ClientReply::Tracked(tracked) => Ok(tracked),
            _ => Err(connection.unexpected()),
        }
    }
}
