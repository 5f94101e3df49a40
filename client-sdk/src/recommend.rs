//! Answers a slot: acts on what [`crate::session::Attempts`] decides.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use proto::TraceId;
use proto::client::{Answer, Ask, ClientReply, DetailedAnswer, DetailedRecommend};
use tracing::Instrument as _;

use crate::client::Inner;
use crate::error::SdkError;
use crate::ids::new_trace;
use crate::pool::AskError;
use crate::request::SlotRequest;
use crate::session::{Address, Attempts, AttemptsRules, GiveUp, Step};
use crate::stats::add;

/// Most questions for one request.
const ATTEMPTS_MAX: u32 = 3;
/// Silence longer than this has another node asked, however long the deadline.
const SILENCE_MAX_MS: u64 = 1_000;
/// Silence shorter than this never counts against a node.
const SILENCE_MIN_MS: u64 = 20;
/// First pause before the same node is asked again by the same request.
const PAUSE_BASE_MS: u64 = 10;

/// What nodes are asked.
#[derive(Debug)]
struct Question {
    asked: DetailedRecommend,
    detailed: bool,
}

impl Inner {
    /// Asks one node after another, as decided, until one answers or the deadline passes.
    /// `detailed`: with what is known of the items.
    pub(crate) async fn recommend(
        &self,
        request: SlotRequest,
        detailed: bool,
    ) -> Result<DetailedAnswer, SdkError> {
        let SlotRequest { recommend, fields, deadline } = request;
        let asked = DetailedRecommend { recommend, fields };
        asked.check().map_err(|reply| SdkError::Refused { node: None, reply })?;
        let trace = new_trace();
        let span = tracing::debug_span!("recommend", trace_id = %trace, slot = %asked.recommend.slot);
        let question = Question { asked, detailed };
        let result = tokio::select! {
            // An answer that is there is given, though the client closes.
            biased;
            result = self.attempt(&question, deadline, trace).instrument(span) => result,
            () = self.closing.cancelled() => Err(SdkError::Closed),
        };
        let counter: &AtomicU64 =
            if result.is_ok() { &self.counters.answers } else { &self.counters.failures };
        add(counter, 1);
        result
    }

    async fn attempt(
        &self,
        question: &Question,
        deadline: Option<Duration>,
        trace: TraceId,
    ) -> Result<DetailedAnswer, SdkError> {
        let default_ms = self.config.timing.deadline_ms;
        let span_ms = deadline.map_or(default_ms, millis).max(1);
        let deadline_ms = self.now_ms().saturating_add(span_ms);
        let rules = AttemptsRules {
            attempts_max: ATTEMPTS_MAX,
            silence_max_ms: SILENCE_MAX_MS,
            silence_min_ms: SILENCE_MIN_MS,
            backoff_base_ms: PAUSE_BASE_MS,
        };
        let mut attempts = Attempts::new(rules, deadline_ms);
        let mut flights = FuturesUnordered::new();
        let mut last = None;
        loop {
            let step = attempts.next(&mut self.session().nodes, self.now_ms(), fastrand::f64());
            for (address, asked_at_ms) in attempts.take_silent() {
                tracing::debug!(node = %address, "silent: another node is asked");
                self.pool.forget_silent(&address, asked_at_ms);
            }
            let until_ms = match step {
                Step::Ask(address) => {
                    flights.push(self.question(address, question, trace, deadline_ms));
                    continue;
                }
                Step::GiveUp(reason) => return Err(give_up(&reason, span_ms, attempts.made(), last)),
                Step::Wait(until_ms) => until_ms,
            };
            let (address, outcome) = tokio::select! {
                Some(landed) = flights.next() => landed,
                () = tokio::time::sleep_until(self.instant(until_ms)) => continue,
            };
            match outcome {
                Ok(answer) => {
                    self.answered(&address, &answer.answer, trace, attempts.made());
                    return Ok(answer);
                }
                Err(AskError { failure, error }) => {
                    tracing::debug!(node = %address, %error, "a node did not answer");
                    let nodes = &mut self.session().nodes;
                    let now_ms = self.now_ms();
                    if attempts.failed(&address, &failure, nodes, now_ms, fastrand::f64()).is_some() {
                        return Err(Arc::unwrap_or_clone(error));
                    }
                    last = Some(error);
                }
            }
        }
    }

    /// Asks one node, with the token that its PoP knows.
    async fn question(
        &self,
        address: Address,
        question: &Question,
        trace: TraceId,
        deadline_ms: u64,
    ) -> (Address, Result<DetailedAnswer, AskError>) {
        let outcome = async {
            let connection = self.connect(&address).await?;
            let mut asked = question.asked.clone();
            let recommend = &mut asked.recommend;
            let own = self.session().tokens.token(&recommend.visitor, &connection.session().pop);
            recommend.token = match (own, recommend.token.take()) {
                (Some(own), Some(given)) if given.pop == own.pop && given.index > own.index => Some(given),
                (own, given) => own.or(given),
            };
            let left = Duration::from_millis(deadline_ms.saturating_sub(self.now_ms()).max(1));
            let ask = if question.detailed {
                Ask::RecommendDetailed(asked)
            } else {
                Ask::Recommend(asked.recommend)
            };
            match connection.ask(trace, ask, left).await? {
                ClientReply::Answer(answer) => {
                    Ok(DetailedAnswer { answer, degraded: Vec::new(), details: Vec::new() })
                }
                ClientReply::Detailed(answer) => Ok(answer),
                _ => Err(connection.unexpected()),
            }
        };
        let outcome = outcome.await;
        (address, outcome)
    }

    fn answered(&self, address: &Address, answer: &Answer, trace: TraceId, asked: u32) {
        let mut session = self.session();
        session.nodes.succeeded(address);
        session.answers.add(answer.id, trace);
        drop(session);
        if asked > 1 {
            add(&self.counters.failovers, 1);
            self.measure_soon.notify_one();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn give_up(reason: &GiveUp, deadline_ms: u64, asked: u32, last: Option<Arc<SdkError>>) -> SdkError {
    match reason {
        GiveUp::Deadline => SdkError::Deadline { deadline_ms, asked, last },
        GiveUp::Exhausted => SdkError::Unavailable { asked, last },
    }
}
