//! [`Net`] as an ONNX graph: `fields` i64 `[batch, F]` and `dense` f32 `[batch, D]` → `p` f32 `[batch]`, with the calibration
//! folded into the last layer.

use candle_core::{Result, Tensor};
use inference::DType;

use super::Net;
use super::train::Platt;
use crate::onnx::{Attribute, Edge, Exported, Graph};

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
    let x0 = graph.node("Concat", &[&wide, &numbers], &[Attribute::Int("axis", 1)]);

    let mut crossed = x0.clone();
    for cross in &net.crosses {
        let down = graph.floats(&[width, net.config.rank], &flat(&cross.down)?);
        let low = graph.node("MatMul", &[&crossed, &down], &[]);
        let (up, bias) = (flat(&cross.up.weights)?, flat(&cross.up.bias)?);
        let mixed = graph.linear(&low, (net.config.rank, width), &up, &bias);
        let product = graph.node("Mul", &[&x0, &mixed], &[]);
        crossed = graph.node("Add", &[&product, &crossed], &[]);
    }
    let mut parts = vec![crossed, pairwise(&mut graph, &wide, fields, e)];
    let (mut deep, mut from) = (x0, width);
    for (layer, &to) in net.deep.iter().zip(&net.config.hidden) {
        let linear = graph.linear(&deep, (from, to), &flat(&layer.weights)?, &flat(&layer.bias)?);
        (deep, from) = (graph.node("Relu", &[&linear], &[]), to);
    }
    if !net.deep.is_empty() {
        parts.push(deep);
    }
    let parts: Vec<&Edge> = parts.iter().collect();
    let all = graph.node("Concat", &parts, &[Attribute::Int("axis", 1)]);
    let weights: Vec<f32> = flat(&net.last.weights)?.iter().map(|w| w * platt.scale).collect();
    let bias: Vec<f32> = flat(&net.last.bias)?.iter().map(|b| b * platt.scale + platt.offset).collect();
    let logit = graph.linear(&all, (weights.len(), 1), &weights, &bias);
    let p = graph.node("Sigmoid", &[&logit], &[]);
    let p = graph.reshape(&p, &[-1]);
    Ok(graph.finish(&p, "p", DType::F32, &[]))
}

/// ½((Σv)² − Σv²) over the fields. The sums are matrix products with a column of unit matrices, which both engines do faster
/// than a reduction over the middle dimension.
fn pairwise(graph: &mut Graph, wide: &Edge, fields: usize, e: usize) -> Edge {
    let unit = |scale: f32| -> Vec<f32> {
        (0..fields * e).flat_map(|row| (0..e).map(move |c| if row % e == c { scale } else { 0.0 })).collect()
    };
    let half = std::f32::consts::FRAC_1_SQRT_2;
    let (sum, square_sum) =
        (graph.floats(&[fields * e, e], &unit(half)), graph.floats(&[fields * e, e], &unit(0.5)));
    let total = graph.node("MatMul", &[wide, &sum], &[]);
    let total = graph.node("Mul", &[&total, &total], &[]);
    let squares = graph.node("Mul", &[wide, wide], &[]);
    let squares = graph.node("MatMul", &[&squares, &square_sum], &[]);
    graph.node("Sub", &[&total, &squares], &[])
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
        let shape = RowShape { fields: 3, dense: 4, table_len: 20 };
        let config = Config { embedding: 4, rank: 3, hidden: vec![6, 5], ..Config::default() };
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
