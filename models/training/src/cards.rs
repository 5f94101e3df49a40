//! Model cards: what a model is, what it was trained on, how it measured, and answers to check it by.

use std::collections::BTreeMap;

use chrono::{SecondsFormat, Utc};
use inference::features::Schema;
use inference::graph::Exported;
use inference::{Card, Engine, ModelError, ModelKind, Ranker, RankerPart, Retrieval, RetrievalPart, Tensor};
use proto::{Digest, ItemId};

use crate::ranker::rows::Parts;
use crate::ranker::trials::Lesson;
use crate::rng::Rng;

/// What the author of a card knows.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Data set, rows, split: exactly what the model has seen.
    pub trained_on: String,
    /// How the metrics were measured.
    pub protocol: String,
    /// Offline figures by name.
    pub metrics: BTreeMap<String, f64>,
}

/// Golden histories and rows.
const GOLDEN_ROWS: usize = 3;
/// Of a golden answer's values, one in so many is noted.
const GOLDEN_EVERY: usize = 7;

/// The card of a retrieval model.
pub fn retrieval(
    exported: &Exported,
    items: Vec<ItemId>,
    len: usize,
    about: About,
) -> Result<Card, ModelError> {
    let mut card = blank(ModelKind::Retrieval, "sasrec", exported, items, about);
    card.intended_use =
        "Candidates for a visitor with at least one interaction, from the catalog it was trained on."
            .to_owned();
    card.limits = "Knows no item that came after its training, nor anything of a visitor but the order of what they met; \
        an empty history gets the same answer whoever asks. Popular items are favoured."
        .to_owned();
    card.retrieval = Some(RetrievalPart { history_len: len });
    let mut rng = Rng::new(1);
    let mut history = vec![0_i64; GOLDEN_ROWS * len];
    for (row, history) in history.chunks_exact_mut(len).enumerate() {
        let filled = (len * (row + 1) / GOLDEN_ROWS).max(1);
        history[len - filled..].fill_with(|| signed(1 + rng.below(card.items.len())));
    }
    let outputs = GOLDEN_ROWS * card.items.len();
    let session = Engine::tract().load(&exported.onnx, &Retrieval::spec(&card))?;
    let noted = (0..outputs).step_by(GOLDEN_EVERY).map(place);
    card.golden = vec![session.golden(vec![Tensor::I64(history)], noted)?];
    card.check()?;
    Ok(card)
}

/// The card of a ranker. `parts` has what the encoder knew and the statistics that it will serve with.
pub fn ranker(exported: &Exported, parts: &Parts, about: About) -> Result<Card, ModelError> {
    let mut card = blank(ModelKind::Ranker, "dcn-v2", exported, parts.items.clone(), about);
    card.intended_use = match parts.lesson {
        Lesson::Ratings => {
            "The probability that a visitor who takes up a candidate gives it 4 stars or more, to order candidates by."
        }
        Lesson::Impressions => "The probability that a visitor takes up a candidate that is shown, to order candidates by.",
        Lesson::Sampled => "How likely it is that a visitor meets a candidate rather than another item, to order candidates by.",
    }
    .to_owned();
    card.limits = format!(
        "{} Traits such as age or gender are inputs where a visitor has told them.",
        parts.lesson.limits()
    );
    let schema = Schema::new(&parts.spec, parts.items.len());
    card.ranker = Some(RankerPart {
        feature_schema_hash: schema.hash().to_owned(),
        features: parts.spec.clone(),
        item_stats: parts.stats.clone(),
        global: parts.global,
    });
    // Drawn, not taken from the data: a card carries no row of it.
    let mut rng = Rng::new(2);
    let rows = GOLDEN_ROWS * GOLDEN_EVERY;
    let mut ids = Vec::with_capacity(rows * schema.fields.len());
    for _ in 0..rows {
        ids.extend(schema.fields.iter().map(|field| signed(field.offset + rng.below(field.cardinality))));
    }
    #[expect(clippy::cast_possible_truncation, reason = "a draw")]
    let dense = (0..rows * schema.dense.len()).map(|_| (rng.normal() * 0.5) as f32).collect();
    let session = Engine::tract().load(&exported.onnx, &Ranker::spec(&card))?;
    card.golden = vec![session.golden(vec![Tensor::I64(ids), Tensor::F32(dense)], (0..rows).map(place))?];
    card.check()?;
    Ok(card)
}

fn blank(kind: ModelKind, name: &str, exported: &Exported, items: Vec<ItemId>, about: About) -> Card {
    let onnx_digest = Digest::of(&exported.onnx);
    let created_at = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let day: String = created_at.chars().take(10).filter(char::is_ascii_digit).collect();
    Card {
        name: name.to_owned(),
        version: Card::version_of(kind, &day, &onnx_digest),
        kind,
        created_at,
        onnx_digest,
        trained_on: about.trained_on,
        protocol: about.protocol,
        metrics: about.metrics,
        intended_use: String::new(),
        limits: String::new(),
        inputs: exported.inputs.clone(),
        output: exported.output.clone(),
        items,
        retrieval: None,
        ranker: None,
        golden: Vec::new(),
    }
}

fn signed(n: usize) -> i64 {
    i64::try_from(n).expect("an index in memory fits i64")
}

fn place(n: usize) -> u32 {
    u32::try_from(n).expect("golden answers are few")
}
