//! The retrieval model: a visitor's history in, a score for every item that the model knows out.

use std::collections::HashMap;

use proto::{ItemId, ModelVersion};

use crate::card::{Card, HISTORY_LEN_MAX, ModelKind};
use crate::engine::{Engine, Session};
use crate::error::ModelError;
use crate::kernel::{check, retrieval::Kernel};
use crate::tensor::{ModelSpec, Values};
use crate::vet::vet;

/// Batch sizes that are run in one piece.
const BATCHES: [usize; 2] = [1, 16];

/// A retrieval model that passed every check. Items are spoken of by their index in its vocabulary.
#[derive(Debug)]
pub struct Retrieval {
    session: Session,
    kernel: Option<Kernel>,
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
        let (spec, items) = (Self::spec(&card), card.items.len());
        let vetted = vet(onnx, &spec)?;
        let session = engine.open(&vetted, &spec)?;
        session.check_golden(&card.golden)?;
        let kernel = vetted.model.graph.as_ref().and_then(|graph| Kernel::of(graph, history_len, items));
        let kernel =
            kernel.filter(|kernel| check::retrieval(kernel, &session, (history_len, items), &card.golden));
        let by_id = (0u32..).zip(&card.items).map(|(index, item)| (item.clone(), index)).collect();
        Ok(Self { session, kernel, card, history_len, by_id })
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
        match &self.kernel {
            Some(kernel) => kernel.scores(row, out),
            None => self.session.run(&[Values::I64(row)], out),
        }
    }

    /// True: the graph is one that is known, and runs as code.
    pub fn is_compiled(&self) -> bool {
        self.kernel.is_some()
    }

    /// The same for many visitors at once, `[visitors, items]`, by the engine whatever the graph: for evaluation.
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

/// The `k` best scores as (index, score), best first, without the indices in `excluded`: O(n) to select, O(k log k) to sort.
/// NaN is worse than everything; of equal scores the lower index comes first. `out` is emptied first; `keys` is memory to reuse.
pub fn top(
    scores: &[f32],
    k: usize,
    excluded: impl IntoIterator<Item = u32>,
    keys: &mut Vec<u64>,
    out: &mut Vec<(u32, f32)>,
) {
    keys.clear();
    keys.extend((0u32..).zip(scores).map(|(index, score)| key(index, *score)));
    for index in excluded {
        if let Some(key) = keys.get_mut(index as usize) {
            *key = EXCLUDED;
        }
    }
    if (1..keys.len()).contains(&k) {
        keys.select_nth_unstable(k - 1);
    }
    keys.truncate(k);
    keys.sort_unstable();
    out.clear();
    out.extend(keys.iter().take_while(|key| **key != EXCLUDED).map(|key| {
        let index = *key as u32;
        (index, scores[index as usize])
    }));
}

/// Comes after every key, as there is no item of this index.
const EXCLUDED: u64 = u64::MAX;

/// Grows from the best to the worst. Whole numbers are compared without a branch, which is most of the work.
fn key(index: u32, score: f32) -> u64 {
    // `+ 0.0` makes -0 and 0 one score.
    let bits = (score + 0.0).to_bits();
    // Floats as integers of the same order: negative ones are turned around, and come before the others.
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    let ordered = if score.is_nan() { 0 } else { ordered };
    u64::from(!ordered) << 32 | u64::from(index)
}
