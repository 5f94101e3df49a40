//! Decides what the tail does next: no async, no clock, no randomness.
//!
//! The cloud's position is the truth about what it holds. A new leader asks for it first, so it goes on where the old one
//! stopped, and what the old one sent but did not live to see acknowledged is not sent twice.

use proto::Offset;

/// What the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outbox {
    /// Highest offset that the state machine knows to be acknowledged; events above it are still there.
    pub acknowledged: Offset,
    /// Highest offset given out.
    pub last: Offset,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask the cloud where this PoP stands.
    AskPosition,
    /// Send the events after this offset.
    Send {
        /// The last offset that the cloud holds.
        after: Offset,
    },
    /// Nothing to send: wait for the next commit.
    Wait,
    /// The two sides contradict each other. Sending would lose events or be refused: a person must act.
    Diverged(Divergence),
}

/// How cloud and PoP contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Divergence {
    /// The cloud lost events that it had acknowledged; the PoP has forgotten them.
    #[error(
        "the cloud holds events up to {cloud}, but had acknowledged {acknowledged}: it lost data; restore a newer backup, or \
         give up what is between (`rockpool cloud accept-loss`)"
    )]
    CloudLost {
        /// What the cloud says it holds.
        cloud: Offset,
        /// What it had acknowledged.
        acknowledged: Offset,
    },
    /// The cloud holds more than this PoP ever gave out: the PoP lost its data, or another PoP has its name.
    #[error(
        "the cloud holds events up to {cloud}, but this PoP gave out {last}: the PoP lost its data or its name is \
         used twice; give the PoP a new id"
    )]
    PopLost {
        /// What the cloud says it holds.
        cloud: Offset,
        /// The last offset that the PoP gave out.
        last: Offset,
    },
}

/// The tail's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batcher {
    /// The last offset that the cloud is known to hold.
    cloud: Option<Offset>,
    /// The cloud has taken a batch since it was last asked: it holds this PoP's events, and not those of one that lost its
    /// data or has the same name.
    verified: bool,
    /// The last offset that was written back through Raft by us.
    written_back: Offset,
}

impl Batcher {
    /// What to do, given what the store holds.
    pub fn next(&self, outbox: Outbox) -> Step {
        let Some(cloud) = self.cloud else { return Step::AskPosition };
        if cloud < outbox.acknowledged {
            return Step::Diverged(Divergence::CloudLost { cloud, acknowledged: outbox.acknowledged });
        }
        if cloud > outbox.last {
            return Step::Diverged(Divergence::PopLost { cloud, last: outbox.last });
        }
        if !self.verified && cloud > outbox.acknowledged {
            // The PoP's own state does not say that the cloud holds so much. The last of it goes again: the cloud refuses it if
            // it holds another event there.
            return Step::Send { after: Offset(cloud.0 - 1) };
        }
        if cloud < outbox.last { Step::Send { after: cloud } } else { Step::Wait }
    }

    /// The cloud said, asked for its position, what it holds.
    pub fn stands_at(&mut self, upto: Offset) {
        self.cloud = Some(upto);
    }

    /// The cloud took a batch, and said what it holds.
    pub fn acknowledged(&mut self, upto: Offset) {
        self.cloud = Some(upto);
        self.verified = true;
    }

    /// Something failed: what the cloud holds is not known any more.
    pub fn forget(&mut self) {
        self.cloud = None;
        self.verified = false;
    }

    /// The offset to write back through Raft, if the state machine does not know it yet.
    pub fn write_back(&self, outbox: Outbox) -> Option<Offset> {
        self.cloud
            .filter(|_| self.verified)
            .filter(|cloud| *cloud > outbox.acknowledged.max(self.written_back) && *cloud <= outbox.last)
    }

    /// It was written back.
    pub fn wrote_back(&mut self, upto: Offset) {
        self.written_back = self.written_back.max(upto);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outbox(acknowledged: u64, last: u64) -> Outbox {
        Outbox { acknowledged: Offset(acknowledged), last: Offset(last) }
    }

    #[test]
    fn asks_first_then_sends_then_waits() {
        let mut batcher = Batcher::default();
        assert_eq!(batcher.next(outbox(0, 5)), Step::AskPosition);
        batcher.stands_at(Offset(1));
        assert_eq!(batcher.next(outbox(0, 5)), Step::Send { after: Offset(0) }, "what it says is checked");
        batcher.acknowledged(Offset(2));
        assert_eq!(batcher.next(outbox(0, 5)), Step::Send { after: Offset(2) });
        assert_eq!(batcher.write_back(outbox(0, 5)), Some(Offset(2)));
        batcher.wrote_back(Offset(2));
        assert_eq!(batcher.write_back(outbox(0, 5)), None);
        batcher.acknowledged(Offset(5));
        assert_eq!(batcher.next(outbox(2, 5)), Step::Wait);
        batcher.forget();
        assert_eq!(batcher.next(outbox(5, 5)), Step::AskPosition);
    }

    /// A PoP that lost its data, and has given out as many offsets since as the cloud holds of the one before.
    #[test]
    fn a_position_is_not_believed_before_the_cloud_has_taken_the_event_there() {
        let mut batcher = Batcher::default();
        batcher.stands_at(Offset(100));
        assert!(matches!(batcher.next(outbox(0, 3)), Step::Diverged(Divergence::PopLost { .. })));
        for last in [100, 120] {
            assert_eq!(batcher.next(outbox(0, last)), Step::Send { after: Offset(99) });
            assert_eq!(
                batcher.write_back(outbox(0, last)),
                None,
                "or events that were never sent are forgotten"
            );
        }
        // The PoP's own state says that the cloud holds so much.
        assert_eq!(batcher.next(outbox(100, 120)), Step::Send { after: Offset(100) });
        assert_eq!(batcher.next(outbox(100, 100)), Step::Wait);
    }

    #[test]
    fn never_sends_into_a_contradiction() {
        let mut batcher = Batcher::default();
        batcher.acknowledged(Offset(3));
        assert!(matches!(batcher.next(outbox(4, 9)), Step::Diverged(Divergence::CloudLost { .. })));
        assert!(matches!(batcher.next(outbox(0, 2)), Step::Diverged(Divergence::PopLost { .. })));
        assert_eq!(batcher.write_back(outbox(0, 2)), None);
    }

    proptest! {
        /// A cloud that takes any prefix of a batch, replies that get lost, leaders that change: every event arrives
        /// once and in order.
        #[test]
        fn every_event_arrives_once(steps in prop::collection::vec((0_u8..5, 1_u64..20), 1..200)) {
            let (mut batcher, mut cloud, mut local) = (Batcher::default(), Vec::<u64>::new(), outbox(0, 0));
            for (what, count) in steps {
                match what {
                    0 => local.last.0 += count,
                    1 => batcher = Batcher::default(),
                    2 => if let Some(upto) = batcher.write_back(local) {
                        local.acknowledged = upto;
                        batcher.wrote_back(upto);
                    },
                    lost => match batcher.next(local) {
                        Step::AskPosition => batcher.stands_at(Offset(cloud.len() as u64)),
                        Step::Send { after } => {
                            let held = cloud.len() as u64;
                            prop_assert!(after.0 == held || after.0 + 1 == held);
                            let batch = (after.0 + 1..=local.last.0).take(count as usize);
                            cloud.extend(batch.filter(|offset| *offset > held));
                            if lost == 4 { batcher.forget() } else { batcher.acknowledged(Offset(cloud.len() as u64)) }
                        }
                        Step::Wait => prop_assert_eq!(cloud.len() as u64, local.last.0),
                        Step::Diverged(d) => prop_assert!(false, "{}", d),
                    },
                }
                prop_assert!(local.acknowledged.0 <= cloud.len() as u64);
            }
            prop_assert!(cloud.iter().copied().eq(1..=cloud.len() as u64));
        }
    }
}
