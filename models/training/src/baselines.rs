//! What the retrieval model stands beside: models without order, each fitted to the same split.
//!
//! Settings are chosen on the validation items, from a few values a model, and the chosen one is fitted again to training
//! and validation items together.

use candle_core::Result;

use crate::metrics::{self, Estimate};
use crate::sasrec::train::K;
use crate::split::{Case, Split};

pub mod ease;
pub mod neighbours;
pub mod slim;

/// Something that scores all items for a visitor.
pub trait Scorer {
    /// Scores of all items into `out`, whatever it held. `known` is what the visitor met, oldest first.
    fn scores(&self, known: &[u32], out: &mut Vec<f32>);
}

/// A model with the settings that validation chose.
pub struct Fitted {
    /// For the table: `EASE, lambda 500`.
    pub name: String,
    /// The model.
    pub scorer: Box<dyn Scorer>,
}

/// All baselines, fitted.
pub fn fit_all(split: &Split, progress: &crate::progress::Progress) -> Result<Vec<Fitted>> {
    let gram = Gram::new(split.items, &split.cases, false);
    let whole = Gram::new(split.items, &split.cases, true);
    let mut fitted = vec![Fitted { name: "TopPop".to_owned(), scorer: Box::new(TopPop::fit(&whole)) }];
    progress.step(1, 4, "TopPop");
    fitted.push(neighbours::choose(split, &gram, &whole));
    progress.step(2, 4, &fitted[1].name);
    fitted.push(ease::choose(split, &gram, &whole)?);
    progress.step(3, 4, &fitted[2].name);
    fitted.push(slim::choose(split, &gram, &whole));
    progress.step(4, 4, &fitted[3].name);
    Ok(fitted)
}

/// The model whose settings rank the validation items best.
fn best_on_validation<S, M: Scorer>(
    split: &Split,
    settings: impl IntoIterator<Item = S>,
    mut fit: impl FnMut(&S) -> M,
) -> Option<S> {
    let mut best: Option<(f64, S)> = None;
    for setting in settings {
        let ndcg = validation_ndcg(&fit(&setting), split).mean;
        if best.as_ref().is_none_or(|(most, _)| ndcg > *most) {
            best = Some((ndcg, setting));
        }
    }
    best.map(|(_, setting)| setting)
}

fn validation_ndcg(scorer: &dyn Scorer, split: &Split) -> Estimate {
    let mut scores = Vec::new();
    let one = |case: &Case| {
        let (target, _) = case.valid?;
        scorer.scores(&case.train, &mut scores);
        Some(metrics::ndcg(rank_unseen(&scores, target, &case.train), K))
    };
    let values: Vec<f64> = split.cases.iter().filter_map(one).collect();
    metrics::estimate(&values)
}

/// The places of the test items by the popular list alone, learned from what is not held out.
pub fn popular_ranks(split: &Split) -> Vec<metrics::Rank> {
    let mut counts = vec![0.0; split.items];
    for &item in split.cases.iter().flat_map(|case| &case.train) {
        counts[item as usize] += 1.0;
    }
    let tested = split.cases.iter().filter_map(|case| Some((case.test?, case.known())));
    tested.map(|(target, known)| rank_unseen(&counts, target, &known)).collect()
}

/// The place of `target` among all items that the visitor has not met.
pub fn rank_unseen(scores: &[f32], target: u32, met: &[u32]) -> metrics::Rank {
    let mut seen = vec![false; scores.len()];
    met.iter().for_each(|&item| seen[item as usize] = true);
    metrics::rank(scores, target, (0..).zip(&seen).filter(|(_, seen)| !**seen).map(|(item, _)| item))
}

/// How often each pair of items was met by the same visitor: X'X of the binary visitor × item matrix.
pub struct Gram {
    /// Items.
    pub n: usize,
    /// `[n, n]`, row by row.
    pub values: Vec<f32>,
}

impl Gram {
    /// Over the training items, and with `all` over the validation items too.
    fn new(n: usize, cases: &[Case], all: bool) -> Self {
        let mut values = vec![0.0; n * n];
        for case in cases {
            let items = if all { case.known() } else { case.train.clone() };
            for &a in &items {
                let row = &mut values[a as usize * n..][..n];
                items.iter().for_each(|&b| row[b as usize] += 1.0);
            }
        }
        Self { n, values }
    }

    fn row(&self, item: usize) -> &[f32] {
        &self.values[item * self.n..][..self.n]
    }

    fn count(&self, item: usize) -> f32 {
        self.values[item * self.n + item]
    }
}

/// How many visitors met an item.
struct TopPop(Vec<f32>);

impl TopPop {
    fn fit(gram: &Gram) -> Self {
        Self((0..gram.n).map(|item| gram.count(item)).collect())
    }
}

impl Scorer for TopPop {
    fn scores(&self, _known: &[u32], out: &mut Vec<f32>) {
        out.clone_from(&self.0);
    }
}

/// Scores are sums of the rows of the items that the visitor met: every item-to-item model is one.
struct ItemToItem {
    n: usize,
    /// `[n, n]`: what having met the row's item says for the column's.
    weights: Vec<f32>,
}

impl Scorer for ItemToItem {
    fn scores(&self, known: &[u32], out: &mut Vec<f32>) {
        out.clear();
        out.resize(self.n, 0.0);
        for &item in known {
            let row = &self.weights[item as usize * self.n..][..self.n];
            out.iter_mut().zip(row).for_each(|(score, weight)| *score += weight);
        }
    }
}

#[cfg(test)]
mod tests;
