//! One recommendation, top to bottom. Whatever is away (a model, the leader, the cloud), there is an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_serving::{Decision, Prepared, Stage};
use inference::Bundle;
use proto::client::{
    Answer, Degraded, DetailedAnswer, DetailedRecommend, ItemDetails, Ranked, Recommend, ServedBy,
};
use proto::command::Command;
use proto::limits::DETAILS_BYTES_MAX;
use proto::profile::{Profile, View};
use proto::{AnswerId, Code, ErrorReply, ItemId, ModelVersion, Revision, VisitorId};

use super::Gateway;
use crate::clock;
use crate::config::ServingConfig;
use crate::metrics::Metrics;
use crate::workers::{Job, Times};

/// Answers a slot.
pub async fn recommend(
    gateway: &Gateway,
    asked: DetailedRecommend,
    started: Instant,
    deadline: Instant,
) -> Result<DetailedAnswer, ErrorReply> {
    // Admit: well formed, and within what the node can do at once.
    asked.check()?;
    let _admitted = gateway.admit()?;
    let DetailedRecommend { recommend: ask, fields } = asked;
    let times = Deadlines::of(&gateway.serving, started, deadline);

    // View: wait, within a bound, for what the client must have seen; then read what this node knows, and how old that may be.
    let reached = catch_up(gateway, &ask, times.token).await;
    let mut seen = see(gateway, &ask.visitor, reached);

    // Retrieve, rank, re-rank: on a model thread, or without a model where there is no time or no room for one.
    let now_ms = clock::now_ms();
    let Some(serving) = gateway.bundle.load() else {
        seen.degraded.push(Degraded::NoBundle);
        return answer(gateway, None, seen, Decision::default(), &fields);
    };
    let begun = Instant::now();
    let times = times.queued(begun);
    let (prepared, view) = (serving.prepared.clone(), seen.view.clone());
    let job = Arc::new(Job { prepared, view, ask, now_ms, times: times.models });
    let Decided { decision, degraded } = decide(gateway, &job, times.answer).await;
    let failed = degraded == Some(Degraded::ModelFailed);
    serving.tally.count(decision.served_by, failed, begun.elapsed());
    seen.degraded.extend(degraded);

    // Record what is offered: it rides the next group commit and never delays the answer.
    let items: Vec<ItemId> = decision.items.iter().map(|ranked| ranked.item.clone()).collect();
    let served = Command::Served { visitor: job.ask.visitor.clone(), items, at_ms: now_ms };
    if !decision.items.is_empty() && !gateway.store.try_note(served) {
        gateway.metrics.notes_dropped.inc();
    }

    // Answer.
    answer(gateway, Some(&job.prepared), seen, decision, &fields)
}

/// When each stage must have begun.
struct Deadlines {
    token: Instant,
    models: Times,
    answer: Instant,
    queue_wait_max: Duration,
}

impl Deadlines {
    fn of(serving: &ServingConfig, started: Instant, deadline: Instant) -> Self {
        let whole = deadline.saturating_duration_since(started);
        let at = |share: f64| started + whole.mul_f64(share);
        Self {
            token: at(serving.token_share),
            models: Times { retrieve: at(serving.retrieve_share), rank: at(serving.rank_share) },
            // A tenth of the deadline is kept for the fallback and the way back.
            answer: at(0.9),
            queue_wait_max: Duration::from_millis(serving.queue_wait_max_ms),
        }
    }

    /// A queue for the model threads that lasts serves nobody (Nichols and Jacobson, "Controlling queue delay", 2012): whoever
    /// has waited long enough gets what needs no model.
    fn queued(self, now: Instant) -> Self {
        let Times { retrieve, rank } = self.models;
        Self { models: Times { retrieve: retrieve.min(now + self.queue_wait_max), rank }, ..self }
    }
}

/// True: the view holds what the client's session token stands for. A token of another PoP stands for nothing here.
async fn catch_up(gateway: &Gateway, ask: &Recommend, until: Instant) -> bool {
    let Some(token) = ask.token.as_ref().filter(|token| token.pop == gateway.node.pop) else { return true };
    let within: Duration = until.saturating_duration_since(Instant::now());
    let fresh = gateway.store.wait_applied(token.index, within).await;
    if !fresh {
        gateway.metrics.stale.inc();
    }
    fresh
}

/// What the node knows of a visitor, and why that is less than it should be.
struct Known {
    view: View,
    age: Option<Duration>,
    degraded: Vec<Degraded>,
}

/// Reads what this node knows of a visitor: nothing, where that may be too old. A consent may have been withdrawn since.
fn see(gateway: &Gateway, visitor: &VisitorId, reached: bool) -> Known {
    let age = gateway.store.age();
    let view = gateway.store.view(visitor);
    let mut degraded = Vec::new();
    if !reached {
        degraded.push(Degraded::Behind);
    }
    if usable(age, &gateway.serving) {
        return Known { view, age, degraded };
    }
    gateway.metrics.stale.inc();
    degraded.push(Degraded::Stale);
    Known { view: View { profile: Profile::default(), ..view }, age, degraded }
}

fn usable(age: Option<Duration>, serving: &ServingConfig) -> bool {
    age.is_some_and(|age| age <= Duration::from_millis(serving.view_age_max_ms))
}

/// What is offered, and why no more than that.
struct Decided {
    decision: Decision,
    degraded: Option<Degraded>,
}

async fn decide(gateway: &Gateway, job: &Arc<Job>, until: Instant) -> Decided {
    // With as many under way as the processors can bear, what needs no model is served at once.
    let place = gateway.begin_deciding();
    let decided = match place.as_ref().and_then(|_| gateway.workers.submit(job.clone())) {
        Some(decision) => match tokio::time::timeout_at(until.into(), decision).await {
            Ok(Ok(decision)) => Ok(decision),
            // A thread that gives no answer at all has caught a panic.
            Ok(Err(_)) => Err(Degraded::ModelFailed),
            Err(_) => Err(Degraded::ModelTimeout),
        },
        None => Err(Degraded::Shed),
    };
    let (decision, degraded) = match decided {
        Ok(decision) => {
            let degraded = why(&decision, job.prepared.bundle().retrieval.is_some());
            (decision, degraded)
        }
        Err(reason) => (gateway.workers.fall_back(job), Some(reason)),
    };
    if let Some((stage, error)) = &decision.failed {
        let stage = match stage {
            Stage::Retrieve => "retrieve",
            Stage::Rank => "rank",
        };
        gateway.metrics.stage_failures.with_label_values(&[stage]).inc();
        tracing::warn!(stage, error = error as &dyn std::error::Error, "a model failed; the fallback served");
    }
    Decided { decision, degraded }
}

/// Why the models had less of a part in a decision than they could have had.
fn why(decision: &Decision, retrieves: bool) -> Option<Degraded> {
    if decision.failed.is_some() {
        Some(Degraded::ModelFailed)
    } else if decision.late.is_some() {
        Some(Degraded::ModelTimeout)
    } else {
        (!retrieves).then_some(Degraded::NoModel)
    }
}

fn answer(
    gateway: &Gateway,
    prepared: Option<&Arc<Prepared>>,
    known: Known,
    decision: Decision,
    fields: &[String],
) -> Result<DetailedAnswer, ErrorReply> {
    let served_by = decision.served_by.unwrap_or(ServedBy::Nothing);
    gateway.metrics.served_by.with_label_values(&[Metrics::served_by_label(served_by)]).inc();
    let bundle = prepared.map(|prepared| prepared.bundle());
    let used = |stage: ServedBy, version: Option<ModelVersion>| version.filter(|_| served_by <= stage);
    let details = bundle.map_or(Ok(Vec::new()), |bundle| details(bundle, &decision.items, fields))?;
    let answer = Answer {
        id: AnswerId(uuid::Uuid::now_v7()),
        items: decision.items,
        served_by,
        retrieval: used(
            ServedBy::Retrieved,
            bundle.and_then(|b| b.retrieval.as_ref()).map(|s| s.model.version().clone()),
        ),
        ranker: used(
            ServedBy::Ranked,
            bundle.and_then(|b| b.ranker.as_ref()).map(|s| s.model.version().clone()),
        ),
        revision: bundle.map_or(Revision(0), |b| b.manifest.revision),
        applied: known.view.applied,
        fresh: !known.degraded.iter().any(|why| matches!(why, Degraded::Behind | Degraded::Stale)),
        age_ms: known.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
    };
    Ok(DetailedAnswer { answer, degraded: known.degraded, details })
}

/// What was asked of the items, by the catalog that they are of.
fn details(bundle: &Bundle, items: &[Ranked], fields: &[String]) -> Result<Vec<ItemDetails>, ErrorReply> {
    if fields.is_empty() {
        return Ok(Vec::new());
    }
    let item = |ranked: &Ranked| bundle.catalog.item(bundle.catalog.place(ranked.item.as_str())?);
    let details: Vec<_> = items
        .iter()
        .map(|ranked| item(ranked).map(|item| ItemDetails::of(item, fields)).unwrap_or_default())
        .collect();
    let bytes: usize = details.iter().map(ItemDetails::bytes).sum();
    if bytes > DETAILS_BYTES_MAX {
        let message = format!(
            "the fields of {} items have {bytes} bytes, at most {DETAILS_BYTES_MAX} are sent: ask for fewer of either",
            items.len()
        );
        return Err(ErrorReply::new(Code::TooLarge, message));
    }
    Ok(details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_model_is_waited_for_within_the_deadlines_share_and_never_long() {
        let serving = Config::load(None).unwrap().serving;
        let (started, longest) = (Instant::now(), Duration::from_millis(serving.queue_wait_max_ms));
        let at = |deadline: Duration, queued: Duration| {
            Deadlines::of(&serving, started, started + deadline).queued(started + queued).models
        };
        let second = Duration::from_secs(1);
        assert_eq!(at(second, Duration::ZERO).retrieve, started + longest);
        // Waiting for a session token is no waiting for a thread.
        assert_eq!(at(second, second / 4).retrieve, started + second / 4 + longest);
        assert_eq!(at(longest, Duration::ZERO).retrieve, started + longest.mul_f64(serving.retrieve_share));
        assert_eq!(at(second, Duration::ZERO).rank, started + second.mul_f64(serving.rank_share));
    }

    #[test]
    fn an_answer_says_why_the_models_had_less_of_a_part_in_it() {
        let error = || inference::ModelError::Input("not a number".into());
        let failed = Decision { failed: Some((Stage::Rank, error())), ..Decision::default() };
        let late = Decision { late: Some(Stage::Retrieve), ..Decision::default() };
        let both = Decision { failed: Some((Stage::Rank, error())), late: late.late, ..Decision::default() };
        assert_eq!(why(&Decision::default(), true), None);
        assert_eq!(why(&Decision::default(), false), Some(Degraded::NoModel));
        assert_eq!(why(&late, true), Some(Degraded::ModelTimeout));
        assert_eq!([why(&failed, true), why(&both, true)], [Some(Degraded::ModelFailed); 2]);
    }

    #[test]
    fn a_view_that_is_too_old_or_of_unknown_age_is_not_used() {
        let serving = Config::load(None).unwrap().serving;
        let longest = Duration::from_millis(serving.view_age_max_ms);
        assert!(usable(Some(longest), &serving));
        assert!(!usable(Some(longest + Duration::from_millis(1)), &serving));
        assert!(!usable(None, &serving));
    }
}
