//! What the ranker stands beside: logistic regression on the same features, and an item's mean rating.

use candle_core::{Result, Tensor, Var};

use super::rows::{Batch, Parts, RowShape};
use super::train::{Fit, Model, Platt, Stop, calibrate, fit, score};
use crate::metrics;
use crate::nn;
use crate::progress::Progress;
use crate::rng::Rng;

/// Logistic regression over all fields (one-hot) and numbers.
pub struct Logistic {
    fields: usize,
    /// `[ids, 1]`.
    table: Var,
    /// `[D, 1]`.
    weights: Var,
    /// `[1]`.
    bias: Var,
}

impl Logistic {
    fn new(shape: RowShape) -> Result<Self> {
        Ok(Self {
            fields: shape.fields,
            table: nn::constant_var(0.0, &[shape.table_len, 1])?,
            weights: nn::constant_var(0.0, &[shape.dense, 1])?,
            bias: nn::constant_var(0.0, &[1])?,
        })
    }
}

impl Model for Logistic {
    fn vars(&self) -> Vec<Var> {
        vec![self.table.clone(), self.weights.clone(), self.bias.clone()]
    }

    fn logits(&self, batch: &Batch, _rng: Option<&mut Rng>) -> Result<Tensor> {
        let wide = self.table.index_select(&batch.fields, 0)?.reshape((batch.rows, self.fields))?.sum(1)?;
        let numbers = batch.dense.matmul(&self.weights)?;
        nn::add_rows(&numbers, &self.bias)?.squeeze(1)? + wide
    }
}

/// Weight decays to choose from.
const DECAYS: [f64; 3] = [0.01, 0.1, 0.5];

/// The logistic regression whose decay is best on validation, and its calibration.
pub fn logistic(parts: &Parts, seed: u64, progress: &Progress) -> Result<(Logistic, Platt)> {
    let mut best: Option<(f64, Logistic, Platt)> = None;
    for decay in DECAYS {
        let model = Logistic::new(parts.shape)?;
        let how = Fit { rate: 2e-3, decay, batch: 512, epochs_max: 20, patience: 4, checks: 2 };
        fit(&model, parts, &how, Stop::Validation, &mut Rng::new(seed), progress)?;
        let logits = score(&model, parts.shape, &parts.valid)?;
        let platt = calibrate(&logits, &parts.valid.labels);
        let p: Vec<f32> = logits.iter().map(|&l| platt.probability(l)).collect();
        let loss = metrics::log_loss(&p, &parts.valid.labels);
        if best.as_ref().is_none_or(|(least, ..)| loss < *least) {
            best = Some((loss, model, platt));
        }
    }
    let (_, model, platt) = best.expect("there are decays to choose from");
    Ok((model, platt))
}

/// Probabilities of the test rows from the item's mean stars alone, calibrated on validation.
pub fn item_mean(parts: &Parts) -> Vec<f32> {
    let platt = calibrate(&parts.valid.item_mean, &parts.valid.labels);
    parts.test.item_mean.iter().map(|&mean| platt.probability(mean)).collect()
}
