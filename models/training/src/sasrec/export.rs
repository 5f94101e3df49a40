//! [`Net`] as an ONNX graph made for serving: `history` i64 `[batch, L]` (item index + 1, 0 = padding on the left) →
//! `scores` f32 `[batch, items]`.
//!
//! Only the last position is asked for, so the last block has one query a head, and its four matrices fold into two:
//! with N the normalized inputs and n its last row, q·k = n (Wq Wkᵀ) Nᵀ (the keys' bias moves all weights of a query alike, and softmax
//! does not see that), and the mixed values go through Wv Wo. So keys and values of the L positions are never computed.

use candle_core::{Result, Tensor};
use inference::DType;
use inference::graph::{Attribute, Edge, Exported, Graph};

use super::{Block, Config, MASKED, Net};
use crate::nn::NORMALIZE_EPSILON;

/// The graph of a trained network.
pub fn export(net: &Net) -> Result<Exported> {
    let config = &net.config;
    let (len, d, items) = (config.len, config.dim, net.items.dim(0)?);
    let mut graph = Graph::new("retrieval");
    let history = graph.input("history", DType::I64, &[len]);

    let table = graph.floats(&[items + 1, d], &input_table(net)?);
    let positions = graph.floats(&[len, d], &flat(&net.positions)?);
    let embedded = graph.node("Gather", &[&table, &history], &[]);
    let mut x = graph.node("Add", &[&embedded, &positions], &[]);

    // What is added to the weight of each position: looked up, which is one node instead of three.
    let mut hidden = vec![0.0; items + 1];
    hidden[0] = MASKED;
    let hidden = graph.floats(&[items + 1], &hidden);
    let padding = graph.node("Gather", &[&hidden, &history], &[]);

    let (last, before) = net.blocks.split_last().expect("a network has a block");
    if !before.is_empty() {
        let mask = causal_mask(&mut graph, &padding, len);
        for block in before {
            x = whole_block(&mut graph, block, config, &x, &mask)?;
        }
    }
    let x = last_block(&mut graph, last, config, &x, &padding)?;
    let normal = normalize(&mut graph, &x, d);
    let out = flat(&net.items.as_tensor().t()?)?;
    let scores = graph.linear(&normal, (d, items), &out, &flat(&net.item_bias)?);
    Ok(graph.finish(&scores, "scores", DType::F32, &[items]))
}

/// Scaled embeddings, with a row of zeros before them for padding.
fn input_table(net: &Net) -> Result<Vec<f32>> {
    let mut table = vec![0.0; net.config.dim];
    table.extend(flat(&(net.items.as_tensor() * net.config.embedding_scale())?)?);
    Ok(table)
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.contiguous()?.flatten_all()?.to_vec1()
}

/// `[batch, 1, L, L]`: a query sees itself and what came before, but no padding.
fn causal_mask(graph: &mut Graph, padding: &Edge, len: usize) -> Edge {
    let causal: Vec<f32> =
        (0..len).flat_map(|query| (0..len).map(move |key| if key <= query { 0.0 } else { MASKED })).collect();
    let causal = graph.floats(&[1, 1, len, len], &causal);
    let padding = graph.reshape(padding, &[-1, 1, 1, signed(len)]);
    graph.node("Add", &[&padding, &causal], &[])
}

fn normalize(graph: &mut Graph, x: &Edge, d: usize) -> Edge {
    let scale = graph.floats(&[d], &vec![1.0; d]);
    let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(NORMALIZE_EPSILON))];
    graph.node("LayerNormalization", &[x, &scale], &attributes)
}

fn whole_block(graph: &mut Graph, block: &Block, config: &Config, x: &Edge, mask: &Edge) -> Result<Edge> {
    let (len, d, heads) = (signed(config.len), config.dim, config.heads);
    let normal = normalize(graph, x, d);
    let qkv =
        graph.linear(&normal, (d, 3 * d), &scaled_queries(block, config)?, &scaled_bias(block, config)?);
    let parts = graph.nodes("Split", &[&qkv], &[("axis", Attribute::Int(-1))], 3);
    let mut by_head = |part: &Edge, order: [i64; 4]| {
        let split = graph.reshape(part, &[-1, len, signed(heads), signed(d / heads)]);
        graph.transpose(&split, &order)
    };
    let query = by_head(&parts[0], [0, 2, 1, 3]);
    let key = by_head(&parts[1], [0, 2, 3, 1]);
    let value = by_head(&parts[2], [0, 2, 1, 3]);
    let product = graph.node("MatMul", &[&query, &key], &[]);
    let masked = graph.node("Add", &[&product, mask], &[]);
    let weights = graph.node("Softmax", &[&masked], &[("axis", Attribute::Int(-1))]);
    let mixed = graph.node("MatMul", &[&weights, &value], &[]);
    let mixed = graph.transpose(&mixed, &[0, 2, 1, 3]);
    let mixed = graph.reshape(&mixed, &[-1, len, signed(d)]);
    let mixed = graph.linear(&mixed, (d, d), &flat(&block.out)?, &flat(&block.out_bias)?);
    let x = graph.node("Add", &[x, &mixed], &[]);
    feed(graph, block, config, &x)
}

fn last_block(graph: &mut Graph, block: &Block, config: &Config, x: &Edge, padding: &Edge) -> Result<Edge> {
    let (len, d, heads) = (signed(config.len), config.dim, config.heads);
    let normal = normalize(graph, x, d);
    let newest = |graph: &mut Graph, x: &Edge| {
        let (from, to, axis) = (graph.ints(&[len - 1]), graph.ints(&[len]), graph.ints(&[1]));
        let cut = graph.node("Slice", &[x, &from, &to, &axis], &[]);
        graph.reshape(&cut, &[-1, signed(d)])
    };
    let (x, newest_normal) = (newest(graph, x), newest(graph, &normal));
    let folded = Folded::new(block, config)?;
    let query = graph.linear(&newest_normal, (d, heads * d), &folded.query, &folded.query_bias);
    let query = graph.reshape(&query, &[-1, signed(heads), signed(d)]);
    let keys = graph.transpose(&normal, &[0, 2, 1]);
    let product = graph.node("MatMul", &[&query, &keys], &[]);
    let padding = graph.reshape(padding, &[-1, 1, len]);
    let masked = graph.node("Add", &[&product, &padding], &[]);
    let weights = graph.node("Softmax", &[&masked], &[("axis", Attribute::Int(-1))]);
    let mixed = graph.node("MatMul", &[&weights, &normal], &[]);
    let mixed = graph.reshape(&mixed, &[-1, signed(heads * d)]);
    let mixed = graph.linear(&mixed, (heads * d, d), &folded.value, &folded.value_bias);
    let x = graph.node("Add", &[&x, &mixed], &[]);
    feed(graph, block, config, &x)
}

fn feed(graph: &mut Graph, block: &Block, config: &Config, x: &Edge) -> Result<Edge> {
    let (d, h) = (config.dim, config.hidden);
    let normal = normalize(graph, x, d);
    let up = graph.linear(&normal, (d, h), &flat(&block.up)?, &flat(&block.up_bias)?);
    let up = graph.node("Relu", &[&up], &[]);
    let down = graph.linear(&up, (h, d), &flat(&block.down)?, &flat(&block.down_bias)?);
    Ok(graph.node("Add", &[x, &down], &[]))
}

/// `[D, 3D]` with the attention scale in the queries' columns.
fn scaled_queries(block: &Block, config: &Config) -> Result<Vec<f32>> {
    scale_queries(flat(&block.qkv)?, config)
}

fn scaled_bias(block: &Block, config: &Config) -> Result<Vec<f32>> {
    scale_queries(flat(&block.qkv_bias)?, config)
}

fn scale_queries(mut rows: Vec<f32>, config: &Config) -> Result<Vec<f32>> {
    for row in rows.chunks_exact_mut(3 * config.dim) {
        row[..config.dim].iter_mut().for_each(|w| *w *= config.attention_scale());
    }
    Ok(rows)
}

/// The last block's matrices, folded head by head.
struct Folded {
    /// `[D, heads * D]`: Wq Wkᵀ, scaled.
    query: Vec<f32>,
    /// `[heads * D]`: bq Wkᵀ, scaled.
    query_bias: Vec<f32>,
    /// `[heads * D, D]`: Wv Wo.
    value: Vec<f32>,
    /// `[D]`: bv Wo + bo, as attention weights sum to 1.
    value_bias: Vec<f32>,
}

impl Folded {
    fn new(block: &Block, config: &Config) -> Result<Self> {
        let (d, heads) = (config.dim, config.heads);
        let width = d / heads;
        let scale = f64::from(config.attention_scale());
        let bias = block.qkv_bias.reshape((1, 3 * d))?;
        let (mut query, mut query_bias, mut value) = (Vec::new(), Vec::new(), Vec::new());
        let mut value_bias = block.out_bias.reshape((1, d))?;
        for head in 0..heads {
            let part = |x: &Tensor, at: usize| x.narrow(1, at * d + head * width, width)?.contiguous();
            let keys = part(&block.qkv, 1)?.t()?.contiguous()?;
            query.push((part(&block.qkv, 0)?.matmul(&keys)? * scale)?);
            query_bias.push((part(&bias, 0)?.matmul(&keys)? * scale)?);
            let out = block.out.narrow(0, head * width, width)?.contiguous()?;
            value.push(part(&block.qkv, 2)?.matmul(&out)?);
            value_bias = (value_bias + part(&bias, 2)?.matmul(&out)?)?;
        }
        Ok(Self {
            query: flat(&Tensor::cat(&query, 1)?)?,
            query_bias: flat(&Tensor::cat(&query_bias, 1)?)?,
            value: flat(&Tensor::cat(&value, 0)?)?,
            value_bias: flat(&value_bias)?,
        })
    }
}

fn signed(n: usize) -> i64 {
    i64::try_from(n).expect("a dimension in memory fits i64")
}

#[cfg(test)]
mod tests {
    use inference::{Engine, ModelSpec, Values};

    use super::*;
    use crate::nn;
    use crate::rng::Rng;

    /// The exported graph, run as it is served, must answer like the network that was trained.
    fn check(blocks: usize, heads: usize) {
        let config = Config { len: 7, dim: 8, hidden: 12, heads, blocks, ..Config::default() };
        let mut rng = Rng::new(11);
        let net = Net::new(&config, 30, &mut rng).unwrap();
        for var in net.vars() {
            let random = nn::normal_var(&mut rng, 0.3, var.dims()).unwrap();
            var.set(random.as_tensor()).unwrap();
        }
        let exported = export(&net).unwrap();
        let histories: [&[u32]; 4] = [&[3], &[1, 2, 3, 4, 5, 6, 7], &[29, 0, 29], &[5, 6, 7, 8]];
        let spec =
            ModelSpec { inputs: exported.inputs, output: exported.output, batches: vec![1, histories.len()] };
        let session = Engine::choose(None).load(&exported.onnx, &spec).unwrap();
        let mut rows = vec![0_i64; 4 * 7];
        for (row, history) in rows.chunks_exact_mut(7).zip(histories) {
            let pad = 7 - history.len();
            row[pad..].iter_mut().zip(history).for_each(|(to, &item)| *to = i64::from(item) + 1);
        }
        let mut served = Vec::new();
        session.run(&[Values::I64(&rows)], &mut served).unwrap();
        let trained = net.scores(&histories).unwrap();
        assert_eq!(served.len(), trained.len());
        for (a, b) in served.iter().zip(&trained) {
            assert!((a - b).abs() < 1e-4, "{blocks} blocks, {heads} heads: {a} {b}");
        }
    }

    #[test]
    fn the_graph_answers_like_the_network() {
        check(1, 1);
        check(1, 2);
        check(2, 2);
        check(3, 4);
    }
}
