//! The ranker's graph, as `models/training` writes it, read back into matrices. With x₀ the embeddings of a row's fields and its
//! numbers side by side, x₁ = x₀ ⊙ (U₁ V₁ x₀ + b₁) the first cross, and σ the logistic function, it answers
//!
//! σ(ω ⊙ (A x₀) · V₂ x₁ + d·x₁ + c·x₀ + q·(S x₀)² + s·v² + h·relu(H x₀ + g) + β)
//!
//! where v are the embeddings alone: DCN-V2 (Wang et al., WWW 2021) with two low-rank crosses, of which the last was folded into the
//! answer, one deep layer, and the pairs of a factorization machine (Rendle, ICDM 2010).

use tract_onnx::pb::GraphProto;

use crate::graph::Attribute;
use crate::kernel::reader::{Floats, Linear, Reader};

/// The network. Matrices are `[in, out]`, row by row; the input is x₀ unless another is named.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    /// Fields of a row.
    pub(super) fields: usize,
    /// Numbers of a row.
    pub(super) dense: usize,
    /// The length of an embedding.
    pub(super) embedding: usize,
    /// The joint table of embeddings.
    pub(super) table: Vec<f32>,
    /// A with ω folded in: `[width, rank 2]`.
    pub(super) up: Vec<f32>,
    /// c: `[width]`.
    pub(super) plain: Vec<f32>,
    /// S: `[width, sums]`.
    pub(super) sum: Vec<f32>,
    /// q: `[sums]`.
    pub(super) sum_weights: Vec<f32>,
    /// H: `[width, hidden]`.
    pub(super) deep: Vec<f32>,
    /// g: `[hidden]`.
    pub(super) deep_bias: Vec<f32>,
    /// h: `[hidden]`.
    pub(super) deep_weights: Vec<f32>,
    /// V₁: `[width, rank 1]`.
    pub(super) down: Vec<f32>,
    /// U₁ `[rank 1, width]` and b₁ `[width]`.
    pub(super) cross: Linear,
    /// V₂, of x₁: `[width, rank 2]`.
    pub(super) last_down: Vec<f32>,
    /// d, of x₁: `[width]`.
    pub(super) direct: Vec<f32>,
    /// s: `[fields * embedding]`.
    pub(super) squares: Vec<f32>,
    /// β.
    pub(super) bias: f32,
}

impl Weights {
    /// Number of columns of x₀.
    pub(super) fn width(&self) -> usize {
        self.fields * self.embedding + self.dense
    }

    /// (rank 1, rank 2, sums, hidden).
    pub(super) fn widths(&self) -> (usize, usize, usize, usize) {
        let width = self.width();
        (self.down.len() / width, self.up.len() / width, self.sum_weights.len(), self.deep_bias.len())
    }

    /// Reads a graph of rows of `fields` fields and `dense` numbers; `None` if it is any other network.
    pub(super) fn read(graph: &GraphProto, fields: usize, dense: usize) -> Option<Self> {
        let mut reader = Reader::new(graph)?;
        let along = [("axis", Attribute::Int(1))];
        // x₀
        let (table, looked_up) = reader.gather("fields")?;
        let [_, embedding] = *table.dims.as_slice() else { return None };
        let wide_len = fields * embedding;
        let wide = reader.reshape(looked_up, &[-1, i64::try_from(wide_len).ok()?])?;
        let x0 = reader.node("Concat", &[wide, "dense"], &along)?;
        let width = wide_len + dense;
        // A, c, S and H of x₀, in one product.
        let (products, product) = reader.product(x0)?;
        let ([rank2, one, sums, hidden], [up, plain, sum, first]) = reader.split::<4>(product)?;
        whole(&products, width, &[rank2, one, sums, hidden])?;
        (one == 1).then_some(())?;
        // x₁
        let (down, low) = reader.product(x0)?;
        let rank1 = *down.dims.get(1)?;
        let (cross, mixed) = reader.linear(low, rank1, width)?;
        let x1 = reader.node("Mul", &[x0, mixed], &[])?;
        // V₂ and d of x₁, in one product.
        let (of_crossed, product) = reader.product(x1)?;
        let ([rank_low, one], [low, direct]) = reader.split::<2>(product)?;
        whole(&of_crossed, width, &[rank_low, one])?;
        (rank_low == rank2 && one == 1).then_some(())?;
        // The terms of the answer.
        let crossed = reader.node("Mul", &[up, low], &[])?;
        let squared_sum = reader.node("Mul", &[sum, sum], &[])?;
        let squared = reader.node("Mul", &[wide, wide], &[])?;
        let (squares, squared) = reader.product(squared)?;
        let (deep_bias, linear) = reader.plus(first)?;
        let relu = reader.node("Relu", &[linear], &[])?;
        let terms = reader.node("Concat", &[crossed, direct, plain, squared_sum, squared, relu], &along)?;
        let (last, logit) = reader.linear(terms, rank2 + 1 + 1 + sums + 1 + hidden, 1)?;
        let p = reader.node("Sigmoid", &[logit], &[])?;
        let p = reader.reshape(p, &[-1])?;
        reader.ends_with(p).then_some(())?;

        // The last layer's weights, folded into what they multiply.
        let (of_up, rest) = last.weights.split_at(rank2);
        let (of_direct, of_plain, of_sum) = (rest[0], rest[1], &rest[2..2 + sums]);
        let (of_squares, of_deep) = (rest[2 + sums], &rest[3 + sums..]);
        let cut = |from: usize, len: usize| products.columns(from, from + len);
        let scaled = |values: Vec<f32>, scale: f32| values.into_iter().map(|value| value * scale).collect();
        Some(Self {
            fields,
            dense,
            embedding,
            up: by_column(cut(0, rank2), of_up),
            plain: scaled(cut(rank2, 1), of_plain),
            sum: cut(rank2 + 1, sums),
            sum_weights: of_sum.to_vec(),
            deep: cut(rank2 + 1 + sums, hidden),
            deep_bias: deep_bias.shaped(&[hidden])?,
            deep_weights: of_deep.to_vec(),
            down: down.shaped(&[width, rank1])?,
            cross,
            last_down: of_crossed.columns(0, rank2),
            direct: scaled(of_crossed.columns(rank2, rank2 + 1), of_direct),
            squares: scaled(squares.shaped(&[wide_len, 1])?, of_squares),
            bias: last.bias[0],
            table: table.values,
        })
    }
}

/// A matrix of `rows` rows and as many columns as its parts have together.
fn whole(matrix: &Floats, rows: usize, parts: &[usize]) -> Option<()> {
    (matrix.dims == [rows, parts.iter().sum()]).then_some(())
}

/// Each column times its scale.
fn by_column(mut values: Vec<f32>, scales: &[f32]) -> Vec<f32> {
    for row in values.chunks_exact_mut(scales.len()) {
        row.iter_mut().zip(scales).for_each(|(value, scale)| *value *= scale);
    }
    values
}
