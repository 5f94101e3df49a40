//! One decision, top to bottom: exclude → explore → retrieve → rank → re-rank; where a stage fails or has no time, the fallback.

use inference::retrieval::top;
use inference::{ModelError, RankScratch};
use proto::client::{Ranked, Reason, Recommend, ServedBy};
use proto::profile::{Signal, View};

use crate::caps::Taken;
use crate::diversity::{Mmr, Scored};
use crate::explore::{self, Liking};
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
    /// The stage that was left out because there was no time for it.
    pub late: Option<Stage>,
}

/// Memory that requests reuse, one a thread.
#[derive(Default)]
pub struct Scratch {
    excluded: Marks,
    taken: Taken,
    new: Vec<(u32, f32)>,
    met: Vec<Option<u32>>,
    disliked: Vec<u32>,
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
    // Exclude: blocked by a rule, consumed, seen often enough, not wanted in this answer.
    exclude(prepared, view, ask, scratch);
    // Explore: some places are for what nobody has dealt with yet.
    explore(prepared, view, ask, now_ms, scratch);
    let count = usize::from(ask.count) - scratch.new.len();
    // Retrieve: the model's best candidates for what the visitor liked before.
    let retrieved = remember(prepared, scratch)
        && decision.has_time(budget, Stage::Retrieve)
        && retrieve(prepared, candidates.max(count), scratch)
            .unwrap_or_else(|error| decision.fail(Stage::Retrieve, error));
    if retrieved {
        // Rank: how likely each is to be liked, now.
        let ranked = prepared.bundle().ranker.is_some()
            && decision.has_time(budget, Stage::Rank)
            && rank(prepared, view, ask, now_ms, scratch)
                .unwrap_or_else(|error| decision.fail(Stage::Rank, error));
        decision.served_by = Some(if ranked { ServedBy::Ranked } else { ServedBy::Retrieved });
        // Re-rank: relevant and not all alike.
        offer(prepared, count, scratch, &mut decision);
    }
    // Fall back, or fill up what is missing: popular in the visitor's segment, then popular.
    if let Some(popular) = prepared.segment(&view.profile.traits, &ask.context) {
        let list = popular.iter().copied();
        fill(prepared, list, count, (ServedBy::Segment, Reason::Segment), scratch, &mut decision);
    }
    let list = prepared.popular().iter().copied();
    fill(prepared, list, count, (ServedBy::Popular, Reason::Popular), scratch, &mut decision);
    if prepared.bundle().rules.explore_share > 0.0 {
        let list = explore::at_hand(prepared.new_items(), explore::seed(&ask.visitor, now_ms));
        fill(prepared, list, count, (ServedBy::Popular, Reason::New), scratch, &mut decision);
    }
    weave_in(prepared, &scratch.new, &mut decision);
    // Nothing is left: what the visitor met longest ago is better than an empty place.
    if decision.items.is_empty() {
        again(prepared, view, ask, scratch, &mut decision);
    }
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
    scratch.taken.clear();
    dislike(view, scratch);
    for place in scratch.met.iter().flatten() {
        let comes_again = prepared.bundle().rules.repeat_bought
            && !scratch.disliked.contains(place)
            && bought(view, &scratch.met, *place);
        if !comes_again {
            scratch.excluded.mark(*place);
        }
    }
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

/// Finds what the visitor's latest rating of it says is not liked: the models are not to find more of its kind.
fn dislike(view: &View, scratch: &mut Scratch) {
    scratch.disliked.clear();
    for (interaction, place) in view.profile.interactions.iter().zip(&scratch.met) {
        let Some(place) = place.filter(|_| interaction.signal == Signal::Rating) else { continue };
        scratch.disliked.retain(|disliked| *disliked != place);
        if interaction.disliked() {
            scratch.disliked.push(place);
        }
    }
}

fn bought(view: &View, met: &[Option<u32>], place: u32) -> bool {
    let mut met = view.profile.interactions.iter().zip(met);
    met.any(|(interaction, at)| *at == Some(place) && interaction.signal == Signal::Conversion)
}

/// Chooses new items, as many as are to be tried.
fn explore(prepared: &Prepared, view: &View, ask: &Recommend, now_ms: u64, scratch: &mut Scratch) {
    let Scratch { excluded, taken, new, met, .. } = scratch;
    new.clear();
    if prepared.new_items().is_empty() {
        return;
    }
    let seed = explore::seed(&ask.visitor, now_ms);
    let places = explore::places(prepared.bundle().rules.explore_share, ask.count.into(), seed);
    if places == 0 {
        return;
    }
    let met = view.profile.interactions.iter().zip(met.iter());
    let met = met.filter_map(|(interaction, place)| Some((interaction, prepared.categories((*place)?))));
    let liking = Liking::of(met);
    let free = explore::at_hand(prepared.new_items(), seed).filter(|place| !excluded.is_marked(*place));
    new.extend(free.map(|place| (place, liking.score(prepared.categories(place)))));
    // Stable: what fits equally well stays in the order that the seed gave.
    new.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut chosen = 0;
    new.retain(|(place, _)| {
        let takes = chosen < places && taken.admit(prepared.caps(), *place);
        chosen += usize::from(takes);
        takes
    });
    new.iter().for_each(|(place, _)| excluded.mark(*place));
}

/// Finds what the retrieval model is asked by. False: there is no model, or nothing in the visitor's history that it knows.
fn remember(prepared: &Prepared, scratch: &mut Scratch) -> bool {
    scratch.history.clear();
    let Some(stage) = &prepared.bundle().retrieval else { return false };
    let liked = scratch.met.iter().flatten().filter(|place| !scratch.disliked.contains(place));
    scratch.history.extend(liked.filter_map(|place| stage.indices[*place as usize]));
    !scratch.history.is_empty()
}

/// False: there is no model, or it has nothing to offer.
fn retrieve(prepared: &Prepared, candidates: usize, scratch: &mut Scratch) -> Result<bool, ModelError> {
    let Some(stage) = &prepared.bundle().retrieval else { return Ok(false) };
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

/// Chooses from the scored candidates. An item's score is what it gained when it was chosen: relevance, less what it repeats.
fn offer(prepared: &Prepared, count: usize, scratch: &mut Scratch, decision: &mut Decision) {
    let Scratch { excluded, taken, candidates, scored, mmr, .. } = scratch;
    let scores = candidates.iter().map(|(_, score)| *score);
    let (low, high) = scores.fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), s| (l.min(s), h.max(s)));
    let span = (high - low).max(f32::MIN_POSITIVE);
    scored.clear();
    scored.extend(
        candidates
            .iter()
            .map(|(place, score)| Scored::new(*place, (score - low) / span, prepared.categories(*place))),
    );
    let lambda = prepared.bundle().rules.diversity_lambda;
    let admitted = |place| taken.admit(prepared.caps(), place);
    let (chosen, gains) = mmr.choose(scored, count, lambda, admitted);
    for (at, gain) in chosen.iter().zip(gains) {
        let score = (1.0 - (lambda - gain)).clamp(0.0, 1.0);
        take(prepared, scored[*at].place, score, Reason::Taste, excluded, decision);
    }
}

/// Fills up to `count` from a list that is best first.
fn fill(
    prepared: &Prepared,
    list: impl Iterator<Item = u32>,
    count: usize,
    (served_by, reason): (ServedBy, Reason),
    scratch: &mut Scratch,
    decision: &mut Decision,
) {
    // Below what is there already: scores never rise along an answer.
    let most = decision.items.last().map_or(1.0, |last| last.score);
    for (rank, place) in list.enumerate() {
        if decision.items.len() >= count {
            return;
        }
        if !scratch.excluded.is_marked(place) && scratch.taken.admit(prepared.caps(), place) {
            let score = most / (1.0 + rank as f32);
            take(prepared, place, score, reason, &mut scratch.excluded, decision);
            decision.served_by.get_or_insert(served_by);
        }
    }
}

/// Puts the new items among the others, evenly: at the end alone nobody would see them.
fn weave_in(prepared: &Prepared, new: &[(u32, f32)], decision: &mut Decision) {
    let len = decision.items.len() + new.len();
    for (n, (place, _)) in (1..).zip(new) {
        let at = (n * len / (new.len() + 1)).min(decision.items.len());
        let score = at.checked_sub(1).map_or(1.0, |before| decision.items[before].score);
        if let Some(item) = prepared.bundle().catalog.item(*place) {
            decision.items.insert(at, Ranked { item: item.id.clone(), score, reason: Reason::New });
            decision.served_by.get_or_insert(ServedBy::Popular);
        }
    }
}

/// Offers what the visitor met before, the longest ago first; what was bought comes after the rest, and what was seen too often last. Never
/// what is disliked, blocked, or not wanted in this answer.
fn again(prepared: &Prepared, view: &View, ask: &Recommend, scratch: &mut Scratch, decision: &mut Decision) {
    let catalog = &prepared.bundle().catalog;
    scratch.excluded.clear(catalog.len());
    let unwanted = ask.exclude.iter().filter_map(|item| catalog.place(item.as_str()));
    let unwanted = unwanted.chain(prepared.blocked().iter().copied()).chain(scratch.disliked.iter().copied());
    unwanted.for_each(|place| scratch.excluded.mark(place));
    let met: Vec<u32> = scratch.met.iter().flatten().copied().collect();
    // The place of an item in this order is that of the latest time it was met.
    let latest = |at: usize| !met[at + 1..].contains(&met[at]);
    let (bought, others): (Vec<u32>, Vec<u32>) = (0..met.len())
        .filter(|at| latest(*at))
        .map(|at| met[at])
        .partition(|place| bought(view, &scratch.met, *place));
    let tired = view.profile.seen.iter().filter_map(|seen| catalog.place(seen.item.as_str()));
    let list: Vec<u32> = others.into_iter().chain(bought).chain(tired).collect();
    let how = (ServedBy::Popular, Reason::Again);
    fill(prepared, list.into_iter(), ask.count.into(), how, scratch, decision);
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

    fn has_time(&mut self, budget: &dyn Budget, stage: Stage) -> bool {
        let allowed = budget.allows(stage);
        if !allowed {
            self.late = Some(stage);
        }
        allowed
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
