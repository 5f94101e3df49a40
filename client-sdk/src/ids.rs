//! Event ids: UUIDv7 (RFC 9562, 5.7, method 1) from a clock and a counter, so that the ids of one client sort in
//! the order the events were tracked, also when the clock stands still or steps back, and after a restart.

use proto::limits::EVENT_FUTURE_MS_MAX;
use proto::{EventId, TraceId};
use uuid::{ContextV7, Timestamp, Uuid};

/// Makes the event ids of one client.
#[derive(Debug)]
pub(crate) struct EventIds {
    context: ContextV7,
    floor_ms: u64,
}

impl EventIds {
    /// Ids above `last`, the newest that an earlier run of this client made.
    pub(crate) fn after(last: Option<EventId>) -> Self {
        let floor_ms = last.and_then(made_at_ms).map_or(0, |ms| ms + 1);
        Self { context: ContextV7::new(), floor_ms }
    }

    /// The next id. Where the clock stood far in the future when the last run ended, the order across the restart is
    /// given up rather than the truth of all later ids.
    pub(crate) fn next(&mut self, now_ms: u64) -> EventId {
        let floored = self.floor_ms <= now_ms.saturating_add(EVENT_FUTURE_MS_MAX);
        let at_ms = if floored { now_ms.max(self.floor_ms) } else { now_ms };
        let nanos = u32::try_from(at_ms % 1_000).unwrap_or(0) * 1_000_000;
        EventId(Uuid::new_v7(Timestamp::from_unix(&self.context, at_ms / 1_000, nanos)))
    }
}

/// When an id was made, by its maker's clock.
fn made_at_ms(id: EventId) -> Option<u64> {
    let (seconds, nanos) = id.0.get_timestamp()?.to_unix();
    Some(seconds.saturating_mul(1_000).saturating_add(u64::from(nanos) / 1_000_000))
}

/// A new trace id (W3C Trace Context, 3.2.2.3): random, never zero.
pub(crate) fn new_trace() -> TraceId {
    TraceId(fastrand::u128(1..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_whatever_the_clock_does_and_over_a_restart() {
        let mut all = Vec::new();
        let mut last = None;
        for run in 0..3_u64 {
            let mut ids = EventIds::after(last);
            for clock in [5_000, 5_000, 5_000, 4_000, 5_001, 3_000, 9_000 - run * 1_000] {
                all.push(ids.next(1_700_000_000_000 + clock));
            }
            last = all.last().copied();
        }
        assert!(all.is_sorted() && all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
        assert!(all.iter().all(|id| id.0.get_version_num() == 7));
    }

    #[test]
    fn an_id_says_when_it_was_made() {
        let id = EventIds::after(None).next(1_700_000_000_123);
        assert_eq!(made_at_ms(id), Some(1_700_000_000_123));
    }

    #[test]
    fn a_last_run_with_a_clock_far_in_the_future_does_not_spoil_the_ids_of_this_one() {
        let future = EventIds::after(None).next(1_900_000_000_000);
        let id = EventIds::after(Some(future)).next(1_700_000_000_000);
        assert_eq!(made_at_ms(id), Some(1_700_000_000_000));
    }
}
