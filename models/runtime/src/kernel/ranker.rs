//! The ranker as code. A row's x₀ = i + v + c is the sum of what depends on the item, on the visitor, and on both (the
//! encoder's [`Schema`] says which columns are which), and almost all of the network is linear in it or becomes so:
//!
//! - products of x₀ are sums of three parts: the item's is computed once a bundle, the visitor's once a request;
//! - x₁ = x₀ ⊙ (U₁ l + b₁) with l = V₁ x₀ is bilinear in x₀ and l, so a V₂ x₁ = Σₖᵣ aₖ lᵣ Tₖᵣ with Tₖᵣ = Σⱼ x₀ⱼ U₁ⱼᵣ V₂ⱼₖ,
//!   which is linear in x₀ as well. For the few columns of c it is less work to take Σⱼ cⱼ (a·V₂ⱼ) (l·U₁ⱼ) as it stands.
//!
//! So a candidate costs rank 1 × rank 2 multiplications, and one product of the numbers that depend on both, where the graph takes
//! several products of the whole width. (DCN-V2: Wang et al., WWW 2021; see [`weights`] for the formula.)

mod score;
mod weights;

use tract_onnx::pb::GraphProto;

use self::score::{Pair, Products, Scores};
use self::weights::Weights;
use super::matrix::{LINE, Lines, Matrix, ONE, PAIR, padded};
use crate::error::ModelError;
use crate::features::Schema;

/// Most numbers that are kept for a catalog's items together (256 MiB).
const ELEMENTS_MAX: usize = 64 * 1024 * 1024;

/// A recognised ranker.
#[derive(Debug)]
pub(crate) struct Kernel {
    network: Network,
    item: Half,
    visitor: Half,
    own: Own,
}

/// What is computed of an item or of a visitor, one after the other: first T, then what is linear, in whole lines.
#[derive(Debug, Clone, Copy)]
struct Layout {
    rank1: usize,
    /// Rows of T.
    rank2: usize,
    /// Padded lengths.
    rank1_padded: usize,
    rank2_padded: usize,
    deep: usize,
    /// The sums, and behind them what is simply added to the answer.
    sum: usize,
    /// Which of the sums' places that is.
    plain_at: usize,
}

impl Layout {
    fn new(weights: &Weights) -> Self {
        let (rank1, rank2, sums, hidden) = weights.widths();
        Self {
            rank1,
            rank2,
            rank1_padded: padded(rank1),
            rank2_padded: padded(rank2),
            deep: padded(hidden),
            sum: padded(sums + 1),
            plain_at: sums,
        }
    }

    fn crossed(&self) -> usize {
        self.rank2 * self.rank1_padded
    }

    fn linear(&self) -> usize {
        2 * self.rank2_padded + 2 * self.rank1_padded + self.deep + self.sum
    }

    fn len(&self) -> usize {
        self.crossed() + self.linear()
    }
}

/// What does not depend on whose half it is.
#[derive(Debug)]
struct Network {
    layout: Layout,
    /// The joint table, rows of `embedding`.
    table: Vec<f32>,
    embedding: usize,
    deep_weights: Lines,
    sum_weights: Lines,
    /// Added to every visitor's half: g in its place, β in the place of what is simply added.
    constants: Vec<f32>,
}

/// The columns of x₀ that belong to an item, or to a visitor.
#[derive(Debug)]
struct Half {
    /// Fields, then numbers, to what is linear; a visitor's to T as well.
    matrix: Matrix<ONE>,
    /// s of the fields' columns.
    squares: Vec<f32>,
}

/// The columns of x₀ that are a row's own: the item's, and the numbers that depend on both.
#[derive(Debug)]
struct Own {
    /// The item's columns, padded.
    item_len: usize,
    /// How many depend on both.
    both_len: usize,
    /// From the numbers that depend on both to what is linear.
    linear: Matrix<PAIR>,
    /// `[rank 2, own columns]`: V₂ of these columns.
    down: Matrix<PAIR>,
    /// `[rank 1, own columns]`: U₁ of these columns.
    up: Matrix<PAIR>,
}

/// The items' halves, by place in the catalog: each its columns of x₀, and what is linear.
#[derive(Debug)]
pub(crate) struct Items {
    halves: Lines,
}

/// Memory that calls reuse.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    x: Vec<f32>,
    visitor: Lines,
    both: Vec<f32>,
    linear: Lines,
    downs: Lines,
    ups: Lines,
}

impl Kernel {
    /// The kernel of a graph, if it is of the network that is known, for rows of this schema.
    pub(crate) fn of(graph: &GraphProto, schema: &Schema) -> Option<Self> {
        let weights = Weights::read(graph, schema.fields.len(), schema.dense.len())?;
        let (fields, e) = (schema.fields.len(), weights.embedding);
        let of_fields = |from: usize, to: usize| from * e..to * e;
        let of_dense = |from: usize, to: usize| fields * e + from..fields * e + to;
        let (item_dense, visitor_dense) = (schema.item_dense, schema.item_dense + schema.visitor_dense);
        let layout = Layout::new(&weights);
        let item: Vec<usize> = of_fields(0, schema.item_fields).chain(of_dense(0, item_dense)).collect();
        let both: Vec<usize> = of_dense(visitor_dense, schema.dense.len()).collect();
        let visitor = of_fields(schema.item_fields, fields).chain(of_dense(item_dense, visitor_dense));
        let of_item = item.iter().flat_map(|column| linear(&weights, &layout, *column));
        let of_visitor = visitor
            .flat_map(|column| [crossed(&weights, &layout, column), linear(&weights, &layout, column)]);
        Some(Self {
            item: Half {
                squares: weights.squares[of_fields(0, schema.item_fields)].to_vec(),
                matrix: Matrix::new(layout.linear(), &of_item.collect::<Vec<_>>()),
            },
            visitor: Half {
                squares: weights.squares[of_fields(schema.item_fields, fields)].to_vec(),
                matrix: Matrix::new(layout.len(), &of_visitor.flatten().collect::<Vec<_>>()),
            },
            own: Own::new(&weights, &layout, &item, &both),
            network: Network::new(weights, layout),
        })
    }

    /// The items' halves: for each place of a catalog of `len` items its own fields and numbers. `None`: too many to keep.
    pub(crate) fn items<'a>(
        &self,
        len: usize,
        rows: impl Iterator<Item = (&'a [i64], &'a [f32])>,
    ) -> Result<Option<Items>, ModelError> {
        let stride = self.item_stride();
        if len.saturating_mul(stride) > ELEMENTS_MAX {
            return Ok(None);
        }
        let mut halves = Lines::zeros(len * stride);
        let mut x = Vec::new();
        for ((fields, dense), half) in rows.zip(halves.chunks_exact_mut(stride)) {
            let (own, linear) = half.split_at_mut(self.own.item_len);
            self.network.half(&self.item, fields, dense, &mut x, linear)?;
            own[..x.len()].copy_from_slice(&x);
        }
        Ok(Some(Items { halves }))
    }

    /// Numbers kept of an item.
    fn item_stride(&self) -> usize {
        self.own.item_len + self.network.layout.linear()
    }

    /// The answers for candidates, by place, before one visitor: whose own fields and numbers are given, and by `both` the
    /// numbers that depend on both, pushed to the end of a list. `out` is emptied first.
    pub(crate) fn rank(
        &self,
        items: &Items,
        (fields, dense): (&[i64], &[f32]),
        places: &[u32],
        both: impl Fn(u32, &mut Vec<f32>),
        scratch: &mut Scratch,
        out: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let layout = &self.network.layout;
        scratch.visitor.fit(layout.len());
        scratch.visitor.copy_from_slice(&self.network.constants);
        self.network.half(&self.visitor, fields, dense, &mut scratch.x, &mut scratch.visitor)?;
        let stride = padded(self.own.both_len);
        scratch.both.clear();
        for (row, place) in (1..).zip(places) {
            both(*place, &mut scratch.both);
            scratch.both.resize(row * stride, 0.0);
        }
        scratch.linear.fit(2 * layout.linear());
        scratch.downs.fit(2 * self.own.down.columns());
        scratch.ups.fit(2 * self.own.up.columns());
        out.clear();
        pulp::Arch::new().dispatch(Scores {
            kernel: self,
            items: &items.halves,
            visitor: &scratch.visitor,
            places,
            both: &scratch.both,
            pair: Pair { linear: &mut scratch.linear, downs: &mut scratch.downs, ups: &mut scratch.ups },
            out,
        });
        out.iter_mut().for_each(|p| *p = 1.0 / (1.0 + (-*p).exp()));
        match out.iter().position(|p| !p.is_finite()) {
            Some(at) => Err(ModelError::NotFinite(at)),
            None => Ok(()),
        }
    }
}

impl Kernel {
    /// The answer for one row as the graph takes it.
    pub(crate) fn row(&self, fields: &[i64], dense: &[f32], schema: &Schema) -> Result<f32, ModelError> {
        let (of_item, of_visitor) = fields.split_at(schema.item_fields);
        let (item, rest) = dense.split_at(schema.item_dense);
        let (visitor, both) = rest.split_at(schema.visitor_dense);
        let one = self.items(1, std::iter::once((of_item, item)))?;
        let one = one.ok_or_else(|| ModelError::Input("a row that is too long to keep".to_owned()))?;
        let mut out = Vec::new();
        let push = |_, row: &mut Vec<f32>| row.extend_from_slice(both);
        self.rank(&one, (of_visitor, visitor), &[0], push, &mut Scratch::default(), &mut out)?;
        Ok(out[0])
    }
}

impl Network {
    fn new(weights: Weights, layout: Layout) -> Self {
        let pad = |mut values: Vec<f32>, len: usize| {
            values.resize(len, 0.0);
            values
        };
        let deep_bias = pad(weights.deep_bias, layout.deep);
        let mut constants = vec![0.0; layout.len() - layout.deep - layout.sum];
        constants.extend(deep_bias);
        constants.resize(layout.len(), 0.0);
        constants[layout.len() - layout.sum + layout.plain_at] = weights.bias;
        Self {
            layout,
            table: weights.table,
            embedding: weights.embedding,
            deep_weights: Lines::of(&weights.deep_weights),
            sum_weights: Lines::of(&pad(weights.sum_weights, layout.sum)),
            constants,
        }
    }

    /// Adds what follows from these fields and numbers to `out`.
    fn half(
        &self,
        half: &Half,
        fields: &[i64],
        dense: &[f32],
        x: &mut Vec<f32>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        x.clear();
        for id in fields {
            let at = usize::try_from(*id).ok().and_then(|id| id.checked_mul(self.embedding));
            let row = at.and_then(|at| self.table.get(at..at + self.embedding));
            x.extend_from_slice(row.ok_or_else(|| ModelError::Input(format!("id {id} of the joint table")))?);
        }
        let squares: f32 = x.iter().zip(&half.squares).map(|(v, s)| s * v * v).sum();
        x.extend_from_slice(dense);
        pulp::Arch::new().dispatch(Products { matrix: &half.matrix, x, out: &mut *out });
        // Whatever else there is, what is linear comes last, and the sums are its end.
        out[out.len() - self.layout.sum + self.layout.plain_at] += squares;
        Ok(())
    }
}

impl Own {
    fn new(weights: &Weights, layout: &Layout, item: &[usize], both: &[usize]) -> Self {
        let (rank1, rank2, ..) = weights.widths();
        let width = weights.width();
        let item_len = padded(item.len());
        let len = item_len + padded(both.len());
        let places = item.iter().zip(0..).chain(both.iter().zip(item_len..));
        let (mut down, mut up) = (vec![0.0; rank2 * len], vec![0.0; rank1 * len]);
        for (column, at) in places {
            (0..rank2).for_each(|k| down[k * len + at] = weights.last_down[column * rank2 + k]);
            (0..rank1).for_each(|r| up[r * len + at] = weights.cross.weights[r * width + column]);
        }
        let linear: Vec<f32> = both.iter().flat_map(|column| linear(weights, layout, *column)).collect();
        Self {
            item_len,
            both_len: both.len(),
            linear: Matrix::new(layout.linear(), &linear),
            down: Matrix::new(len, &down),
            up: Matrix::new(len, &up),
        }
    }
}

/// What one column of x₀ adds to T: line by line of r, each of them k by k.
fn crossed(weights: &Weights, layout: &Layout, column: usize) -> Vec<f32> {
    let (rank1, rank2, ..) = weights.widths();
    let width = weights.width();
    let mut all = vec![0.0; layout.crossed()];
    for (line, ks) in all.chunks_exact_mut(rank2 * LINE).enumerate() {
        for (k, row) in ks.chunks_exact_mut(LINE).enumerate() {
            let down = weights.last_down[column * rank2 + k];
            for (t, r) in row.iter_mut().zip(line * LINE..rank1) {
                *t = down * weights.cross.weights[r * width + column];
            }
        }
    }
    all
}

/// What one column of x₀ adds to everything that is linear in it: a, the part of V₂ x₁ that does not depend on l; l, the part of
/// d·x₁ that does; the deep layer, the sums, and what is simply added.
fn linear(weights: &Weights, layout: &Layout, column: usize) -> Vec<f32> {
    let (rank1, rank2, sums, hidden) = weights.widths();
    let width = weights.width();
    let row = |matrix: &[f32], len: usize| matrix[column * len..(column + 1) * len].to_vec();
    let (bias, direct) = (weights.cross.bias[column], weights.direct[column]);
    let up = (0..rank1).map(|r| weights.cross.weights[r * width + column] * direct);
    let mut sum = row(&weights.sum, sums);
    sum.push(weights.plain[column] + bias * direct);
    let parts = [
        (row(&weights.up, rank2), layout.rank2_padded),
        (row(&weights.last_down, rank2).iter().map(|down| down * bias).collect(), layout.rank2_padded),
        (row(&weights.down, rank1), layout.rank1_padded),
        (up.collect(), layout.rank1_padded),
        (row(&weights.deep, hidden), layout.deep),
        (sum, layout.sum),
    ];
    let pad = |(mut values, len): (Vec<f32>, usize)| {
        values.resize(len, 0.0);
        values
    };
    parts.into_iter().flat_map(pad).collect()
}
