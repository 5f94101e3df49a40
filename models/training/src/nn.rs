//! The few building blocks that candle's core lacks or is slow at: seeded initial values and dropout, normalization and
//! softmax as one pass each way, and Adam.

use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, Var, backprop::GradStore, bail,
};

use crate::rng::Rng;

/// A trained matrix (or vector), drawn from a normal distribution.
pub fn normal_var(rng: &mut Rng, std: f64, shape: &[usize]) -> Result<Var> {
    let len = shape.iter().product();
    #[expect(clippy::cast_possible_truncation, reason = "initial values need no more than f32")]
    let values: Vec<f32> = (0..len).map(|_| (rng.normal() * std) as f32).collect();
    Var::from_vec(values, shape, &candle_core::Device::Cpu)
}

/// A trained vector of one value.
pub fn constant_var(value: f32, shape: &[usize]) -> Result<Var> {
    Var::from_vec(vec![value; shape.iter().product()], shape, &candle_core::Device::Cpu)
}

/// Sets a share of the values to 0 and scales the rest, so that the mean stays (Srivastava et al., 2014). Without `rng`
/// (inference) nothing happens. The share is rounded to 1/256.
pub fn dropout(x: &Tensor, share: f64, rng: Option<&mut Rng>) -> Result<Tensor> {
    let Some(rng) = rng else { return Ok(x.clone()) };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share times 256")]
    let below = (share * 256.0).round() as u8;
    if below == 0 {
        return Ok(x.clone());
    }
    let keep = 256.0 / (256.0 - f32::from(below));
    let len = x.elem_count();
    let mut mask = Vec::with_capacity(len + 8);
    while mask.len() < len {
        let bytes = rng.next_u64().to_le_bytes();
        mask.extend(bytes.map(|byte| if byte < below { 0.0 } else { keep }));
    }
    mask.truncate(len);
    x * Tensor::from_vec(mask, x.shape(), x.device())?
}

/// Layer normalization without scale and shift (Ba et al., 2016): the linear layer that follows has both.
pub fn normalize(x: &Tensor) -> Result<Tensor> {
    x.apply_op1(Normalize)
}

/// Causal attention weights (Vaswani et al., 2017): softmax of `scale` times each row of `[N, L, L]` over the positions that
/// a query may look at, 0 elsewhere. The first `pads[n]` positions of square `n` are padding; where everything is, all
/// weights are 0.
pub fn causal_softmax(scores: &Tensor, pads: Arc<Vec<usize>>, scale: f32) -> Result<Tensor> {
    scores.apply_op1(CausalSoftmax { pads, scale })
}

/// Adds a vector to every row of `[N, D]`.
pub fn add_rows(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    x.apply_op2(row, AddRows)
}

/// e^x to 2 parts in 10 million, from -87 on; 0 below. Vectorizes, which the C library's does not: a step of training takes
/// some five million of these. Cephes' polynomial for 2^f on [-0.5, 0.5].
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let f = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * f + c;
    }
    let e = p * f * f + f + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { e * power }
}

/// Added to the variance before its root is taken.
pub const NORMALIZE_EPSILON: f32 = 1e-5;

struct Normalize;
struct NormalizeBack;
struct CausalSoftmax {
    pads: Arc<Vec<usize>>,
    scale: f32,
}
struct SoftmaxBack {
    scale: f32,
}
struct AddRows;
struct SumRows(usize);

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&values[from..to]),
        _ => bail!("needs contiguous f32 values"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "rows are short")]
fn moments(row: &[f32]) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = sum(row) / n;
    let variance = (dot(row, row) / n - mean * mean).max(0.0);
    (mean, 1.0 / (variance + NORMALIZE_EPSILON).sqrt())
}

fn last_dim(layout: &Layout) -> Result<usize> {
    match layout.dims().last() {
        Some(&len) if len > 0 => Ok(len),
        _ => bail!("needs rows"),
    }
}

impl CustomOp1 for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = slice(storage, layout)?.to_vec();
        for row in out.chunks_exact_mut(last_dim(layout)?) {
            let (mean, scale) = moments(row);
            row.iter_mut().for_each(|x| *x = (*x - mean) * scale);
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(arg.contiguous()?.apply_op2_no_bwd(&grad.contiguous()?, &NormalizeBack)?))
    }
}

impl CustomOp2 for NormalizeBack {
    fn name(&self) -> &'static str {
        "normalize-back"
    }

    #[expect(clippy::cast_precision_loss, reason = "rows are short")]
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let len = last_dim(lx)?;
        let n = len as f32;
        let mut out = slice(g, lg)?.to_vec();
        for (g, x) in out.chunks_exact_mut(len).zip(slice(x, lx)?.chunks_exact(len)) {
            let (mean, scale) = moments(x);
            let grad_mean = sum(g) / n;
            let along = (dot(g, x) / n - mean * grad_mean) * scale * scale;
            g.iter_mut().zip(x).for_each(|(g, x)| *g = scale * (*g - grad_mean - (x - mean) * along));
        }
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

/// Sum in 16 lanes, which vectorizes and is more exact than one after the other.
pub fn sum(values: &[f32]) -> f32 {
    let chunks = values.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    let mut lanes = [0.0_f32; 16];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += x);
    }
    lanes.iter().sum::<f32>() + rest
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
    }
    lanes.iter().sum::<f32>() + rest
}

/// Largest value.
pub fn largest(values: &[f32]) -> f32 {
    let chunks = values.chunks_exact(16);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane = if x > *lane { x } else { *lane });
    }
    lanes.iter().copied().fold(rest, f32::max)
}

/// Softmax of `scale` times one row, in place.
pub fn softmax_row(row: &mut [f32], scale: f32) {
    let max = largest(row);
    row.iter_mut().for_each(|x| *x = exp((*x - max) * scale));
    let norm = 1.0 / sum(row);
    row.iter_mut().for_each(|x| *x *= norm);
}

impl CausalSoftmax {
    /// The square, the query and the positions it may look at, for every row of `[N, L, L]`.
    fn rows(&self, len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.pads.iter().flat_map(move |&pad| (0..len).map(move |query| pad.min(query + 1)..query + 1))
    }
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let len = last_dim(layout)?;
        let scores = slice(storage, layout)?;
        let mut out = vec![0.0; scores.len()];
        for ((from, to), seen) in scores
            .chunks_exact(len)
            .zip(out.chunks_exact_mut(len))
            .zip(self.rows(len))
            .filter(|(_, s)| !s.is_empty())
        {
            to[seen.clone()].copy_from_slice(&from[seen.clone()]);
            softmax_row(&mut to[seen], self.scale);
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(res.apply_op2_no_bwd(&grad.contiguous()?, &SoftmaxBack { scale: self.scale })?))
    }
}

impl CustomOp2 for SoftmaxBack {
    fn name(&self) -> &'static str {
        "softmax-back"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        ly: &Layout,
        g: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let len = last_dim(ly)?;
        let mut out = slice(g, lg)?.to_vec();
        for (g, y) in out.chunks_exact_mut(len).zip(slice(y, ly)?.chunks_exact(len)) {
            g.iter_mut().zip(y).for_each(|(g, y)| *g *= y);
            let dot = sum(g);
            g.iter_mut().zip(y).for_each(|(g, y)| *g = self.scale * (*g - y * dot));
        }
        Ok((CpuStorage::F32(out), ly.shape().clone()))
    }
}

impl CustomOp2 for AddRows {
    fn name(&self) -> &'static str {
        "add-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        row: &CpuStorage,
        lr: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (mut out, row) = (slice(x, lx)?.to_vec(), slice(row, lr)?);
        if row.is_empty() || out.len() % row.len() != 0 {
            bail!("rows of {} do not fit {} values", row.len(), out.len());
        }
        for x in out.chunks_exact_mut(row.len()) {
            x.iter_mut().zip(row).for_each(|(x, r)| *x += r);
        }
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        row: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let summed = grad.contiguous()?.apply_op1_no_bwd(&SumRows(row.elem_count()))?;
        Ok((Some(grad.clone()), Some(summed.reshape(row.shape())?)))
    }
}

impl CustomOp1 for SumRows {
    fn name(&self) -> &'static str {
        "sum-rows"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = vec![0.0; self.0];
        for row in slice(storage, layout)?.chunks_exact(self.0) {
            out.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        Ok((CpuStorage::F32(out), Shape::from(self.0)))
    }
}

/// Adam (Kingma & Ba, 2015) with decoupled weight decay (Loshchilov & Hutter, 2019).
///
/// Beside the weights runs their exponential average (Polyak & Juditsky, 1992), which is what gets validated and served: it
/// moves more steadily, so that early stopping chases less noise.
pub struct Adam {
    /// Learning rate of the next step.
    pub rate: f64,
    decay: f64,
    memory: f32,
    step: i32,
    slots: Vec<Slot>,
}

struct Slot {
    var: Var,
    value: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
    average: Vec<f32>,
    decays: bool,
}

impl Slot {
    fn show(&self, values: &[f32]) -> Result<()> {
        self.var.set(&Tensor::from_slice(values, self.var.shape(), self.var.device())?)
    }
}

const BETA_MEAN: f32 = 0.9;
const BETA_SQUARE: f32 = 0.98;
const ADAM_EPSILON: f32 = 1e-8;

impl Adam {
    /// Over these variables. Vectors (biases) do not decay. `memory` is the share of the average that a step keeps: 0.99
    /// remembers some hundred steps.
    pub fn new(vars: &[Var], rate: f64, decay: f64, memory: f32) -> Result<Self> {
        let slot = |var: &Var| {
            let value: Vec<f32> = var.flatten_all()?.to_vec1()?;
            let zero = vec![0.0; value.len()];
            let average = value.clone();
            Ok(Slot {
                var: var.clone(),
                value,
                mean: zero.clone(),
                square: zero,
                average,
                decays: var.rank() > 1,
            })
        };
        let slots = vars.iter().map(slot).collect::<Result<_>>()?;
        Ok(Self { rate, decay, memory, step: 0, slots })
    }

    /// One step downhill.
    #[expect(clippy::cast_possible_truncation, reason = "rates are small numbers")]
    pub fn step(&mut self, grads: &GradStore) -> Result<()> {
        self.step += 1;
        let rate = self.rate * (1.0 - f64::from(BETA_SQUARE).powi(self.step)).sqrt()
            / (1.0 - f64::from(BETA_MEAN).powi(self.step));
        let (rate, decay) = (rate as f32, (self.rate * self.decay) as f32);
        // Early on the average remembers less, or it would never forget the initial weights.
        #[expect(clippy::cast_precision_loss, reason = "step counts are small")]
        let memory = self.memory.min(self.step as f32 / (self.step as f32 + 10.0));
        for slot in &mut self.slots {
            let Some(grad) = grads.get(slot.var.as_tensor()) else { continue };
            let grad: Vec<f32> = grad.flatten_all()?.to_vec1()?;
            let keep = if slot.decays { 1.0 - decay } else { 1.0 };
            for (((x, m), s), g) in slot.value.iter_mut().zip(&mut slot.mean).zip(&mut slot.square).zip(&grad)
            {
                *m = BETA_MEAN * *m + (1.0 - BETA_MEAN) * g;
                *s = BETA_SQUARE * *s + (1.0 - BETA_SQUARE) * g * g;
                *x = *x * keep - rate * *m / (s.sqrt() + ADAM_EPSILON);
            }
            slot.average.iter_mut().zip(&slot.value).for_each(|(a, x)| *a = memory * *a + (1.0 - memory) * x);
            slot.show(&slot.value)?;
        }
        Ok(())
    }

    /// Gives the variables their averages …
    pub fn show_average(&self) -> Result<()> {
        self.slots.iter().try_for_each(|slot| slot.show(&slot.average))
    }

    /// … and their own values again, which is where the next step starts from.
    pub fn show_values(&self) -> Result<()> {
        self.slots.iter().try_for_each(|slot| slot.show(&slot.value))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn random(rng: &mut Rng, shape: &[usize]) -> Var {
        normal_var(rng, 1.0, shape).unwrap()
    }

    /// Compares the gradient of `sum(f(x) * weights)` with differences, value by value.
    fn check_gradient(x: &Var, weights: &Tensor, f: impl Fn(&Tensor) -> Tensor) {
        let value = || (f(x.as_tensor()) * weights).unwrap().sum_all().unwrap();
        let grads = value().backward().unwrap();
        let grad: Vec<f32> = grads.get(x.as_tensor()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let start: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
        for (at, grad) in grad.iter().enumerate() {
            let at_offset = |by: f32| {
                let mut moved = start.clone();
                moved[at] += by;
                x.set(&Tensor::from_vec(moved, x.shape(), &Device::Cpu).unwrap()).unwrap();
                value().to_scalar::<f32>().unwrap()
            };
            let slope = (at_offset(1e-2) - at_offset(-1e-2)) / 2e-2;
            assert!(
                (grad - slope).abs() < 5e-3 * (1.0 + slope.abs()),
                "at {at}: {grad}, by differences {slope}"
            );
        }
        x.set(&Tensor::from_vec(start, x.shape(), &Device::Cpu).unwrap()).unwrap();
    }

    #[test]
    fn gradients_agree_with_differences() {
        let mut rng = Rng::new(3);
        let x = random(&mut rng, &[6, 20]);
        let weights = random(&mut rng, &[6, 20]);
        check_gradient(&x, &weights, |x| normalize(x).unwrap());
        let row = random(&mut rng, &[20]);
        check_gradient(&row, &weights, |row| add_rows(&x, row).unwrap());
        check_gradient(&x, &weights, |x| add_rows(x, &row).unwrap());
        let scores = random(&mut rng, &[3, 5, 5]);
        let weights = random(&mut rng, &[3, 5, 5]);
        let pads = Arc::new(vec![0, 2, 5]);
        check_gradient(&scores, &weights, |s| causal_softmax(s, Arc::clone(&pads), 0.7).unwrap());
    }

    #[test]
    fn attention_looks_at_nothing_later_and_at_no_padding() {
        let scores = random(&mut Rng::new(4), &[2, 4, 4]);
        let weights: Vec<Vec<Vec<f32>>> =
            causal_softmax(&scores, Arc::new(vec![0, 2]), 1.0).unwrap().to_vec3().unwrap();
        for (square, pad) in weights.iter().zip([0, 2]) {
            for (query, row) in square.iter().enumerate() {
                let seen = |at: usize| at >= pad && at <= query;
                assert!(row.iter().enumerate().all(|(at, w)| seen(at) == (*w > 0.0)), "{row:?}");
                let total: f32 = row.iter().sum();
                assert!((total - if query >= pad { 1.0 } else { 0.0 }).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn exp_agrees_with_the_library() {
        for n in -8_700..=8_700_i16 {
            let x = f32::from(n) / 100.0;
            assert!((exp(x) / x.exp() - 1.0).abs() < 3e-7, "e^{x}: {} {}", exp(x), x.exp());
        }
        assert_eq!(exp(-200.0), 0.0);
    }

    #[test]
    fn dropout_keeps_the_mean_and_does_nothing_without_randomness() {
        let x = Tensor::ones(100_000, candle_core::DType::F32, &Device::Cpu).unwrap();
        let dropped: Vec<f32> = dropout(&x, 0.4, Some(&mut Rng::new(5))).unwrap().to_vec1().unwrap();
        let zeros = dropped.iter().filter(|x| **x == 0.0).count();
        assert!((39_000..41_000).contains(&zeros), "{zeros}");
        assert!((sum(&dropped) / 1e5 - 1.0).abs() < 0.01);
        assert_eq!(dropout(&x, 0.4, None).unwrap().to_vec1::<f32>().unwrap(), vec![1.0; 100_000]);
    }

    #[test]
    fn adam_finds_the_bottom_of_a_bowl() {
        let x = random(&mut Rng::new(6), &[4, 4]);
        let mut adam = Adam::new(std::slice::from_ref(&x), 0.05, 0.0, 0.9).unwrap();
        for _ in 0..400 {
            let loss = (x.as_tensor() - 3.0).unwrap().sqr().unwrap().sum_all().unwrap();
            adam.step(&loss.backward().unwrap()).unwrap();
        }
        for _ in 0..2 {
            let values: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
            assert!(values.iter().all(|v| (v - 3.0).abs() < 0.01), "{values:?}");
            adam.show_average().unwrap();
        }
    }
}
