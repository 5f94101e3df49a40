//! The retrieval model: a visitor's history in, a score for every item that the model knows out.

use std::cmp::Ordering;
use std::collections::HashMap;

use proto::{ItemId, ModelVersion};

use crate::card::{Card, HISTORY_LEN_MAX, ModelKind};
use crate::engine::{Engine, Session};
use crate::error::ModelError;
use crate::tensor::{ModelSpec, Values};

/// Batch sizes that are run in one piece.
const BATCHES: [usize; 2] = [1, 16];

/// A retrieval model that passed every check. Items are spoken of by their index in its vocabulary.
#[derive(Debug)]
pub struct Retrieval {
    session: Session,
    card: Card,
    history_len: usize,
    by_id: HashMap<ItemId, u32>,
}

impl Retrieval {
    /// Checks card, digest, graph, shapes and golden answers, in this order.
    pub fn load(engine: &Engine, onnx: &[u8], card: &[u8]) -> Result<Self, ModelError> {
        let card = Card::parse(card)?;
        card.check_file(ModelKind::Retrieval, onnx)?;
        let history_len = card.retrieval.as_ref().map_or(0, |part| part.history_len);
        let session = engine.load(onnx, &Self::spec(&card))?;
        session.check_golden(&card.golden)?;
        let by_id = (0u32..).zip(&card.items).map(|(index, item)| (item.clone(), index)).collect();
        Ok(Self { session, card, history_len, by_id })
    }

    /// What the graph of a retrieval card must look like: for whoever trains one.
    pub fn spec(card: &Card) -> ModelSpec {
        ModelSpec { inputs: card.inputs.clone(), output: card.output.clone(), batches: BATCHES.to_vec() }
    }

    /// The card.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// The model's version.
    pub fn version(&self) -> &ModelVersion {
        &self.card.version
    }

    /// The loaded graph.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Number of items that the model knows.
    pub fn items(&self) -> usize {
        self.card.items.len()
    }

    /// The index of an item; none if the model does not know it.
    pub fn index_of(&self, item: &str) -> Option<u32> {
        self.by_id.get(item).copied()
    }

    /// The item at an index.
    pub fn item(&self, index: u32) -> Option<&ItemId> {
        self.card.items.get(index as usize)
    }

    /// A score for every item, by index. `history` has the indices of what the visitor met, oldest first; only the latest
    /// are looked at.
    pub fn scores(&self, history: &[u32], out: &mut Vec<f32>) -> Result<(), ModelError> {
        let mut row = [0i64; HISTORY_LEN_MAX];
        let row = &mut row[..self.history_len];
        self.fill(history, row)?;
        self.session.run(&[Values::I64(row)], out)
    }

    /// The same for many visitors at once, `[visitors, items]`: for evaluation.
    pub fn scores_many(&self, histories: &[&[u32]], out: &mut Vec<f32>) -> Result<(), ModelError> {
        let mut rows = vec![0i64; histories.len() * self.history_len];
        for (history, row) in histories.iter().zip(rows.chunks_exact_mut(self.history_len)) {
            self.fill(history, row)?;
        }
        self.session.run(&[Values::I64(&rows)], out)
    }

    /// Index + 1 in the last places of the row, 0 before them.
    fn fill(&self, history: &[u32], row: &mut [i64]) -> Result<(), ModelError> {
        let latest = &history[history.len().saturating_sub(row.len())..];
        let padding = row.len() - latest.len();
        for (place, index) in row[padding..].iter_mut().zip(latest) {
            if *index as usize >= self.card.items.len() {
                return Err(ModelError::Input(format!("item {index} of {}", self.card.items.len())));
            }
            *place = i64::from(*index) + 1;
        }
        Ok(())
    }
}

/// The `k` best scores as (index, score), best first, without what `exclude` names: O(n) to select, O(k log k) to sort.
/// NaN is worse than everything; of equal scores the lower index comes first. `out` is emptied first.
pub fn top(scores: &[f32], k: usize, exclude: impl Fn(u32) -> bool, out: &mut Vec<(u32, f32)>) {
    out.clear();
    out.extend((0u32..).zip(scores.iter().copied()).filter(|(index, _)| !exclude(*index)));
    if k == 0 {
        out.clear();
    } else if k < out.len() {
        out.select_nth_unstable_by(k - 1, better);
        out.truncate(k);
    }
    out.sort_unstable_by(better);
}

fn better(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    let key = |score: f32| if score.is_nan() { f32::NEG_INFINITY } else { score };
    // `+ 0.0` makes -0 and 0 one score.
    (key(b.1) + 0.0).total_cmp(&(key(a.1) + 0.0)).then(a.1.is_nan().cmp(&b.1.is_nan())).then(a.0.cmp(&b.0))
}
