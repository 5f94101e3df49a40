//! The model card: what a model is, how it was trained, its metrics, what it needs to be served, and answers to check it by.

use std::collections::{BTreeMap, HashSet};

use proto::limits::CATALOG_ITEMS_MAX;
use proto::{Digest, ItemId, ModelVersion};
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::features::{FeatureSpec, GlobalStats, ItemStats, Schema};
use crate::tensor::{DType, RANK_MAX, Tensor, TensorSpec};

/// Largest card, in bytes of JSON.
pub const CARD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest free text of a card, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Longest name or version, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Most metrics.
pub const METRICS_MAX: usize = 256;
/// Most golden inputs.
pub const GOLDEN_MAX: usize = 16;
/// Most numbers in all golden inputs and outputs together.
pub const GOLDEN_VALUES_MAX: usize = 1024 * 1024;
/// Longest history that a retrieval model takes.
pub const HISTORY_LEN_MAX: usize = 512;
/// A golden answer may differ by this much, absolutely or relative to its size, whichever is larger.
pub const GOLDEN_TOLERANCE: f32 = 1e-4;

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// History in, a score for every item out.
    Retrieval,
    /// Features of candidates in, the probability that each is liked out.
    Ranker,
}

/// What travels beside an ONNX file, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// What the model is called, for people: `sasrec`, `dcn-v2` …
    pub name: String,
    /// Unique: `retrieval-20261122-` and 8 hex digits of the ONNX file's digest.
    pub version: ModelVersion,
    /// What it is for.
    pub kind: ModelKind,
    /// When it was trained: RFC 3339, UTC.
    pub created_at: String,
    /// SHA-256 of the ONNX file.
    pub onnx_digest: Digest,
    /// Data set, rows, split: exactly what the model has seen.
    pub trained_on: String,
    /// How [`Card::metrics`] were measured.
    pub protocol: String,
    /// Offline figures by name.
    pub metrics: BTreeMap<String, f64>,
    /// What it is meant for.
    pub intended_use: String,
    /// What it is not good at.
    pub limits: String,
    /// The graph's inputs, in order.
    pub inputs: Vec<TensorSpec>,
    /// The graph's only output.
    pub output: TensorSpec,
    /// The items that the model knows, in index order.
    pub items: Vec<ItemId>,
    /// Set for [`ModelKind::Retrieval`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalPart>,
    /// Set for [`ModelKind::Ranker`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranker: Option<RankerPart>,
    /// Inputs with the answers that every engine must give.
    pub golden: Vec<Golden>,
}

/// What only a retrieval model needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrievalPart {
    /// The latest interactions that the model looks at.
    pub history_len: usize,
}

/// What only a ranker needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankerPart {
    /// [`Schema::hash`] of the schema that it was trained on.
    pub feature_schema_hash: String,
    /// What the encoder must know.
    pub features: FeatureSpec,
    /// One for each of [`Card::items`].
    pub item_stats: Vec<ItemStats>,
    /// What small counts are shrunk towards.
    pub global: GlobalStats,
}

/// An input with its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// One tensor for each of [`Card::inputs`]; a whole number of rows.
    pub inputs: Vec<Tensor>,
    /// Positions in the flattened output, and the values there.
    pub output: Vec<(u32, f32)>,
}

impl Card {
    /// Reads a card. Checks its size first, and then that its parts agree with each other.
    pub fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        if bytes.len() > CARD_BYTES_MAX {
            return Err(ModelError::too_large(
                "the card, in bytes",
                bytes.len() as u64,
                CARD_BYTES_MAX as u64,
            ));
        }
        let card: Card =
            serde_json::from_slice(bytes).map_err(|error| ModelError::malformed("the card", error))?;
        card.check()?;
        Ok(card)
    }

    /// The card as JSON, for people and for [`Card::parse`].
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a card has only texts, numbers and lists")
    }

    /// The version of a model: kind, day (`YYYYMMDD`) and the first 8 hex digits of the ONNX file's digest.
    pub fn version_of(kind: ModelKind, day: &str, onnx: &Digest) -> ModelVersion {
        let kind = match kind {
            ModelKind::Retrieval => "retrieval",
            ModelKind::Ranker => "ranker",
        };
        let hex = onnx.to_string();
        ModelVersion(format!("{kind}-{day}-{}", &hex[..8]).into())
    }

    /// Checks limits, and that the parts agree with each other.
    pub fn check(&self) -> Result<(), ModelError> {
        self.check_texts()?;
        self.check_items()?;
        match self.kind {
            ModelKind::Retrieval => self.check_retrieval()?,
            ModelKind::Ranker => self.check_ranker()?,
        }
        self.check_golden()
    }

    /// Checks that `onnx` is the file that this card speaks of, and that the card is of `kind`.
    pub(crate) fn check_file(&self, kind: ModelKind, onnx: &[u8]) -> Result<(), ModelError> {
        if self.kind != kind {
            return refuse(format!("it is of a {:?} model, {kind:?} is due", self.kind));
        }
        let got = Digest::of(onnx);
        if got != self.onnx_digest {
            return Err(ModelError::Digest { wanted: self.onnx_digest, got });
        }
        Ok(())
    }

    fn check_texts(&self) -> Result<(), ModelError> {
        for (what, text) in [("name", self.name.as_str()), ("version", &self.version.0)] {
            if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
                return refuse(format!(
                    "`{what}` has 1 to {NAME_BYTES_MAX} bytes without control characters"
                ));
            }
        }
        let texts = [&self.created_at, &self.trained_on, &self.protocol, &self.intended_use, &self.limits];
        if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) {
            return refuse(format!("a text has at most {TEXT_BYTES_MAX} bytes"));
        }
        let names = self.metrics.keys().any(|name| name.len() > NAME_BYTES_MAX);
        if self.metrics.len() > METRICS_MAX || names || self.metrics.values().any(|value| !value.is_finite())
        {
            return refuse(format!("at most {METRICS_MAX} metrics, finite, with short names"));
        }
        Ok(())
    }

    fn check_items(&self) -> Result<(), ModelError> {
        if self.items.is_empty() || self.items.len() > CATALOG_ITEMS_MAX {
            let (len, max) = (self.items.len() as u64, CATALOG_ITEMS_MAX as u64);
            return Err(ModelError::too_large("the item vocabulary (1 at least)", len, max));
        }
        let different: HashSet<_> = self.items.iter().collect();
        if different.len() != self.items.len() {
            return refuse("an item is in the vocabulary twice".to_owned());
        }
        Ok(())
    }

    fn check_retrieval(&self) -> Result<(), ModelError> {
        let Some(part) = self.retrieval.as_ref().filter(|_| self.ranker.is_none()) else {
            return refuse("a retrieval model has a `retrieval` part and no `ranker` part".to_owned());
        };
        if !(1..=HISTORY_LEN_MAX).contains(&part.history_len) {
            return refuse(format!("`history_len` must be from 1 to {HISTORY_LEN_MAX}"));
        }
        let inputs = [TensorSpec::batched("history", DType::I64, &[part.history_len])];
        self.check_shapes(&inputs, &TensorSpec::batched("scores", DType::F32, &[self.items.len()]))
    }

    fn check_ranker(&self) -> Result<(), ModelError> {
        let Some(part) = self.ranker.as_ref().filter(|_| self.retrieval.is_none()) else {
            return refuse("a ranker has a `ranker` part and no `retrieval` part".to_owned());
        };
        part.features.check()?;
        let schema = Schema::new(&part.features, self.items.len());
        if part.feature_schema_hash != schema.hash() {
            let (wanted, got) = (part.feature_schema_hash.clone(), schema.hash().to_owned());
            return Err(ModelError::Schema { wanted, got });
        }
        if part.item_stats.len() != self.items.len() {
            let (stats, items) = (part.item_stats.len(), self.items.len());
            return refuse(format!("{stats} item stats for {items} items"));
        }
        let numbers = part.item_stats.iter().map(|stats| stats.stars_sum);
        let globals = [part.global.stars_mean, part.global.like_rate];
        if numbers.chain(globals).any(|number| !number.is_finite()) {
            return refuse("item stats must be finite".to_owned());
        }
        let inputs = [
            TensorSpec::batched("fields", DType::I64, &[schema.fields.len()]),
            TensorSpec::batched("dense", DType::F32, &[schema.dense.len()]),
        ];
        self.check_shapes(&inputs, &TensorSpec::batched("p", DType::F32, &[]))
    }

    fn check_shapes(&self, inputs: &[TensorSpec], output: &TensorSpec) -> Result<(), ModelError> {
        if self.inputs != inputs || self.output != *output {
            return refuse(format!(
                "inputs and output must be {inputs:?} and {output:?}, not {:?} and {:?}",
                self.inputs.iter().take(RANK_MAX).collect::<Vec<_>>(),
                self.output
            ));
        }
        Ok(())
    }

    fn check_golden(&self) -> Result<(), ModelError> {
        if self.golden.is_empty() || self.golden.len() > GOLDEN_MAX {
            return refuse(format!("1 to {GOLDEN_MAX} golden inputs, not {}", self.golden.len()));
        }
        let inputs = self.golden.iter().flat_map(|golden| &golden.inputs).map(|tensor| tensor.view().len());
        let outputs = self.golden.iter().map(|golden| golden.output.len());
        if inputs.chain(outputs).sum::<usize>() > GOLDEN_VALUES_MAX {
            return refuse(format!("at most {GOLDEN_VALUES_MAX} numbers in all golden inputs and outputs"));
        }
        let answers = || self.golden.iter().flat_map(|golden| &golden.output);
        if self.golden.iter().any(|golden| golden.output.is_empty()) || answers().any(|(_, v)| !v.is_finite())
        {
            return refuse("a golden input needs at least one answer, all finite".to_owned());
        }
        Ok(())
    }
}

fn refuse(reason: String) -> Result<(), ModelError> {
    Err(ModelError::refused("the card", reason))
}
