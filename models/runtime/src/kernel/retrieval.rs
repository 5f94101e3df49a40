//! The retrieval model as code: SASRec (Kang & McAuley, ICDM 2018) of one block, of which only the newest position is asked
//! for, as `models/training` writes it. Positions of padding have no weight, so they are not computed, unless nothing else is there.
//!
//! Everything that looks at the values in the middle normalizes them, which does not see their mean: so tables are
//! kept without it, and normalization is one scale a row.

use pulp::{Simd, WithSimd};
use tract_onnx::pb::GraphProto;

use super::matrix::{LINE, Lines, Matrix, ONE, add_scaled, dot, sum};
use super::reader::{Linear, Reader};
use crate::error::ModelError;
use crate::graph::Attribute;

/// What is added to a padding's weight is at most this, so that nothing is left of it beside any other position.
const MASKED_MAX: f32 = -1e8;

/// A recognised retrieval model.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Positions.
    len: usize,
    /// Width, whole lines.
    width: usize,
    heads: usize,
    /// Added to the weight of a padding.
    masked: f32,
    /// Of the three normalizations: before attention, before the feed-forward half, at the end.
    epsilons: [f32; 3],
    /// `[items + 1, width]`; the first is padding. Each row without its mean.
    table: Lines,
    /// `[len, width]`. Each row without its mean.
    positions: Lines,
    /// `[width, heads * width]`: queries, folded with the keys' weights.
    query: Layer,
    /// `[heads * width, width]`: values, folded with the output's weights.
    value: Layer,
    /// `[width, hidden]`.
    up: Layer,
    /// `[hidden, width]`.
    down: Layer,
    /// `[width, items]`.
    scores: Layer,
}

/// A matrix with its bias.
#[derive(Debug)]
struct Layer {
    matrix: Matrix<ONE>,
    bias: Lines,
}

impl Layer {
    fn new(linear: Linear) -> Self {
        let matrix = Matrix::new(linear.bias.len(), &linear.weights);
        Self { matrix, bias: Lines::of(&linear.bias) }
    }

    /// `out` becomes `x @ matrix + bias`.
    #[inline(always)]
    fn apply<S: Simd>(&self, simd: S, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(&self.bias);
        self.matrix.add_product(simd, [x], out);
    }
}

/// What attends: a look at the graph's first half.
struct Attention<'a> {
    /// The newest position's values, with what was attended to added.
    mixed: &'a str,
    query: Linear,
    value: Linear,
    heads: usize,
    epsilon: f32,
}

impl Kernel {
    /// The kernel of a graph, if it is of the network that is known, for histories of `len` and `items` items.
    pub(crate) fn of(graph: &GraphProto, len: usize, items: usize) -> Option<Self> {
        let mut reader = Reader::new(graph)?;
        let (table, embedded) = reader.gather("history")?;
        let [_, width] = *table.dims.as_slice() else { return None };
        let (positions, x) = reader.plus(embedded)?;
        let (hidden, padding) = reader.gather("history")?;
        let attention = attention(&mut reader, x, padding, len, width)?;
        // The feed-forward half.
        let (epsilon, normal) = reader.normalize(attention.mixed, width)?;
        let (up, raised) = reader.any_linear(normal, width)?;
        let hidden_len = up.bias.len();
        let relu = reader.node("Relu", &[raised], &[])?;
        let (down, lowered) = reader.linear(relu, hidden_len, width)?;
        let x = reader.node("Add", &[attention.mixed, lowered], &[])?;
        // A score for every item.
        let (last_epsilon, normal) = reader.normalize(x, width)?;
        let (scores, out) = reader.linear(normal, width, items)?;
        reader.ends_with(out).then_some(())?;

        let hidden = hidden.shaped(&[items + 1])?;
        let masks = hidden[0] <= MASKED_MAX && hidden[1..].iter().all(|added| *added == 0.0);
        let whole_lines = width.is_multiple_of(LINE) && hidden_len.is_multiple_of(LINE);
        (masks && whole_lines).then_some(())?;
        Some(Self {
            len,
            width,
            heads: attention.heads,
            masked: hidden[0],
            epsilons: [attention.epsilon, epsilon, last_epsilon],
            table: centred(table.shaped(&[items + 1, width])?, width),
            positions: centred(positions.shaped(&[len, width])?, width),
            query: Layer::new(attention.query),
            value: Layer::new(attention.value),
            up: Layer::new(up),
            down: Layer::new(down),
            scores: Layer::new(scores),
        })
    }

    /// A score for every item. `history` is a row as the graph takes it: index + 1, 0 is padding. `out` is emptied first.
    pub(crate) fn scores(&self, history: &[i64], out: &mut Vec<f32>) -> Result<(), ModelError> {
        let rows = self.table.len() / self.width;
        if history.len() != self.len
            || history.iter().any(|id| usize::try_from(*id).is_ok_and(|id| id >= rows) || *id < 0)
        {
            return Err(ModelError::Input(
                "a history that is too long, or of an item that is not there".to_owned(),
            ));
        }
        pulp::Arch::new().dispatch(Scores { kernel: self, history, out: &mut *out });
        match out.iter().position(|score| !score.is_finite()) {
            Some(at) => Err(ModelError::NotFinite(at)),
            None => Ok(()),
        }
    }
}

/// Reads the attention of the newest position, up to where its result is added.
fn attention<'a>(
    reader: &mut Reader<'a>,
    x: &str,
    padding: &str,
    len: usize,
    width: usize,
) -> Option<Attention<'a>> {
    let (last, next) = (i64::try_from(len - 1).ok()?, i64::try_from(len).ok()?);
    let d = i64::try_from(width).ok()?;
    let (epsilon, normal) = reader.normalize(x, width)?;
    let newest = reader.slice(x, last, next, 1)?;
    let newest = reader.reshape(newest, &[-1, d])?;
    let newest_normal = reader.slice(normal, last, next, 1)?;
    let newest_normal = reader.reshape(newest_normal, &[-1, d])?;
    let (query, queries) = reader.any_linear(newest_normal, width)?;
    let heads = query.bias.len() / width;
    let all = query.bias.len();
    (all == heads * width).then_some(())?;
    let queries = reader.reshape(queries, &[-1, i64::try_from(heads).ok()?, d])?;
    let keys = reader.node("Transpose", &[normal], &[("perm", Attribute::Ints(&[0, 2, 1]))])?;
    let product = reader.node("MatMul", &[queries, keys], &[])?;
    let padding = reader.reshape(padding, &[-1, 1, next])?;
    let masked = reader.node("Add", &[product, padding], &[])?;
    let weights = reader.node("Softmax", &[masked], &[("axis", Attribute::Int(-1))])?;
    let mixed = reader.node("MatMul", &[weights, normal], &[])?;
    let mixed = reader.reshape(mixed, &[-1, i64::try_from(all).ok()?])?;
    let (value, mixed) = reader.linear(mixed, all, width)?;
    let mixed = reader.node("Add", &[newest, mixed], &[])?;
    Some(Attention { mixed, query, value, heads, epsilon })
}

/// Rows without their mean.
fn centred(mut values: Vec<f32>, width: usize) -> Lines {
    for row in values.chunks_exact_mut(width) {
        let mean = (row.iter().map(|v| f64::from(*v)).sum::<f64>() / width as f64) as f32;
        row.iter_mut().for_each(|v| *v -= mean);
    }
    Lines::of(&values)
}

struct Scores<'a> {
    kernel: &'a Kernel,
    history: &'a [i64],
    out: &'a mut Vec<f32>,
}

impl WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { kernel, history, out } = self;
        let (width, len) = (kernel.width, kernel.len);
        // Whoever has no history attends to padding alone.
        let from = history.iter().position(|id| *id != 0).unwrap_or(0);
        let nothing = history[from] == 0;
        let met: Vec<usize> = (from..len).filter(|at| nothing || history[*at] != 0).collect();
        let mut normal = Lines::zeros(met.len() * width);
        for (at, row) in met.iter().zip(normal.chunks_exact_mut(width)) {
            let item = &kernel.table[history[*at] as usize * width..][..width];
            sum(simd, item, &kernel.positions[at * width..][..width], row);
        }
        // The newest position's own values: padding, where a history ends with it.
        let mut x = Lines::zeros(width);
        let newest = &kernel.table[history[len - 1] as usize * width..][..width];
        sum(simd, newest, &kernel.positions[(len - 1) * width..][..width], &mut x);
        for row in normal.chunks_exact_mut(width) {
            normalize(simd, kernel.epsilons[0], row);
        }
        let mut newest = Lines::of(&x);
        normalize(simd, kernel.epsilons[0], &mut newest);

        let mut query = Lines::zeros(kernel.heads * width);
        kernel.query.apply(simd, &newest, &mut query);
        let mut mixed = Lines::zeros(kernel.heads * width);
        let added = if nothing { kernel.masked } else { 0.0 };
        let mut weights = Vec::with_capacity(met.len());
        for (query, mixed) in query.chunks_exact(width).zip(mixed.chunks_exact_mut(width)) {
            weights.clear();
            for key in normal.chunks_exact(width) {
                weights.push(dot(simd, query, key) + added);
            }
            softmax(&mut weights);
            for (weight, value) in weights.iter().zip(normal.chunks_exact(width)) {
                add_scaled(simd, *weight, value, mixed);
            }
        }
        let (mut next, mut hidden) = (Lines::zeros(width), Lines::zeros(kernel.up.bias.len()));
        kernel.value.apply(simd, &mixed, &mut next);
        add_scaled(simd, 1.0, &next, &mut x);

        let mut normal = Lines::of(&x);
        centre_and_normalize(simd, kernel.epsilons[1], &mut normal);
        kernel.up.apply(simd, &normal, &mut hidden);
        hidden.iter_mut().for_each(|value| *value = value.max(0.0));
        kernel.down.apply(simd, &hidden, &mut next);
        add_scaled(simd, 1.0, &next, &mut x);
        centre_and_normalize(simd, kernel.epsilons[2], &mut x);
        let mut scores = Lines::zeros(kernel.scores.bias.len());
        kernel.scores.apply(simd, &x, &mut scores);
        out.clear();
        out.extend_from_slice(&scores[..kernel.table.len() / width - 1]);
    }
}

/// x / √(mean x² + ε), of values whose mean is 0.
#[inline(always)]
fn normalize<S: Simd>(simd: S, epsilon: f32, x: &mut [f32]) {
    let scale = 1.0 / (dot(simd, x, x) / x.len() as f32 + epsilon).sqrt();
    let (scale, (x, _)) = (simd.splat_f32s(scale), S::as_mut_simd_f32s(x));
    for x in x {
        *x = simd.mul_f32s(*x, scale);
    }
}

#[inline(always)]
fn centre_and_normalize<S: Simd>(simd: S, epsilon: f32, x: &mut [f32]) {
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    x.iter_mut().for_each(|x| *x -= mean);
    normalize(simd, epsilon, x);
}

/// Weights that are positive and sum to 1.
#[inline(always)]
fn softmax(weights: &mut [f32]) {
    let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights.iter_mut().for_each(|weight| *weight = (*weight - max).exp());
    let sum: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
}
