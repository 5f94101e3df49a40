//! The retrieval model: SASRec (Kang & McAuley, ICDM 2018), a causal transformer over the latest items, trained with
//! softmax cross entropy over ALL items at every position instead of sampled negatives (Klenitskiy & Vasilev, RecSys 2023;
//! Petrov & Macdonald, RecSys 2023).
//!
//! Items share one embedding for input and output. Normalization comes before each half block, without scale and shift,
//! which the linear layer behind it has.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use crate::nn;
use crate::rng::Rng;

pub mod export;
pub mod train;

/// Shape and training of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Latest items that are looked at.
    pub len: usize,
    /// Width.
    pub dim: usize,
    /// Width of the feed-forward half.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub blocks: usize,
    /// Share of values dropped after the embedding and each half block.
    pub dropout: f64,
    /// Learning rate after warm-up.
    pub rate: f64,
    /// Decoupled weight decay.
    pub decay: f64,
    /// Share of the weights' average that a step keeps.
    pub memory: f32,
    /// Windows in a step.
    pub batch: usize,
    /// Steps over which the rate grows to [`Config::rate`].
    pub warm_up: usize,
    /// Most epochs.
    pub epochs_max: usize,
    /// Epochs without a better validation before training stops.
    pub patience: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            len: 50,
            dim: 64,
            hidden: 128,
            heads: 2,
            blocks: 1,
            dropout: 0.2,
            rate: 2e-3,
            decay: 0.0,
            memory: 0.99,
            batch: 32,
            warm_up: 50,
            epochs_max: 50,
            patience: 8,
        }
    }
}

impl Config {
    /// What queries times keys are multiplied by.
    #[expect(clippy::cast_precision_loss, reason = "layer widths are small")]
    pub fn attention_scale(&self) -> f32 {
        1.0 / ((self.dim / self.heads) as f32).sqrt()
    }

    /// What item embeddings are multiplied by at the input, where they are weighed against positions.
    #[expect(clippy::cast_precision_loss, reason = "layer widths are small")]
    pub fn embedding_scale(&self) -> f64 {
        (self.dim as f64).sqrt()
    }
}

/// Added to the weight of a position that must not be looked at, in the exported graph. Finite, so that an empty history
/// gives no NaN.
pub const MASKED: f32 = -1e9;

/// One block's weights; matrices are `[in, out]`.
pub struct Block {
    /// Queries, keys and values side by side: `[D, 3D]`.
    pub qkv: Var,
    /// `[3D]`.
    pub qkv_bias: Var,
    /// `[D, D]`.
    pub out: Var,
    /// `[D]`.
    pub out_bias: Var,
    /// `[D, H]`.
    pub up: Var,
    /// `[H]`.
    pub up_bias: Var,
    /// `[H, D]`.
    pub down: Var,
    /// `[D]`.
    pub down_bias: Var,
}

/// The model's weights.
pub struct Net {
    /// Its shape.
    pub config: Config,
    /// `[items, D]`: input and output.
    pub items: Var,
    /// `[items]`: how popular an item is whatever came before.
    pub item_bias: Var,
    /// `[L, D]`; the last is the newest.
    pub positions: Var,
    /// In order.
    pub blocks: Vec<Block>,
}

const INIT_STD: f64 = 0.02;

impl Block {
    fn new(config: &Config, rng: &mut Rng) -> Result<Self> {
        let (d, h) = (config.dim, config.hidden);
        let mut matrix = |from: usize, to: usize| {
            #[expect(clippy::cast_precision_loss, reason = "layer widths are small")]
            let std = (2.0 / (from + to) as f64).sqrt(); // Glorot & Bengio, 2010
            nn::normal_var(rng, std, &[from, to])
        };
        Ok(Self {
            qkv: matrix(d, 3 * d)?,
            out: matrix(d, d)?,
            up: matrix(d, h)?,
            down: matrix(h, d)?,
            qkv_bias: nn::constant_var(0.0, &[3 * d])?,
            out_bias: nn::constant_var(0.0, &[d])?,
            up_bias: nn::constant_var(0.0, &[h])?,
            down_bias: nn::constant_var(0.0, &[d])?,
        })
    }

    fn vars(&self) -> [&Var; 8] {
        [
            &self.qkv,
            &self.qkv_bias,
            &self.out,
            &self.out_bias,
            &self.up,
            &self.up_bias,
            &self.down,
            &self.down_bias,
        ]
    }

    fn attend(&self, x: &Tensor, batch: &Batch, config: &Config) -> Result<Tensor> {
        let (rows, len, d, heads) = (batch.rows, config.len, config.dim, config.heads);
        let qkv = nn::add_rows(&x.matmul(&self.qkv)?, &self.qkv_bias)?;
        let split = |at: usize| {
            qkv.narrow(1, at * d, d)?.reshape((rows, len, heads, d / heads))?.transpose(1, 2)?.reshape((
                rows * heads,
                len,
                d / heads,
            ))
        };
        let (q, k, v) = (split(0)?, split(1)?, split(2)?);
        let weights =
            nn::causal_softmax(&q.matmul(&k.t()?)?, Arc::clone(&batch.pads), config.attention_scale())?;
        let mixed = weights
            .matmul(&v)?
            .reshape((rows, heads, len, d / heads))?
            .transpose(1, 2)?
            .reshape((rows * len, d))?;
        nn::add_rows(&mixed.matmul(&self.out)?, &self.out_bias)
    }

    fn feed(&self, x: &Tensor) -> Result<Tensor> {
        let up = nn::add_rows(&x.matmul(&self.up)?, &self.up_bias)?.relu()?;
        nn::add_rows(&up.matmul(&self.down)?, &self.down_bias)
    }
}

/// Histories, left-padded, as the network takes them.
pub struct Batch {
    rows: usize,
    /// `[rows * L]`; padding has any id, as nothing ever looks at it.
    ids: Tensor,
    /// Padding of each row, once a head.
    pads: Arc<Vec<usize>>,
}

impl Batch {
    /// Histories of at most `L` items each, oldest first.
    pub fn new(histories: &[&[u32]], config: &Config) -> Result<Self> {
        let (rows, len) = (histories.len(), config.len);
        let mut ids = vec![0_u32; rows * len];
        let mut pads = Vec::with_capacity(rows * config.heads);
        for (row, history) in ids.chunks_exact_mut(len).zip(histories) {
            let pad = len - history.len();
            row[pad..].copy_from_slice(history);
            pads.extend(std::iter::repeat_n(pad, config.heads));
        }
        Ok(Self { rows, ids: Tensor::from_vec(ids, rows * len, &Device::Cpu)?, pads: Arc::new(pads) })
    }
}

impl Net {
    /// A network that knows nothing yet.
    pub fn new(config: &Config, items: usize, rng: &mut Rng) -> Result<Self> {
        Ok(Self {
            items: nn::normal_var(rng, INIT_STD, &[items, config.dim])?,
            item_bias: nn::constant_var(0.0, &[items])?,
            positions: nn::normal_var(rng, INIT_STD, &[config.len, config.dim])?,
            blocks: (0..config.blocks).map(|_| Block::new(config, rng)).collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// All weights, always in the same order.
    pub fn vars(&self) -> Vec<Var> {
        let mut vars = vec![self.items.clone(), self.item_bias.clone(), self.positions.clone()];
        vars.extend(self.blocks.iter().flat_map(Block::vars).cloned());
        vars
    }

    /// What the network makes of every position: `[rows * L, D]`, normalized. With `rng`, values are dropped.
    pub fn hidden(&self, batch: &Batch, mut rng: Option<&mut Rng>) -> Result<Tensor> {
        let (len, share) = (self.config.len, self.config.dropout);
        let embedded = (self.items.index_select(&batch.ids, 0)? * self.config.embedding_scale())?;
        let flat = embedded.reshape((batch.rows, len * self.config.dim))?;
        let mut x = nn::add_rows(&flat, &self.positions)?.reshape((batch.rows * len, self.config.dim))?;
        x = nn::dropout(&x, share, rng.as_deref_mut())?;
        for block in &self.blocks {
            let mixed = block.attend(&nn::normalize(&x)?, batch, &self.config)?;
            x = (x + nn::dropout(&mixed, share, rng.as_deref_mut())?)?;
            let fed = block.feed(&nn::normalize(&x)?)?;
            x = (x + nn::dropout(&fed, share, rng.as_deref_mut())?)?;
        }
        nn::normalize(&x)
    }

    /// Scores of all items after each history: `[rows, items]`, flattened.
    pub fn scores(&self, histories: &[&[u32]]) -> Result<Vec<f32>> {
        let batch = Batch::new(histories, &self.config)?;
        let last = self
            .hidden(&batch, None)?
            .reshape((batch.rows, self.config.len, self.config.dim))?
            .narrow(1, self.config.len - 1, 1)?
            .squeeze(1)?
            .contiguous()?;
        last.matmul(&self.items.t()?)?.broadcast_add(&self.item_bias)?.flatten_all()?.to_vec1()
    }
}

/// The latest `len` of a history.
pub fn latest(history: &[u32], len: usize) -> &[u32] {
    &history[history.len().saturating_sub(len)..]
}
