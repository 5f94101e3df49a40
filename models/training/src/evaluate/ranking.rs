//! Retrieval: where is the held-out item, among all items or among 99 sampled ones?

use inference::{Engine, Retrieval};
use proto::ItemId;
use serde::Serialize;

use super::Effort;
use crate::baselines::{self, Fitted, rank_unseen};
use crate::cards::About;
use crate::metrics::{self, Estimate};
use crate::progress::Progress;
use crate::recipe::{self, TrainError, refused, tensors};
use crate::sasrec::train::K;
use crate::split::{Case, Split};

/// A protocol, and how to say it.
pub struct Protocol {
    /// For progress lines.
    pub short: &'static str,
    /// For people: it is printed with every figure.
    pub text: &'static str,
}

/// Leave-one-out over all items.
pub const FULL: Protocol = Protocol {
    short: "full ranking",
    text: "leave-one-out, FULL ranking over all items: implicit, unfiltered; test = a visitor's last item by time (equal \
        times: by file order), validation = the one before; items already met are masked; settings and epochs by \
        validation, then refit on training + validation; an equal score counts as a better one",
};

/// Protocol A.
pub const SAMPLED: Protocol = Protocol {
    short: "99 negatives",
    text: "protocol A (Ferrari Dacrema et al., TOIS 2021): implicit, visitors with 20 and items with 5 ratings at least; test \
        = a visitor's last item by time, validation = a random one; the test item among 99 sampled items that the visitor \
        never met; the same negatives for every model; refit on training + validation",
};

/// What one protocol measured.
#[derive(Debug, Clone, Serialize)]
pub struct RankingReport {
    /// The protocol, in words.
    pub protocol: String,
    /// Visitors with a test item.
    pub visitors: usize,
    /// Items that are ranked from.
    pub items: usize,
    /// Our model.
    pub model: String,
    /// Share of visitors whose item is among the first 10.
    pub hr_at_10: f64,
    /// Its standard error.
    pub hr_at_10_se: f64,
    /// Mean NDCG at 10.
    pub ndcg_at_10: f64,
    /// Its standard error.
    pub ndcg_at_10_se: f64,
    /// Epochs that validation chose.
    pub epochs: usize,
    /// Validation NDCG@10 over all items at that epoch.
    pub validation_ndcg_at_10: f64,
    /// What stands beside it.
    pub baselines: Vec<BaselineReport>,
}

/// A baseline on the same split and negatives.
#[derive(Debug, Clone, Serialize)]
pub struct BaselineReport {
    /// With its settings.
    pub name: String,
    /// Share of visitors whose item is among the first 10.
    pub hr_at_10: f64,
    /// Its standard error.
    pub hr_at_10_se: f64,
    /// Mean NDCG at 10.
    pub ndcg_at_10: f64,
    /// Its standard error.
    pub ndcg_at_10_se: f64,
    /// Ours minus this one's, visitor by visitor.
    pub hr_at_10_gain: Estimate,
    /// Ours minus this one's, visitor by visitor.
    pub ndcg_at_10_gain: Estimate,
}

/// Visitor by visitor.
struct Outcome {
    hits: Vec<f64>,
    ndcg: Vec<f64>,
}

impl Outcome {
    fn of(ranks: &[metrics::Rank]) -> Self {
        Self {
            hits: ranks.iter().map(|&rank| metrics::hit(rank, K)).collect(),
            ndcg: ranks.iter().map(|&rank| metrics::ndcg(rank, K)).collect(),
        }
    }
}

/// Trains and measures the model and its baselines on one split.
pub fn measure(
    protocol: &Protocol,
    split: &Split,
    items: Vec<ItemId>,
    effort: &Effort,
    seed: u64,
    engine: &Engine,
) -> Result<RankingReport, TrainError> {
    let tested = split.cases.iter().filter(|case| case.test.is_some()).count();
    if tested == 0 {
        return Err(TrainError::TooLittle(
            "no visitor with three different items, so there is nothing to test on".into(),
        ));
    }
    let (net, chosen) = recipe::retrieval(split, &effort.retrieval, seed, protocol.short)?;
    let artifact = recipe::retrieval_artifact(&net, items, About::default())?;
    let ours = Outcome::of(&served_ranks(&artifact.load_retrieval(engine)?, split)?);

    let bar = Progress::new(format!("{}: baselines", protocol.short));
    let fitted = baselines::fit_all(split, &bar).map_err(tensors("fit the baselines"))?;
    let baselines = fitted.iter().map(|baseline| against(&ours, baseline, split)).collect();
    let (hr, ndcg) = (metrics::estimate(&ours.hits), metrics::estimate(&ours.ndcg));
    let config = &effort.retrieval;
    Ok(RankingReport {
        protocol: protocol.text.to_owned(),
        visitors: tested,
        items: split.items,
        model: format!(
            "SASRec, full softmax, {} block(s), d {}, L {}",
            config.blocks, config.dim, config.len
        ),
        hr_at_10: hr.mean,
        hr_at_10_se: hr.se,
        ndcg_at_10: ndcg.mean,
        ndcg_at_10_se: ndcg.se,
        epochs: chosen.epochs,
        validation_ndcg_at_10: chosen.ndcg_at_10.unwrap_or_default(),
        baselines,
    })
}

fn against(ours: &Outcome, baseline: &Fitted, split: &Split) -> BaselineReport {
    let mut scores = Vec::new();
    let mut ranks = Vec::new();
    for (case, target) in split.cases.iter().filter_map(|case| Some((case, case.test?))) {
        let known = case.known();
        baseline.scorer.scores(&known, &mut scores);
        ranks.push(rank(&scores, target, case, &known));
    }
    let theirs = Outcome::of(&ranks);
    let (hr, ndcg) = (metrics::estimate(&theirs.hits), metrics::estimate(&theirs.ndcg));
    BaselineReport {
        name: baseline.name.clone(),
        hr_at_10: hr.mean,
        hr_at_10_se: hr.se,
        ndcg_at_10: ndcg.mean,
        ndcg_at_10_se: ndcg.se,
        hr_at_10_gain: metrics::paired(&ours.hits, &theirs.hits),
        ndcg_at_10_gain: metrics::paired(&ours.ndcg, &theirs.ndcg),
    }
}

/// Among the sampled negatives if there are any, else among all items that the visitor has not met.
fn rank(scores: &[f32], target: u32, case: &Case, known: &[u32]) -> metrics::Rank {
    if case.negatives.is_empty() {
        rank_unseen(scores, target, known)
    } else {
        metrics::rank(scores, target, case.negatives.iter().copied())
    }
}

/// Visitors scored in one call.
const SCORE_ROWS: usize = 64;

/// Ranks of the test items by the model as it is served.
pub fn served_ranks(model: &Retrieval, split: &Split) -> Result<Vec<metrics::Rank>, TrainError> {
    let cases: Vec<(&Case, u32, Vec<u32>)> =
        split.cases.iter().filter_map(|case| Some((case, case.test?, case.known()))).collect();
    let (mut scores, mut ranks) = (Vec::new(), Vec::with_capacity(cases.len()));
    for cases in cases.chunks(SCORE_ROWS) {
        let histories: Vec<&[u32]> = cases.iter().map(|(_, _, known)| known.as_slice()).collect();
        model.scores_many(&histories, &mut scores).map_err(refused("retrieval model"))?;
        let rows = scores.chunks_exact(split.items);
        ranks.extend(
            cases.iter().zip(rows).map(|((case, target, known), row)| rank(row, *target, case, known)),
        );
    }
    Ok(ranks)
}
