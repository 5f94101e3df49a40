//! Which request an answer came from, so that the events it causes carry that request's trace.

use std::collections::VecDeque;

use proto::{AnswerId, TraceId};

/// Answers remembered by one client: more than a screen of slots shows at once.
const ANSWERS_MAX: usize = 64;

/// The newest answers and their traces; older ones fall off.
#[derive(Debug, Default)]
pub(crate) struct Answers(VecDeque<(AnswerId, TraceId)>);

impl Answers {
    /// Remembers an answer.
    pub(crate) fn add(&mut self, answer: AnswerId, trace: TraceId) {
        if self.0.len() == ANSWERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((answer, trace));
    }

    /// The trace of the request that got this answer, if it is remembered.
    pub(crate) fn trace(&self, answer: AnswerId) -> Option<TraceId> {
        self.0.iter().rev().find(|(id, _)| *id == answer).map(|(_, trace)| *trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_newest_and_forgets_the_oldest() {
        let id = |n: u128| AnswerId(uuid::Uuid::from_u128(n));
        let mut answers = Answers::default();
        for n in 0..ANSWERS_MAX as u128 + 1 {
            answers.add(id(n), TraceId(n + 1_000));
        }
        assert_eq!(answers.trace(id(0)), None);
        assert_eq!(answers.trace(id(1)), Some(TraceId(1_001)));
        assert_eq!(answers.trace(id(ANSWERS_MAX as u128)), Some(TraceId(1_000 + ANSWERS_MAX as u128)));
        assert_eq!(answers.0.len(), ANSWERS_MAX);
    }
}
