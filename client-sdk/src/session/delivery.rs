//! How the queue is emptied: how many events the next batch holds, and what a node's answer means for it.
//!
//! One batch is in flight at a time, so events arrive in order. A batch that a node will never take is cut in
//! halves until one event is left; that event alone is put aside, so it cannot block those behind it. A refusal
//! that is about the client and not about the event (its key) puts nothing aside: the events wait.

use proto::limits::TRACK_EVENTS_MAX;
use proto::{Code, ErrorReply, Retry};

use super::backoff_ms;

/// Limits of [`Delivery`].
#[derive(Debug, Clone)]
pub(crate) struct DeliveryRules {
    /// First pause after a failure.
    pub(crate) backoff_base_ms: u64,
    /// Longest pause.
    pub(crate) backoff_max_ms: u64,
}

/// What to do after an answer, or without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send (the same events, perhaps fewer) again after this pause.
    Again {
        /// Pause in milliseconds.
        after_ms: u64,
        /// Whether this node is to blame, so that another is asked next.
        elsewhere: bool,
    },
    /// The one event of this batch will never be taken: put it aside and go on.
    PutAside,
}

/// The state of emptying.
#[derive(Debug)]
pub(crate) struct Delivery {
    rules: DeliveryRules,
    limit: usize,
    failures: u32,
}

impl Delivery {
    /// Nothing failed yet.
    pub(crate) fn new(rules: DeliveryRules) -> Self {
        Self { rules, limit: TRACK_EVENTS_MAX, failures: 0 }
    }

    /// Most events in the next batch.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The batch was acknowledged, or its event was put aside. After a refusal the batches grow again by doubling.
    pub(crate) fn moved_on(&mut self) {
        self.failures = 0;
        self.limit = (self.limit * 2).min(TRACK_EVENTS_MAX);
    }

    /// No answer came: the outcome is unknown, so the same events go again, with the same ids.
    pub(crate) fn lost(&mut self, random: f64) -> Verdict {
        Verdict::Again { after_ms: self.pause_ms(random), elsewhere: true }
    }

    /// The node refused a batch of `len` events.
    pub(crate) fn refused(&mut self, len: usize, reply: &ErrorReply, random: f64) -> Verdict {
        match (reply.code.retry(), reply.code) {
            (Retry::Elsewhere, _) => self.lost(random),
            (Retry::Later, _) => {
                let pause_ms = self.pause_ms(random);
                let after_ms =
                    reply.retry_after_ms.map_or(pause_ms, |ms| self.bounded(u64::from(ms), pause_ms));
                Verdict::Again { after_ms, elsewhere: false }
            }
            (Retry::Never, Code::Unauthenticated | Code::Forbidden) => {
                self.failures = self.failures.saturating_add(1);
                Verdict::Again { after_ms: self.rules.backoff_max_ms, elsewhere: false }
            }
            (Retry::Never, _) if len <= 1 => Verdict::PutAside,
            (Retry::Never, _) => {
                self.limit = len.div_ceil(2).clamp(1, TRACK_EVENTS_MAX);
                Verdict::Again { after_ms: 0, elsewhere: false }
            }
        }
    }

    fn pause_ms(&mut self, random: f64) -> u64 {
        self.failures = self.failures.saturating_add(1);
        backoff_ms(self.failures, self.rules.backoff_base_ms, self.rules.backoff_max_ms, random)
    }

    /// A node may ask for a longer pause than ours, but not for an endless one; never for a shorter one than it said.
    fn bounded(&self, asked_ms: u64, pause_ms: u64) -> u64 {
        asked_ms.max(pause_ms.min(self.rules.backoff_max_ms)).min(self.rules.backoff_max_ms * 10)
    }
}

/// What still fits into a batch: a number of events, together so many encoded bytes; the first event always fits.
#[derive(Debug)]
pub(crate) struct BatchRoom {
    count_left: usize,
    bytes_left: usize,
    empty: bool,
}

impl BatchRoom {
    /// An empty batch.
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> Self {
        Self { count_left: count_max.max(1), bytes_left: bytes_max, empty: true }
    }

    /// Whether one more event of this size belongs into the batch; if so, it is counted.
    pub(crate) fn admit(&mut self, bytes: usize) -> bool {
        let fits = self.count_left > 0 && (self.empty || bytes <= self.bytes_left);
        if fits {
            self.count_left -= 1;
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
            self.empty = false;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery() -> Delivery {
        Delivery::new(DeliveryRules { backoff_base_ms: 100, backoff_max_ms: 5_000 })
    }

    fn reply(code: Code) -> ErrorReply {
        ErrorReply::new(code, "test")
    }

    /// Plays a queue against a node that refuses some events, as the driver does.
    fn play(len: usize, poison: &[usize]) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut delivery, mut head, mut sent) = (delivery(), 0, 0);
        let (mut taken, mut aside) = (Vec::new(), Vec::new());
        while head < len {
            let batch: Vec<usize> = (head..len).take(delivery.limit()).collect();
            sent += 1;
            if !batch.iter().any(|event| poison.contains(event)) {
                head += batch.len();
                taken.extend(batch);
                delivery.moved_on();
                continue;
            }
            match delivery.refused(batch.len(), &reply(Code::Invalid), 0.5) {
                Verdict::PutAside => {
                    aside.push(head);
                    head += 1;
                    delivery.moved_on();
                }
                Verdict::Again { after_ms, .. } => assert_eq!(after_ms, 0),
            }
        }
        (taken, aside, sent)
    }

    #[test]
    fn exactly_the_poison_is_put_aside_and_the_rest_arrives_in_order() {
        for poison in [vec![], vec![0], vec![999], vec![3, 4, 5, 500], (0..1_000).collect::<Vec<_>>()] {
            let (taken, aside, sent) = play(1_000, &poison);
            assert_eq!(aside, poison);
            let good: Vec<usize> = (0..1_000).filter(|event| !poison.contains(event)).collect();
            assert_eq!(taken, good);
            let bound = 3 + poison.len() * 20;
            assert!(sent <= bound, "{sent} batches for {} poison events, at most {bound}", poison.len());
        }
    }

    #[test]
    fn a_refused_key_puts_nothing_aside() {
        let mut delivery = delivery();
        for code in [Code::Unauthenticated, Code::Forbidden] {
            let verdict = delivery.refused(1, &reply(code), 0.5);
            assert_eq!(verdict, Verdict::Again { after_ms: 5_000, elsewhere: false });
        }
    }

    #[test]
    fn every_other_final_refusal_of_a_single_event_puts_it_aside() {
        for code in Code::ALL.iter().filter(|code| code.retry() == Retry::Never) {
            let expected = !matches!(code, Code::Unauthenticated | Code::Forbidden);
            let verdict = delivery().refused(1, &reply(*code), 0.5);
            assert_eq!(verdict == Verdict::PutAside, expected, "{code}");
        }
    }

    #[test]
    fn retry_after_is_honoured_within_a_bound() {
        let asked = |ms| delivery().refused(9, &reply(Code::Overloaded).retry_after_ms(ms), 0.0);
        assert_eq!(asked(700), Verdict::Again { after_ms: 700, elsewhere: false });
        assert_eq!(asked(u32::MAX), Verdict::Again { after_ms: 50_000, elsewhere: false });
    }

    #[test]
    fn without_an_answer_the_pause_grows_and_another_node_is_asked() {
        let mut delivery = delivery();
        let pauses: Vec<Verdict> = (0..3).map(|_| delivery.lost(1.0)).collect();
        let expected = [100, 200, 400].map(|after_ms| Verdict::Again { after_ms, elsewhere: true });
        assert_eq!(pauses, expected);
        delivery.moved_on();
        assert_eq!(delivery.lost(1.0), Verdict::Again { after_ms: 100, elsewhere: true });
    }

    #[test]
    fn a_batch_is_bounded_in_events_and_bytes_and_never_empty() {
        let admitted = |count_max, bytes_max, sizes: &[usize]| {
            let mut room = BatchRoom::new(count_max, bytes_max);
            sizes.iter().take_while(|size| room.admit(**size)).count()
        };
        assert_eq!(admitted(2, 1_000, &[10, 10, 10]), 2);
        assert_eq!(admitted(9, 25, &[10, 10, 10]), 2);
        assert_eq!(admitted(9, 25, &[999, 1]), 1);
        assert_eq!(admitted(0, 0, &[usize::MAX, usize::MAX]), 1);
    }
}
