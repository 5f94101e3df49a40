//! The ranker: how likely is it that a visitor likes a candidate? A deep and cross network (DCN-V2, Wang et al., WWW 2021)
//! with low-rank crosses, and beside them the pairwise products of a factorization machine (Rendle, ICDM 2010), whose
//! item × liked-item terms are an item-based recommender of their own.
//!
//! All fields share one embedding table. The last layer's scale and offset are fitted on validation (Platt, 1999), so that
//! its output is a probability.

use candle_core::{Device, Result, Tensor, Var};

use crate::nn;
use crate::rng::Rng;

pub mod baselines;
pub mod export;
pub mod rows;
pub mod train;
pub mod trials;

/// Shape and training of the ranker.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Length of an embedding.
    pub embedding: usize,
    /// Cross layers.
    pub crosses: usize,
    /// Rank of a cross layer's matrix.
    pub rank: usize,
    /// Widths of the deep part.
    pub hidden: Vec<usize>,
    /// Share of values dropped after the embeddings and each deep layer.
    pub dropout: f64,
    /// Learning rate.
    pub rate: f64,
    /// Decoupled weight decay.
    pub decay: f64,
    /// Rows in a step.
    pub batch: usize,
    /// Most passes over the data.
    pub epochs_max: usize,
    /// Validations without a better log-loss before training stops.
    pub patience: usize,
    /// Validations a pass.
    pub checks: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            embedding: 8,
            crosses: 2,
            rank: 16,
            hidden: vec![32],
            dropout: 0.4,
            rate: 5e-4,
            decay: 0.2,
            batch: 256,
            epochs_max: 12,
            patience: 4,
            checks: 2,
        }
    }
}

/// A matrix `[in, out]` with its bias.
pub struct Linear {
    /// `[in, out]`.
    pub weights: Var,
    /// `[out]`.
    pub bias: Var,
}

impl Linear {
    fn new(rng: &mut Rng, from: usize, to: usize) -> Result<Self> {
        #[expect(clippy::cast_precision_loss, reason = "layer widths are small")]
        let std = (2.0 / (from + to) as f64).sqrt(); // Glorot & Bengio, 2010
        Ok(Self { weights: nn::normal_var(rng, std, &[from, to])?, bias: nn::constant_var(0.0, &[to])? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        nn::add_rows(&x.matmul(&self.weights)?, &self.bias)
    }
}

/// One cross: x0 ⊙ (U V x + b) + x.
pub struct Cross {
    /// V: `[width, rank]`.
    pub down: Var,
    /// U and b: `[rank, width]`.
    pub up: Linear,
}

/// The network's weights.
pub struct Net {
    /// Its shape.
    pub config: Config,
    /// Fields of a row.
    pub fields: usize,
    /// Numbers of a row.
    pub dense: usize,
    /// The joint table: `[ids, E]`.
    pub table: Var,
    /// In order.
    pub crosses: Vec<Cross>,
    /// In order.
    pub deep: Vec<Linear>,
    /// Over crosses, pairwise products and the deep part, side by side: `[.., 1]`.
    pub last: Linear,
}

const EMBEDDING_STD: f64 = 0.05;

impl Net {
    /// A network that knows nothing yet.
    pub fn new(config: &Config, shape: rows::RowShape, rng: &mut Rng) -> Result<Self> {
        let width = shape.fields * config.embedding + shape.dense;
        let table = nn::normal_var(rng, EMBEDDING_STD, &[shape.table_len, config.embedding])?;
        let mut crosses = Vec::new();
        for _ in 0..config.crosses {
            let down = Linear::new(rng, width, config.rank)?.weights;
            crosses.push(Cross { down, up: Linear::new(rng, config.rank, width)? });
        }
        let mut deep = Vec::new();
        let mut from = width;
        for &to in &config.hidden {
            deep.push(Linear::new(rng, from, to)?);
            from = to;
        }
        let deep_out = config.hidden.last().copied().unwrap_or(0);
        let last = Linear::new(rng, width + config.embedding + deep_out, 1)?;
        let (fields, dense) = (shape.fields, shape.dense);
        Ok(Self { config: config.clone(), fields, dense, table, crosses, deep, last })
    }

    /// All weights, always in the same order.
    pub fn vars(&self) -> Vec<Var> {
        let mut vars = vec![self.table.clone()];
        for cross in &self.crosses {
            vars.extend([cross.down.clone(), cross.up.weights.clone(), cross.up.bias.clone()]);
        }
        for layer in self.deep.iter().chain([&self.last]) {
            vars.extend([layer.weights.clone(), layer.bias.clone()]);
        }
        vars
    }

    /// Log-odds of each row: `[rows]`. With `rng`, values are dropped.
    pub fn logits(&self, batch: &rows::Batch, mut rng: Option<&mut Rng>) -> Result<Tensor> {
        let (share, e) = (self.config.dropout, self.config.embedding);
        let looked_up = self.table.index_select(&batch.fields, 0)?;
        let looked_up = nn::dropout(&looked_up, share, rng.as_deref_mut())?;
        let pairs = pairwise(&looked_up.reshape((batch.rows, self.fields, e))?)?;
        let x0 = Tensor::cat(&[&looked_up.reshape((batch.rows, self.fields * e))?, &batch.dense], 1)?;
        let mut crossed = x0.clone();
        for cross in &self.crosses {
            let mixed = cross.up.forward(&crossed.matmul(&cross.down)?)?;
            crossed = ((&x0 * mixed)? + crossed)?;
        }
        let mut parts = vec![crossed, pairs];
        let mut deep = x0;
        for layer in &self.deep {
            deep = nn::dropout(&layer.forward(&deep)?.relu()?, share, rng.as_deref_mut())?;
        }
        if !self.deep.is_empty() {
            parts.push(deep);
        }
        self.last.forward(&Tensor::cat(&parts, 1)?)?.squeeze(1)
    }
}

/// Sum over all pairs of fields of their embeddings' product, by dimension: ½((Σv)² − Σv²). `[rows, F, E]` → `[rows, E]`.
fn pairwise(x: &Tensor) -> Result<Tensor> {
    (x.sum(1)?.sqr()? - x.sqr()?.sum(1)?)? * 0.5
}

/// Probability from log-odds.
pub fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// On the processor, where all of this runs.
pub(crate) const CPU: Device = Device::Cpu;
