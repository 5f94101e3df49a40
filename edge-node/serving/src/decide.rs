//! One decision, top to bottom: exclude → retrieve → rank → re-rank; where a stage fails or has no time, the fallback.

use inference::retrieval::top;
use inference::{ModelError, RankScratch};
use proto::client::{Ranked, Reason, Recommend, ServedBy};
use proto::profile::View;

use crate::diversity::{Mmr, Scored};
use crate::prepared::Prepared;

/// The stages that may be left out when time is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Model: history in, scored candidates out.
    Retrieve,
    /// Model: features in, probability of a like out.
    Rank,
}

/// Says whether a stage may still begin.
pub trait Budget {
    /// False: there is no time for it.
    fn allows(&self, stage: Stage) -> bool;
}

/// What to offer.
#[derive(Debug, Default)]
pub struct Decision {
    /// Best first, at most as many as asked for.
    pub items: Vec<Ranked>,
    /// Which stage served.
    pub served_by: Option<ServedBy>,
    /// What failed on the way, if something did: for metrics and the log, never for the visitor.
    pub failed: Option<(Stage, ModelError)>,
}

/// Memory that requests reuse, one a thread.
#[derive(Default)]
pub struct Scratch {
    excluded: Marks,
    met: Vec<Option<u32>>,
    history: Vec<u32>,
    scores: Vec<f32>,
    keys: Vec<u64>,
    top: Vec<(u32, f32)>,
    candidates: Vec<(u32, f32)>,
    places: Vec<u32>,
    rank: RankScratch,
    probabilities: Vec<f32>,
    scored: Vec<Scored>,
    mmr: Mmr,
}

/// Decides what `view`'s visitor is offered. `candidates` is how many retrieval hands to ranking.
pub fn decide(
    prepared: &Prepared,
    view: &View,
    ask: &Recommend,
    candidates: usize,
    now_ms: u64,
    budget: &dyn Budget,
    scratch: &mut Scratch,
) -> Decision {
    let mut decision = Decision::default();
    let count = usize::from(ask.count);
    // Exclude: blocked by a rule, consumed, seen often enough, not wanted in this answer.
    exclude(prepared, view, ask, scratch);
    // Retrieve: the model's best candidates for what the visitor did before.
    let retrieved = budget.allows(Stage::Retrieve)
        && retrieve(prepared, candidates.max(count), scratch)
            .unwrap_or_else(|error| decision.fail(Stage::Retrieve, error));
    if retrieved {
        // Rank: how likely each is to be liked, now.
        let ranked = budget.allows(Stage::Rank)
            && rank(prepared, view, ask, now_ms, scratch)
                .unwrap_or_else(|error| decision.fail(Stage::Rank, error));
        decision.served_by = Some(if ranked { ServedBy::Ranked } else { ServedBy::Retrieved });
        // Re-rank: relevant and not all alike.
        offer(prepared, count, Reason::Taste, scratch, &mut decision);
    }
    // Fall back, or fill up what is missing: popular in the visitor's segment, then popular.
    if let Some(popular) = prepared.segment(&view.profile.traits, &ask.context) {
        fill(prepared, popular, count, ServedBy::Segment, Reason::Segment, scratch, &mut decision);
    }
    fill(prepared, prepared.popular(), count, ServedBy::Popular, Reason::Popular, scratch, &mut decision);
    decision
}

/// Finds the visitor's interactions in the catalog, and marks what must not be offered.
fn exclude(prepared: &Prepared, view: &View, ask: &Recommend, scratch: &mut Scratch) {
    let catalog = &prepared.bundle().catalog;
    let seen_max = prepared.bundle().rules.seen_max;
    scratch.excluded.clear(catalog.len());
    let met = view.profile.interactions.iter().map(|interaction| catalog.place(interaction.item.as_str()));
    scratch.met.clear();
    scratch.met.extend(met);
    scratch.met.iter().flatten().for_each(|place| scratch.excluded.mark(*place));
    let tired =
        view.profile.seen.iter().filter(|seen| seen_max > 0 && seen.seen >= seen_max).map(|seen| &seen.item);
    for item in tired.chain(&ask.exclude) {
        if let Some(place) = catalog.place(item.as_str()) {
            scratch.excluded.mark(place);
        }
    }
    for place in prepared.blocked() {
        scratch.excluded.mark(*place);
    }
}

/// False: there is no model, or nothing in the visitor's history that it knows.
fn retrieve(prepared: &Prepared, candidates: usize, scratch: &mut Scratch) -> Result<bool, ModelError> {
    let Some(stage) = &prepared.bundle().retrieval else { return Ok(false) };
    scratch.history.clear();
    scratch.history.extend(scratch.met.iter().flatten().filter_map(|place| stage.indices[*place as usize]));
    if scratch.history.is_empty() {
        return Ok(false);
    }
    stage.model.scores(&scratch.history, &mut scratch.scores)?;
    let place_of = |index: u32| stage.places.get(index as usize).copied().flatten();
    let unwanted = scratch.excluded.all().iter().filter_map(|place| stage.indices[*place as usize]);
    let unwanted = unwanted.chain(stage.absent.iter().copied());
    top(&scratch.scores, candidates, unwanted, &mut scratch.keys, &mut scratch.top);
    scratch.candidates.clear();
    scratch
        .candidates
        .extend(scratch.top.iter().filter_map(|(index, score)| Some((place_of(*index)?, *score))));
    Ok(!scratch.candidates.is_empty())
}

/// Adds the logarithm of each candidate's probability to its retrieval score. The retrieval score is the logarithm of the
/// probability that the item is next, up to a constant; so the sum orders by the probability that it is next and liked.
/// False: there is no ranker.
fn rank(
    prepared: &Prepared,
    view: &View,
    ask: &Recommend,
    now_ms: u64,
    scratch: &mut Scratch,
) -> Result<bool, ModelError> {
    let Some(stage) = &prepared.bundle().ranker else { return Ok(false) };
    let met = view.profile.interactions.iter().zip(scratch.met.iter().copied());
    let visitor = stage.encoder.visitor_of(met, &view.profile.traits, &ask.context, now_ms);
    scratch.places.clear();
    scratch.places.extend(scratch.candidates.iter().map(|(place, _)| *place));
    stage.rank(&visitor, &scratch.places, &mut scratch.rank, &mut scratch.probabilities)?;
    for ((_, score), probability) in scratch.candidates.iter_mut().zip(&scratch.probabilities) {
        *score += probability.max(f32::MIN_POSITIVE).ln();
    }
    Ok(true)
}

/// Chooses from the scored candidates.
fn offer(prepared: &Prepared, count: usize, reason: Reason, scratch: &mut Scratch, decision: &mut Decision) {
    let scores = scratch.candidates.iter().map(|(_, score)| *score);
    let (low, high) = scores.fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), s| (l.min(s), h.max(s)));
    let span = (high - low).max(f32::MIN_POSITIVE);
    scratch.scored.clear();
    scratch.scored.extend(
        scratch
            .candidates
            .iter()
            .map(|(place, score)| Scored::new(*place, (score - low) / span, prepared.categories(*place))),
    );
    let lambda = prepared.bundle().rules.diversity_lambda;
    for chosen in scratch.mmr.choose(&mut scratch.scored, count, lambda) {
        let chosen = scratch.scored[*chosen];
        take(prepared, chosen.place, chosen.relevance, reason, &mut scratch.excluded, decision);
    }
}

/// Fills up to `count` from a list that is best first.
fn fill(
    prepared: &Prepared,
    popular: &[u32],
    count: usize,
    served_by: ServedBy,
    reason: Reason,
    scratch: &mut Scratch,
    decision: &mut Decision,
) {
    for (rank, place) in popular.iter().enumerate() {
        if decision.items.len() >= count {
            return;
        }
        if !scratch.excluded.is_marked(*place) {
            take(prepared, *place, 1.0 / (1.0 + rank as f32), reason, &mut scratch.excluded, decision);
            decision.served_by.get_or_insert(served_by);
        }
    }
}

fn take(
    prepared: &Prepared,
    place: u32,
    score: f32,
    reason: Reason,
    excluded: &mut Marks,
    decision: &mut Decision,
) {
    if let Some(item) = prepared.bundle().catalog.item(place) {
        decision.items.push(Ranked { item: item.id.clone(), score, reason });
        excluded.mark(place);
    }
}

impl Decision {
    fn fail(&mut self, stage: Stage, error: ModelError) -> bool {
        self.failed = Some((stage, error));
        false
    }
}

/// A set of places that empties in no time: a place is in it if it bears the present number.
#[derive(Default)]
struct Marks {
    marks: Vec<u32>,
    present: u32,
    all: Vec<u32>,
}

impl Marks {
    fn clear(&mut self, len: usize) {
        self.all.clear();
        self.present = self.present.wrapping_add(1);
        if self.present == 0 || self.marks.len() != len {
            self.marks.clear();
            self.marks.resize(len, 0);
            self.present = 1;
        }
    }

    fn mark(&mut self, place: u32) {
        if !self.is_marked(place) {
            self.marks[place as usize] = self.present;
            self.all.push(place);
        }
    }

    fn is_marked(&self, place: u32) -> bool {
        self.marks[place as usize] == self.present
    }

    /// The places in it.
    fn all(&self) -> &[u32] {
        &self.all
    }
}

#[cfg(test)]
mod tests;
