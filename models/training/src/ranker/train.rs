//! Fitting by log-loss with early stopping, and calibration on validation.

use candle_core::{Result, Tensor, Var};

use super::rows::{Batch, Parts, RowShape, Rows};
use super::{CPU, Config, Net, sigmoid};
use crate::metrics;
use crate::nn::Adam;
use crate::progress::Progress;
use crate::rng::Rng;

/// A model that gives log-odds.
pub trait Model {
    /// All weights, always in the same order.
    fn vars(&self) -> Vec<Var>;
    /// `[rows]` log-odds. With `rng`, values are dropped.
    fn logits(&self, batch: &Batch, rng: Option<&mut Rng>) -> Result<Tensor>;
}

impl Model for Net {
    fn vars(&self) -> Vec<Var> {
        Net::vars(self)
    }

    fn logits(&self, batch: &Batch, rng: Option<&mut Rng>) -> Result<Tensor> {
        Net::logits(self, batch, rng)
    }
}

/// How a model is fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Learning rate.
    pub rate: f64,
    /// Decoupled weight decay.
    pub decay: f64,
    /// Rows in a step.
    pub batch: usize,
    /// Most passes over the data.
    pub epochs_max: usize,
    /// Validations without a better log-loss before it stops.
    pub patience: usize,
    /// Validations a pass.
    pub checks: usize,
}

impl From<&Config> for Fit {
    fn from(config: &Config) -> Self {
        Self {
            rate: config.rate,
            decay: config.decay,
            batch: config.batch,
            epochs_max: config.epochs_max,
            patience: config.patience,
            checks: config.checks,
        }
    }
}

/// Scale and offset that make log-odds honest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Platt {
    /// Factor.
    pub scale: f32,
    /// Summand.
    pub offset: f32,
}

impl Platt {
    /// The probability that a raw log-odds stands for.
    pub fn probability(self, logit: f32) -> f32 {
        sigmoid(logit * self.scale + self.offset)
    }
}

/// How far to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Until the log-loss on validation no longer gets better; the best weights are kept.
    Validation,
    /// Exactly so many steps.
    Steps(usize),
}

/// A trained ranker.
pub struct Trained {
    /// The network.
    pub net: Net,
    /// Fitted on validation.
    pub platt: Platt,
    /// Steps that its weights have seen.
    pub steps: usize,
    /// Validation log-loss, calibrated.
    pub valid_log_loss: f64,
}

/// Trains and calibrates a ranker. The same seed gives the same one.
pub fn train(parts: &Parts, config: &Config, seed: u64, progress: &Progress) -> Result<Trained> {
    let mut rng = Rng::new(seed);
    let net = Net::new(config, parts.shape, &mut rng)?;
    let steps = fit(&net, parts, &Fit::from(config), Stop::Validation, &mut rng, progress)?;
    let logits = score(&net, parts.shape, &parts.valid)?;
    let platt = calibrate(&logits, &parts.valid.labels);
    let p: Vec<f32> = logits.iter().map(|&l| platt.probability(l)).collect();
    Ok(Trained { net, platt, steps, valid_log_loss: metrics::log_loss(&p, &parts.valid.labels) })
}

/// Trains a ranker for exactly so many steps on all of `parts.train`: the served one, whose steps and calibration came from
/// a part of the same data.
pub fn refit(parts: &Parts, config: &Config, steps: usize, seed: u64, progress: &Progress) -> Result<Net> {
    let mut rng = Rng::new(seed);
    let net = Net::new(config, parts.shape, &mut rng)?;
    fit(&net, parts, &Fit::from(config), Stop::Steps(steps), &mut rng, progress)?;
    Ok(net)
}

/// Share of the weights' average that a step keeps.
const MEMORY: f32 = 0.99;

/// Fits a model to the training part and says after how many steps its weights came.
pub fn fit(
    model: &impl Model,
    parts: &Parts,
    fit: &Fit,
    stop: Stop,
    rng: &mut Rng,
    progress: &Progress,
) -> Result<usize> {
    let vars = model.vars();
    let mut adam = Adam::new(&vars, fit.rate, fit.decay, MEMORY)?;
    let mut order: Vec<usize> = (0..parts.train.len()).collect();
    let steps_a_pass = order.len().div_ceil(fit.batch);
    let check_every = steps_a_pass.div_ceil(fit.checks.max(1));
    let steps_max = match stop {
        Stop::Validation => fit.epochs_max * steps_a_pass,
        Stop::Steps(steps) => steps,
    };
    let mut best = Best { loss: f64::INFINITY, steps: 0, weights: Vec::new() };
    let (mut loss, mut since) = (0.0, 0.0);
    for steps in 1..=steps_max {
        let from = (steps - 1) % steps_a_pass * fit.batch;
        if from == 0 {
            rng.shuffle(&mut order);
        }
        let places = &order[from..order.len().min(from + fit.batch)];
        loss += step(model, &mut adam, &parts.train, parts.shape, places, rng)?;
        since += 1.0;
        if steps % check_every != 0 && steps != steps_max {
            continue;
        }
        let shown = match stop {
            Stop::Validation => {
                adam.show_average()?;
                let valid = best.check(model, parts, steps)?;
                adam.show_values()?;
                format!("  validation {valid:.4}")
            }
            Stop::Steps(_) => String::new(),
        };
        progress.step(steps, steps_max, &format!("loss {:.4}{shown}", loss / since));
        (loss, since) = (0.0, 0.0);
        if stop == Stop::Validation && steps - best.steps >= fit.patience * check_every {
            break;
        }
    }
    if stop == Stop::Validation {
        vars.iter().zip(&best.weights).try_for_each(|(var, weights): (&Var, &Tensor)| var.set(weights))?;
        return Ok(best.steps);
    }
    adam.show_average()?;
    Ok(steps_max)
}

/// The weights with the best log-loss on validation so far.
struct Best {
    loss: f64,
    steps: usize,
    weights: Vec<Tensor>,
}

impl Best {
    /// The log-loss on validation; the weights are kept if it is the best.
    fn check(&mut self, model: &impl Model, parts: &Parts, steps: usize) -> Result<f64> {
        let p: Vec<f32> = score(model, parts.shape, &parts.valid)?.into_iter().map(sigmoid).collect();
        let loss = metrics::log_loss(&p, &parts.valid.labels);
        if loss < self.loss {
            self.weights = model.vars().iter().map(|var| var.as_tensor().copy()).collect::<Result<_>>()?;
            (self.loss, self.steps) = (loss, steps);
        }
        Ok(loss)
    }
}

/// One step; gives the mean log-loss of its rows.
fn step(
    model: &impl Model,
    adam: &mut Adam,
    rows: &Rows,
    shape: RowShape,
    places: &[usize],
    rng: &mut Rng,
) -> Result<f64> {
    let (batch, labels) = rows.batch(shape, places)?;
    let logits = model.logits(&batch, Some(rng))?;
    let values: Vec<f32> = logits.to_vec1()?;
    #[expect(clippy::cast_precision_loss, reason = "batches are small")]
    let n = labels.len() as f32;
    // The gradient of the mean log-loss by the log-odds is (p - y) / n.
    let slopes: Vec<f32> = values.iter().zip(&labels).map(|(l, y)| (sigmoid(*l) - y) / n).collect();
    let surrogate = (logits * Tensor::from_vec(slopes, labels.len(), &CPU)?)?.sum_all()?;
    adam.step(&surrogate.backward()?)?;
    let p: Vec<f32> = values.into_iter().map(sigmoid).collect();
    let liked: Vec<bool> = labels.iter().map(|&y| y > 0.5).collect();
    Ok(metrics::log_loss(&p, &liked))
}

/// Rows scored at once.
const SCORE_ROWS: usize = 2048;

/// Log-odds of all rows.
pub fn score(model: &impl Model, shape: RowShape, rows: &Rows) -> Result<Vec<f32>> {
    let places: Vec<usize> = (0..rows.len()).collect();
    let mut logits = Vec::with_capacity(rows.len());
    for places in places.chunks(SCORE_ROWS) {
        logits.extend(model.logits(&rows.batch(shape, places)?.0, None)?.to_vec1::<f32>()?);
    }
    Ok(logits)
}

/// Rounds of Newton's method; it converges in a handful.
const NEWTON_ROUNDS: usize = 30;

/// Scale and offset with the highest likelihood (Platt, 1999), by Newton's method on standardized log-odds, where it cannot
/// overshoot far.
///
/// Where all labels are alike there is nothing to fit: the log-odds stay as they are.
pub fn calibrate(logits: &[f32], labels: &[bool]) -> Platt {
    if labels.iter().all(|liked| *liked) || !labels.contains(&true) {
        return Platt { scale: 1.0, offset: 0.0 };
    }
    let values: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let spread = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt().max(1e-6);
    let (mut a, mut b) = (0.0_f64, 0.0_f64);
    for _ in 0..NEWTON_ROUNDS {
        let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 1e-6, 0.0, 1e-6);
        for (x, &liked) in values.iter().zip(labels) {
            let x = (x - mean) / spread;
            let p = 1.0 / (1.0 + (-(a * x + b)).exp());
            let (error, weight) = (p - if liked { 1.0 } else { 0.0 }, p * (1.0 - p));
            ga += error * x;
            gb += error;
            haa += weight * x * x;
            hab += weight * x;
            hbb += weight;
        }
        let determinant = haa * hbb - hab * hab;
        if determinant.abs() < 1e-12 {
            break;
        }
        let (da, db) = ((hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant);
        (a, b) = (a - da, b - db);
        if da.abs() + db.abs() < 1e-10 {
            break;
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    Platt { scale: (a / spread) as f32, offset: (b - a * mean / spread) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranker::baselines;
    use crate::ranker::rows::{EVALUATION, parts};
    use crate::split::Vocabulary;
    use crate::testing::circles;

    #[test]
    fn it_learns_whose_half_is_whose() {
        let data = circles(150, 40);
        let parts = parts(&data, &Vocabulary::new(&data, 1, 1000), EVALUATION).unwrap();
        let config = Config { rate: 2e-3, epochs_max: 6, ..Config::default() };
        let trained = train(&parts, &config, 1, &Progress::quiet()).unwrap();
        let logits = score(&trained.net, parts.shape, &parts.test).unwrap();
        // All items are equally popular, so their means tell nothing; 5% of the labels are noise.
        let ours = metrics::auc(&logits, &parts.test.labels);
        let mean = metrics::auc(&baselines::item_mean(&parts), &parts.test.labels);
        assert!(ours > 0.85 && mean < 0.65, "{ours} {mean}");
        let p: Vec<f32> = logits.iter().map(|&l| trained.platt.probability(l)).collect();
        let ratio = metrics::calibration(&p, &parts.test.labels);
        assert!((0.9..1.1).contains(&ratio), "{ratio}");

        let again = refit(&parts, &config, 5, 9, &Progress::quiet()).unwrap();
        let twin = refit(&parts, &config, 5, 9, &Progress::quiet()).unwrap();
        let weights = |net: &Net| net.table.to_vec2::<f32>().unwrap();
        assert_eq!(weights(&again), weights(&twin));
    }

    #[test]
    fn labels_that_are_all_alike_calibrate_nothing() {
        for labels in [[true; 3], [false; 3]] {
            assert_eq!(calibrate(&[0.5, 1.0, -2.0], &labels), Platt { scale: 1.0, offset: 0.0 });
        }
    }

    #[test]
    fn calibration_undoes_a_known_distortion() {
        let mut rng = Rng::new(9);
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..50_000 {
            #[expect(clippy::cast_possible_truncation, reason = "a draw")]
            let logit = rng.normal() as f32;
            // True log-odds are half of what the model says, less 0.4.
            labels.push(rng.uniform() < f64::from(sigmoid(0.5 * logit - 0.4)));
            logits.push(logit);
        }
        // Far from the middle, where a plain Newton step from 0 would overshoot.
        let moved: Vec<f32> = logits.iter().map(|l| l + 9.0).collect();
        let platt = calibrate(&moved, &labels);
        assert!((platt.scale - 0.5).abs() < 0.04 && (platt.offset + 4.9).abs() < 0.4, "{platt:?}");
        let platt = calibrate(&logits, &labels);
        assert!((platt.scale - 0.5).abs() < 0.04 && (platt.offset + 0.4).abs() < 0.04, "{platt:?}");
        let p: Vec<f32> = logits.iter().map(|&l| platt.probability(l)).collect();
        assert!((metrics::calibration(&p, &labels) - 1.0).abs() < 1e-3);
    }
}
