//! [`Net`] as an ONNX graph made for serving: `fields` i64 `[batch, F]` and `dense` f32 `[batch, D]` → `p` f32 `[batch]`, with
//! the calibration folded into the last layer.
//!
//! Only one number a row is asked for, so wide intermediate results are avoided. With w the last layer's weights of the
//! crossed part, the last cross x₀ ⊙ (U l + b) + x contributes w·(x₀ ⊙ (U l + b) + x) = ((w ⊙ x₀) U)·l + (w ⊙ b)·x₀ + w·x: a
//! product of rank, not of width. Everything that multiplies x₀ is one matrix product, and so is everything that
//! multiplies the input of the last cross.

use candle_core::{Result, Tensor};
use inference::DType;
use inference::graph::{Attribute, Edge, Exported, Graph};

use super::train::Platt;
use super::{Cross, Net};

/// The graph of a trained and calibrated network.
pub fn export(net: &Net, platt: Platt) -> Result<Exported> {
    let (fields, dense, e) = (net.fields, net.dense, net.config.embedding);
    let width = fields * e + dense;
    let mut graph = Graph::new("ranker");
    let field_ids = graph.input("fields", DType::I64, &[fields]);
    let numbers = graph.input("dense", DType::F32, &[dense]);
    let table = graph.floats(net.table.dims(), &flat(&net.table)?);
    let looked_up = graph.node("Gather", &[&table, &field_ids], &[]);
    let wide = graph.reshape(&looked_up, &[-1, signed(fields * e)]);
    let x0 = graph.node("Concat", &[&wide, &numbers], &[("axis", Attribute::Int(1))]);

    let last = Last::new(net, platt)?;
    let (crosses_before, cross_last) = match net.crosses.split_last() {
        Some((last, before)) => (before, Some(last)),
        None => (&[][..], None),
    };
    let of_x0 = products_of_x0(net, &last, cross_last)?;
    let (names, columns): (Vec<Part>, Vec<Columns>) = of_x0.into_iter().unzip();
    let products = side_by_side(&mut graph, &x0, width, &columns);
    let part = |wanted: Part| names.iter().position(|name| *name == wanted).map(|at| &products[at]);

    let crossed = crosses(&mut graph, net, crosses_before, &x0)?;
    let mut terms = Vec::new();
    let crossed_columns = match cross_last {
        Some(cross) => vec![columns_of(&cross.down)?, Columns { values: last.crossed.clone(), width: 1 }],
        None => vec![Columns { values: last.crossed.clone(), width: 1 }],
    };
    let of_crossed = side_by_side(&mut graph, &crossed, width, &crossed_columns);
    if let (Some(up), [low, _]) = (part(Part::CrossUp), of_crossed.as_slice()) {
        terms.push((graph.node("Mul", &[up, low], &[]), vec![1.0; net.config.rank]));
    }
    let direct = of_crossed.last().expect("it has one part at least");
    terms.push((direct.clone(), vec![1.0]));
    if let Some(bias) = part(Part::CrossBias) {
        terms.push((bias.clone(), vec![1.0]));
    }
    if let Some(sum) = part(Part::Sum) {
        terms.push((graph.node("Mul", &[sum, sum], &[]), last.pairs.iter().map(|w| w * 0.5).collect()));
    }
    terms.push((squares(&mut graph, &wide, fields, e, &last.pairs), vec![1.0]));
    if let Some(first) = part(Part::Deep) {
        terms.push((deep(&mut graph, net, first)?, last.deep.clone()));
    }
    Ok(finish(graph, &terms, last.bias))
}

/// The last layer, cut by what it multiplies, calibrated.
struct Last {
    crossed: Vec<f32>,
    pairs: Vec<f32>,
    deep: Vec<f32>,
    bias: f32,
}

impl Last {
    fn new(net: &Net, platt: Platt) -> Result<Self> {
        let weights: Vec<f32> = flat(&net.last.weights)?.iter().map(|w| w * platt.scale).collect();
        let (crossed, rest) = weights.split_at(net.fields * net.config.embedding + net.dense);
        let (pairs, deep) = rest.split_at(net.config.embedding);
        let bias = net.last.bias.to_vec1::<f32>()?[0] * platt.scale + platt.offset;
        Ok(Self { crossed: crossed.to_vec(), pairs: pairs.to_vec(), deep: deep.to_vec(), bias })
    }
}

/// What a product of x₀ is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// (w ⊙ x₀) U of the last cross.
    CrossUp,
    /// (w ⊙ b)·x₀ of the last cross.
    CrossBias,
    /// Sum of the embeddings over the fields.
    Sum,
    /// The first deep layer, without its bias.
    Deep,
}

/// A matrix of `width` columns, row by row.
struct Columns {
    values: Vec<f32>,
    width: usize,
}

fn columns_of(matrix: &Tensor) -> Result<Columns> {
    Ok(Columns { values: flat(matrix)?, width: matrix.dim(1)? })
}

fn products_of_x0(net: &Net, last: &Last, cross: Option<&Cross>) -> Result<Vec<(Part, Columns)>> {
    let e = net.config.embedding;
    let width = net.fields * e + net.dense;
    let mut parts = Vec::new();
    if let Some(cross) = cross {
        let rank = net.config.rank;
        let up = flat(&cross.up.weights.t()?)?; // [width, rank]
        let scaled =
            up.chunks_exact(rank).zip(&last.crossed).flat_map(|(row, w)| row.iter().map(move |u| u * w));
        parts.push((Part::CrossUp, Columns { values: scaled.collect(), width: rank }));
        let bias = flat(&cross.up.bias)?;
        let scaled = bias.iter().zip(&last.crossed).map(|(b, w)| b * w).collect();
        parts.push((Part::CrossBias, Columns { values: scaled, width: 1 }));
    }
    let unit = |row: usize, column: usize| row < net.fields * e && row % e == column;
    let sum = (0..width).flat_map(|row| (0..e).map(move |column| if unit(row, column) { 1.0 } else { 0.0 }));
    parts.push((Part::Sum, Columns { values: sum.collect(), width: e }));
    if let Some(layer) = net.deep.first() {
        parts.push((Part::Deep, columns_of(&layer.weights)?));
    }
    Ok(parts)
}

/// `x` times several matrices, as one product that is then cut.
fn side_by_side(graph: &mut Graph, x: &Edge, rows: usize, parts: &[Columns]) -> Vec<Edge> {
    let width: usize = parts.iter().map(|part| part.width).sum();
    let values: Vec<f32> = (0..rows)
        .flat_map(|row| {
            parts.iter().flat_map(move |part| part.values[row * part.width..][..part.width].to_vec())
        })
        .collect();
    let weights = graph.floats(&[rows, width], &values);
    let product = graph.node("MatMul", &[x, &weights], &[]);
    if parts.len() == 1 {
        return vec![product];
    }
    let widths: Vec<i64> = parts.iter().map(|part| signed(part.width)).collect();
    let widths = graph.ints(&widths);
    graph.nodes("Split", &[&product, &widths], &[("axis", Attribute::Int(1))], parts.len())
}

/// All crosses but the last. The first one, x₀ ⊙ (U V x₀ + b) + x₀, is x₀ ⊙ (U V x₀ + b + 1).
fn crosses(graph: &mut Graph, net: &Net, before: &[Cross], x0: &Edge) -> Result<Edge> {
    let width = net.fields * net.config.embedding + net.dense;
    let mut crossed = x0.clone();
    for (at, cross) in before.iter().enumerate() {
        let down = graph.floats(&[width, net.config.rank], &flat(&cross.down)?);
        let low = graph.node("MatMul", &[&crossed, &down], &[]);
        let one = if at == 0 { 1.0 } else { 0.0 };
        let bias: Vec<f32> = flat(&cross.up.bias)?.iter().map(|b| b + one).collect();
        let mixed = graph.linear(&low, (net.config.rank, width), &flat(&cross.up.weights)?, &bias);
        let product = graph.node("Mul", &[x0, &mixed], &[]);
        crossed = if at == 0 { product } else { graph.node("Add", &[&product, &crossed], &[]) };
    }
    Ok(crossed)
}

/// −½ Σ w v² over fields and dimensions: `[batch, 1]`.
fn squares(graph: &mut Graph, wide: &Edge, fields: usize, e: usize, weights: &[f32]) -> Edge {
    let half: Vec<f32> = (0..fields * e).map(|at| -0.5 * weights[at % e]).collect();
    let half = graph.floats(&[fields * e, 1], &half);
    let squares = graph.node("Mul", &[wide, wide], &[]);
    graph.node("MatMul", &[&squares, &half], &[])
}

/// The deep part, given the product of its first layer.
fn deep(graph: &mut Graph, net: &Net, first: &Edge) -> Result<Edge> {
    let mut x = first.clone();
    let mut from = net.config.hidden.first().copied().unwrap_or(0);
    for (at, (layer, &to)) in net.deep.iter().zip(&net.config.hidden).enumerate() {
        let bias = flat(&layer.bias)?;
        let linear = if at == 0 {
            let bias = graph.floats(&[to], &bias);
            graph.node("Add", &[&x, &bias], &[])
        } else {
            graph.linear(&x, (from, to), &flat(&layer.weights)?, &bias)
        };
        (x, from) = (graph.node("Relu", &[&linear], &[]), to);
    }
    Ok(x)
}

/// The weighted sum of all terms as a probability.
fn finish(mut graph: Graph, terms: &[(Edge, Vec<f32>)], bias: f32) -> Exported {
    let edges: Vec<&Edge> = terms.iter().map(|(edge, _)| edge).collect();
    let all = graph.node("Concat", &edges, &[("axis", Attribute::Int(1))]);
    let weights: Vec<f32> = terms.iter().flat_map(|(_, weights)| weights.clone()).collect();
    let logit = graph.linear(&all, (weights.len(), 1), &weights, &[bias]);
    let p = graph.node("Sigmoid", &[&logit], &[]);
    let p = graph.reshape(&p, &[-1]);
    graph.finish(&p, "p", DType::F32, &[])
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.contiguous()?.flatten_all()?.to_vec1()
}

fn signed(n: usize) -> i64 {
    i64::try_from(n).expect("a dimension in memory fits i64")
}

#[cfg(test)]
mod tests {
    use inference::{Engine, ModelSpec, Values};

    use super::super::rows::{Batch, RowShape};
    use super::super::{CPU, Config};
    use super::*;
    use crate::nn;
    use crate::rng::Rng;

    #[test]
    fn the_graph_answers_like_the_network() {
        check(2, vec![6, 5]);
        check(1, vec![6]);
        check(3, vec![]);
        check(0, vec![6]);
    }

    fn check(crosses: usize, hidden: Vec<usize>) {
        let shape = RowShape { fields: 3, dense: 4, table_len: 20 };
        let config = Config { embedding: 4, rank: 3, crosses, hidden, ..Config::default() };
        let mut rng = Rng::new(12);
        let net = Net::new(&config, shape, &mut rng).unwrap();
        for var in net.vars() {
            let random = nn::normal_var(&mut rng, 0.5, var.dims()).unwrap();
            var.set(random.as_tensor()).unwrap();
        }
        let platt = Platt { scale: 0.8, offset: -0.3 };
        let exported = export(&net, platt).unwrap();
        let rows = 5;
        let fields: Vec<u32> = (0..rows * 3).map(|_| u32::try_from(rng.below(20)).unwrap()).collect();
        #[expect(clippy::cast_possible_truncation, reason = "a draw")]
        let dense: Vec<f32> = (0..rows * 4).map(|_| rng.normal() as f32).collect();
        let spec = ModelSpec { inputs: exported.inputs, output: exported.output, batches: vec![1, 8] };
        let session = Engine::choose(None).load(&exported.onnx, &spec).unwrap();
        let ids: Vec<i64> = fields.iter().map(|&id| i64::from(id)).collect();
        let mut served = Vec::new();
        session.run(&[Values::I64(&ids), Values::F32(&dense)], &mut served).unwrap();
        let batch = Batch {
            rows,
            fields: Tensor::from_vec(fields, rows * 3, &CPU).unwrap(),
            dense: Tensor::from_vec(dense, (rows, 4), &CPU).unwrap(),
        };
        let trained: Vec<f32> = net.logits(&batch, None).unwrap().to_vec1().unwrap();
        assert_eq!(served.len(), rows);
        for (a, b) in served.iter().zip(&trained) {
            assert!((a - platt.probability(*b)).abs() < 1e-5, "{a} {b}");
        }
    }
}
