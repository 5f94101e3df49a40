//! Training of [`Net`]: every epoch cuts each history into windows at a new random offset, and every position of a window
//! predicts the item that came next.

use candle_core::{Device, Result, Tensor, Var};

use super::{Batch, Config, Net, latest};
use crate::metrics;
use crate::nn::{self, Adam};
use crate::progress::Progress;
use crate::rng::Rng;
use crate::split::{Case, Split};

/// How far to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Until validation no longer gets better; the best weights are kept.
    Validation,
    /// Exactly so many epochs, on the validation items too.
    Epochs(usize),
}

/// A trained network and how it got there.
pub struct Trained {
    /// The network.
    pub net: Net,
    /// Epochs that its weights have seen.
    pub epochs: usize,
    /// Validation NDCG@10 over all items, if validation was used.
    pub ndcg_at_10: Option<f64>,
}

/// Items are ranked to this place.
pub const K: usize = 10;
/// Rows scored at once.
const SCORE_ROWS: usize = 128;

/// Trains a network on `split`. The same seed gives the same network.
pub fn train(split: &Split, config: &Config, stop: Stop, seed: u64, progress: &Progress) -> Result<Trained> {
    let mut rng = Rng::new(seed);
    let net = Net::new(config, split.items, &mut rng)?;
    let mut adam = Adam::new(&net.vars(), config.rate, config.decay, config.memory)?;
    let histories: Vec<Vec<u32>> = split.cases.iter().map(|case| material(case, stop)).collect();
    let epochs_max = match stop {
        Stop::Validation => config.epochs_max,
        Stop::Epochs(epochs) => epochs,
    };
    let mut best = Best::default();
    let mut steps = 0;
    for epoch in 1..=epochs_max {
        let loss = one_epoch(&net, &mut adam, &histories, &mut steps, &mut rng)?;
        let valid = match stop {
            Stop::Validation => {
                adam.show_average()?;
                Some(validate(&net, split)?)
            }
            Stop::Epochs(_) => None,
        };
        let shown = valid.map_or_else(String::new, |v| format!("  validation NDCG@{K} {v:.4}"));
        progress.step(epoch, epochs_max, &format!("loss {loss:.4}{shown}"));
        if let Some(valid) = valid {
            best.offer(valid, epoch, &net)?;
            if epoch - best.epoch >= config.patience {
                break;
            }
            adam.show_values()?;
        }
    }
    adam.show_average()?;
    let (epochs, ndcg_at_10) = match stop {
        Stop::Validation => (best.restore(&net)?, Some(best.ndcg)),
        Stop::Epochs(epochs) => (epochs, None),
    };
    Ok(Trained { net, epochs, ndcg_at_10 })
}

/// The items of one visitor to train on.
fn material(case: &Case, stop: Stop) -> Vec<u32> {
    match stop {
        Stop::Validation => case.train.clone(),
        Stop::Epochs(_) => case.known(),
    }
}

/// The weights with the best validation so far.
#[derive(Default)]
struct Best {
    ndcg: f64,
    epoch: usize,
    weights: Vec<Tensor>,
}

impl Best {
    fn offer(&mut self, ndcg: f64, epoch: usize, net: &Net) -> Result<()> {
        if ndcg > self.ndcg || self.weights.is_empty() {
            self.weights = net.vars().iter().map(|var| var.as_tensor().copy()).collect::<Result<_>>()?;
            (self.ndcg, self.epoch) = (ndcg, epoch);
        }
        Ok(())
    }

    fn restore(&self, net: &Net) -> Result<usize> {
        net.vars().iter().zip(&self.weights).try_for_each(|(var, weights): (&Var, _)| var.set(weights))?;
        Ok(self.epoch)
    }
}

/// Cuts histories into windows of at most `len` inputs, each with the items that follow them. The offset is random, so
/// that an item is seen at different positions.
fn windows<'a>(histories: &'a [Vec<u32>], len: usize, rng: &mut Rng) -> Vec<&'a [u32]> {
    let mut windows = Vec::new();
    for history in histories {
        let mut end = history.len();
        let mut take = if history.len() > len + 1 { 1 + len / 2 + rng.below(len / 2 + 1) } else { len + 1 };
        while end >= 2 {
            let from = end.saturating_sub(take.max(2));
            windows.push(&history[from..end]);
            // The first item of a window has no input of its own, so it is the last of the next one.
            end = from + usize::from(from > 0);
            take = len + 1;
        }
    }
    rng.shuffle(&mut windows);
    windows
}

fn one_epoch(
    net: &Net,
    adam: &mut Adam,
    histories: &[Vec<u32>],
    steps: &mut usize,
    rng: &mut Rng,
) -> Result<f64> {
    let config = &net.config;
    let windows = windows(histories, config.len, rng);
    let (mut loss, mut count) = (0.0, 0.0);
    for windows in windows.chunks(config.batch) {
        *steps += 1;
        #[expect(clippy::cast_precision_loss, reason = "step counts are small")]
        let warmth = (*steps as f64 / config.warm_up.max(1) as f64).min(1.0);
        adam.rate = config.rate * warmth;
        let inputs: Vec<&[u32]> = windows.iter().map(|w| &w[..w.len() - 1]).collect();
        let (rows, targets) = targets(windows, config.len);
        #[expect(clippy::cast_precision_loss, reason = "batches are small")]
        let n = targets.len() as f64;
        let hidden = net.hidden(&Batch::new(&inputs, config)?, Some(rng))?.index_select(&rows, 0)?;
        let (step_loss, surrogate) = cross_entropy(&hidden, net, &targets)?;
        adam.step(&surrogate.backward()?)?;
        loss += step_loss * n;
        count += n;
    }
    Ok(loss / f64::max(count, 1.0))
}

/// Which rows of the flattened batch predict something, and what.
fn targets(windows: &[&[u32]], len: usize) -> (Tensor, Vec<u32>) {
    let mut rows = Vec::new();
    let mut targets = Vec::new();
    for (row, window) in windows.iter().enumerate() {
        let first = (row + 1) * len - (window.len() - 1);
        rows.extend((first..(row + 1) * len).map(|at| u32::try_from(at).expect("batches are small")));
        targets.extend_from_slice(&window[1..]);
    }
    let rows = Tensor::new(rows, &Device::Cpu).expect("a list of numbers is a tensor");
    (rows, targets)
}

/// Softmax cross entropy over all items, and a scalar with the same gradients. The gradients of the widest layer are made
/// here in two matrix products instead of by the graph, which would copy the `[positions, items]` scores some ten times.
fn cross_entropy(hidden: &Tensor, net: &Net, targets: &[u32]) -> Result<(f64, Tensor)> {
    let items = net.items.as_tensor().detach();
    let fixed = hidden.detach();
    let (n, width) = (targets.len(), items.dim(0)?);
    let mut p: Vec<f32> = fixed.matmul(&items.t()?)?.flatten_all()?.to_vec1()?;
    let bias: Vec<f32> = net.item_bias.to_vec1()?;
    let mut bias_grad = vec![0.0; width];
    let mut loss = 0.0;
    #[expect(clippy::cast_precision_loss, reason = "batches are small")]
    let scale = 1.0 / n as f32;
    for (row, &target) in p.chunks_exact_mut(width).zip(targets) {
        row.iter_mut().zip(&bias).for_each(|(x, b)| *x += b);
        nn::softmax_row(row, 1.0);
        loss -= f64::from(row[target as usize].max(f32::MIN_POSITIVE)).ln();
        row[target as usize] -= 1.0;
        row.iter_mut().zip(&mut bias_grad).for_each(|(p, sum)| {
            *p *= scale;
            *sum += *p;
        });
    }
    let p = Tensor::from_vec(p, (n, width), &Device::Cpu)?;
    let bias_grad = Tensor::from_vec(bias_grad, width, &Device::Cpu)?;
    let by_hidden = (hidden * p.matmul(&items)?)?.sum_all()?;
    let by_items = (net.items.as_tensor() * p.t()?.matmul(&fixed)?)?.sum_all()?;
    let by_bias = (net.item_bias.as_tensor() * bias_grad)?.sum_all()?;
    #[expect(clippy::cast_precision_loss, reason = "batches are small")]
    Ok((loss / n as f64, ((by_hidden + by_items)? + by_bias)?))
}

/// NDCG@10 of the validation items over all items, what was trained on masked.
fn validate(net: &Net, split: &Split) -> Result<f64> {
    let cases: Vec<(&Case, u32, &[u32])> = split
        .cases
        .iter()
        .filter_map(|case| case.valid.map(|(item, at)| (case, item, &case.train[..at])))
        .filter(|(_, _, before)| !before.is_empty())
        .collect();
    let mut ndcg = Vec::with_capacity(cases.len());
    for chunk in cases.chunks(SCORE_ROWS) {
        let histories: Vec<&[u32]> =
            chunk.iter().map(|(_, _, before)| latest(before, net.config.len)).collect();
        let scores = net.scores(&histories)?;
        for ((case, item, _), scores) in chunk.iter().zip(scores.chunks_exact(split.items)) {
            let mut met = vec![false; split.items];
            case.train.iter().for_each(|&item| met[item as usize] = true);
            let others = (0..).take(split.items).filter(|&item| !met[item as usize]);
            ndcg.push(metrics::ndcg(metrics::rank(scores, *item, others), K));
        }
    }
    Ok(metrics::estimate(&ndcg).mean)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::split::{self, Vocabulary};
    use crate::testing::circles;

    fn small() -> Config {
        Config {
            len: 8,
            dim: 16,
            hidden: 16,
            heads: 2,
            dropout: 0.1,
            rate: 5e-3,
            batch: 16,
            epochs_max: 25,
            patience: 5,
            ..Config::default()
        }
    }

    #[test]
    fn it_learns_what_follows_what() {
        let data = circles(120, 20);
        let vocabulary = Vocabulary::new(&data, 1, 1000);
        let split = split::leave_one_out(&data, &vocabulary);
        let trained = train(&split, &small(), Stop::Validation, 1, &Progress::quiet()).unwrap();
        // One of some twenty items that are left follows; a step aside can hide which. Chance would be 0.2.
        assert!(trained.ndcg_at_10.unwrap() > 0.7, "{:?}", trained.ndcg_at_10);
        let history: Vec<u32> = (3..11).collect();
        let scores = trained.net.scores(&[&history]).unwrap();
        let unseen = (0..).zip(&scores).filter(|(item, _)| !history.contains(item));
        let best = unseen.max_by(|a: &(u32, _), b| a.1.total_cmp(b.1)).unwrap().0;
        assert!((11..=12).contains(&best), "after 3 to 10 comes {best}");
    }

    #[test]
    fn the_same_seed_gives_the_same_network() {
        let data = circles(20, 15);
        let vocabulary = Vocabulary::new(&data, 1, 1000);
        let split = split::leave_one_out(&data, &vocabulary);
        let run = |seed| {
            let trained = train(&split, &small(), Stop::Epochs(2), seed, &Progress::quiet()).unwrap();
            trained.net.items.to_vec2::<f32>().unwrap()
        };
        assert_eq!(run(4), run(4));
        assert_ne!(run(4), run(5));
    }

    #[test]
    fn windows_predict_every_step_once() {
        let histories: Vec<Vec<u32>> = vec![(0..57).collect(), (100..104).collect(), vec![7], vec![]];
        for seed in 0..50 {
            let mut steps: BTreeMap<(u32, u32), usize> = BTreeMap::new();
            for window in windows(&histories, 10, &mut Rng::new(seed)) {
                assert!((2..=11).contains(&window.len()));
                window.windows(2).for_each(|pair| *steps.entry((pair[0], pair[1])).or_default() += 1);
            }
            assert_eq!(steps.len(), 56 + 3, "seed {seed}");
            assert!(steps.values().all(|&times| times == 1), "seed {seed}: {steps:?}");
        }
    }
}
