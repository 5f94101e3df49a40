//! Every graph that must be refused is, with a reason, before an engine sees it; and nothing read from bytes can crash.

use std::time::{Duration, Instant};

use inference::graph::Attribute;
use inference::testing::graph::Graph;
use inference::{DType, Engine, ModelSpec, TensorSpec, testing, vet};
use prost::Message;
use tract_onnx::pb::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
    StringStringEntryProto,
};

use crate::support::{Seeded, engines, retrieval_spec};

/// `y = relu(x)` over rows of 4, to be broken.
fn simple() -> Graph {
    let mut graph = Graph::new("simple");
    graph
        .input("x", DType::F32, &[4])
        .output("y", DType::F32, &[4])
        .floats("w", &[4], &[1.0, 2.0, 3.0, 4.0])
        .node("Mul", &["x", "w"], "z", &[])
        .node("Relu", &["z"], "y", &[]);
    graph
}

fn spec() -> ModelSpec {
    let (inputs, output) = simple().specs();
    ModelSpec { inputs, output, batches: vec![1, 64] }
}

fn refusal(graph: &Graph) -> String {
    vet::vet(&graph.to_onnx(), &spec()).map(|_| ()).expect_err("it must be refused").to_string()
}

fn broken(break_it: impl FnOnce(&mut GraphProto)) -> String {
    let mut graph = simple();
    break_it(graph.graph());
    refusal(&graph)
}

/// A graph whose node `n` has this operator.
fn with_op(op: &str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)]) -> String {
    let mut graph = simple();
    graph.graph().node.clear();
    graph.node(op, inputs, "y", attributes);
    refusal(&graph)
}

fn assert_says(reason: &str, expected: &str) {
    assert!(reason.contains(expected), "`{reason}` does not say `{expected}`");
}

#[test]
fn a_simple_graph_is_taken() {
    let vetted = vet::vet(&simple().to_onnx(), &spec()).unwrap();
    assert_eq!((vetted.cost.parameters, vetted.cost.activations, vetted.cost.work), (4, 8, 8));
}

#[test]
fn operators_and_structure_that_are_not_allowed() {
    for op in
        ["Loop", "If", "Scan", "NonZero", "Tile", "ConstantOfShape", "Range", "RandomNormal", "Shape", ""]
    {
        assert_says(&with_op(op, &["x"], &[]), "is not allowed");
    }
    assert_says(&broken(|g| g.node[0].domain = "com.microsoft".into()), "operator domain `com.microsoft`");
    assert_says(&broken(|g| g.node[0].input[0] = "nowhere".into()), "before it is defined");
    assert_says(&broken(|g| g.node.swap(0, 1)), "before it is defined");
    assert_says(&broken(|g| g.node[1].output[0] = "z".into()), "defined twice");
    assert_says(&broken(|g| g.initializer[0].name = "x".into()), "defined twice");
    assert_says(&broken(|g| g.node[1].output.push("more".into())), "outputs");
    assert_says(&broken(|g| g.node.clear()), "in nodes");
    assert_says(&broken(|g| g.node.truncate(1)), "nothing computes");
    assert_says(
        &broken(|g| g.node = vec![NodeProto { op_type: "Relu".into(), ..NodeProto::default() }; 2049]),
        "2049",
    );
    assert_says(&broken(|g| g.node[0].attribute = vec![AttributeProto::default(); 65]), "parts");
    let nested = AttributeProto { g: Some(GraphProto::default()), ..AttributeProto::default() };
    assert_says(&broken(|g| g.node[0].attribute.push(nested)), "nested graph");
    assert_says(&broken(|g| g.sparse_initializer.push(SparseTensorProto::default())), "sparse");
}

#[test]
fn files_of_another_kind() {
    let mut graph = simple();
    graph.model.functions.push(FunctionProto::default());
    assert_says(&refusal(&graph), "functions");
    for version in [9, 12, 22, 99] {
        let mut graph = simple();
        graph.model.opset_import[0].version = version;
        assert_says(&refusal(&graph), "operator set");
    }
    let mut graph = simple();
    graph.model.opset_import.push(OperatorSetIdProto { domain: "com.microsoft".into(), version: 1 });
    assert_says(&refusal(&graph), "operator domain");
    let mut graph = simple();
    graph.model.opset_import.clear();
    assert_says(&refusal(&graph), "operator set");
    let mut graph = simple();
    graph.model.graph = None;
    assert_says(&refusal(&graph), "no graph");
}

#[test]
fn inputs_and_outputs_that_are_not_those_expected() {
    assert_says(&broken(|g| g.input[0].name = "other".into()), "inputs must be");
    assert_says(&broken(|g| g.input.clear()), "inputs must be");
    assert_says(&broken(|g| g.output[0].name = "z".into()), "outputs must be");
    assert_says(&broken(|g| g.output[0].r#type = None), "not a tensor");
    for (dtype, row) in
        [(DType::I64, vec![4]), (DType::F32, vec![5]), (DType::F32, vec![4, 1]), (DType::F32, vec![])]
    {
        let mut graph = simple();
        graph.graph().input.clear();
        graph.input("x", dtype, &row);
        assert_says(&refusal(&graph), "input `x` must be");
    }
    // The declaration is right, the computation is not.
    assert_says(&with_op("ReduceSum", &["x"], &[]), "comes out as");
    assert_says(&with_op("Equal", &["x", "x"], &[]), "comes out as Bool");
    // Right for a batch of one only.
    let mut graph = simple();
    graph.graph().node.clear();
    graph.ints("shape", &[1, 4]).node("Reshape", &["x", "shape"], "y", &[]);
    assert_says(&refusal(&graph), "does not reshape");
}

#[test]
fn tensors_that_are_not_all_there() {
    assert_says(&broken(|g| g.initializer[0].raw_data.truncate(12)), "does not have the data");
    assert_says(&broken(|g| g.initializer[0].raw_data.clear()), "does not have the data");
    assert_says(&broken(|g| g.initializer[0].float_data.push(1.0)), "does not have the data");
    assert_says(&broken(|g| g.initializer[0].dims = vec![1 << 40]), "in elements");
    assert_says(&broken(|g| g.initializer[0].dims = vec![1 << 40, 1 << 40]), "in elements");
    assert_says(&broken(|g| g.initializer[0].dims = vec![-4]), "below 1");
    assert_says(&broken(|g| g.initializer[0].dims = vec![0]), "below 1");
    assert_says(&broken(|g| g.initializer[0].dims = vec![1; 9]), "dimensions");
    for data_type in [0, 2, 6, 8, 10, 11, 16, 77] {
        assert_says(&broken(|g| g.initializer[0].data_type = data_type), "element type");
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_says(
            &broken(|g| g.initializer[0].raw_data[..4].copy_from_slice(&value.to_le_bytes())),
            "not finite",
        );
    }
    assert_says(&broken(|g| g.initializer[0].data_location = Some(1)), "outside of the file");
    let entry = StringStringEntryProto { key: "location".into(), value: "/etc/passwd".into() };
    assert_says(&broken(|g| g.initializer[0].external_data.push(entry)), "external data");
}

/// Operator, inputs, attributes, and what the refusal says.
type Case<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, Attribute<'a>)], &'a str);

#[test]
fn shapes_that_do_not_fit() {
    let cases: [Case<'_>; 15] = [
        ("MatMul", &["x", "m"], &[], "by"),
        ("Add", &["x", "m"], &[], "broadcast"),
        ("Add", &["x", "i"], &[], "with"),
        ("Div", &["i", "i"], &[], "must be floats"),
        ("Gather", &["x", "m"], &[], "must be i64"),
        ("Gather", &["x", "i"], &[("axis", Attribute::Int(2))], "axis 2"),
        ("Concat", &["x", "m"], &[("axis", Attribute::Int(1))], "on axis"),
        ("Transpose", &["x"], &[("perm", Attribute::Ints(&[0, 0]))], "twice"),
        ("Squeeze", &["x"], &[("axes", Attribute::Ints(&[1]))], "not all 1"),
        ("Reshape", &["x", "x"], &[], "must be a constant"),
        ("Softmax", &["i"], &[], "must be floats"),
        ("Cast", &["x"], &[("to", Attribute::Int(8))], "unknown element type"),
        ("Clip", &["x", "m"], &[], "one number"),
        ("LayerNormalization", &["x", "m"], &[], "of shape [4]"),
        ("LayerNormalization", &["x", "w"], &[("axis", Attribute::Int(0))], "of shape [1, 4]"),
    ];
    for (op, inputs, attributes, expected) in cases {
        let mut graph = simple();
        graph.graph().node.clear();
        graph.floats("m", &[3, 3], &[0.5; 9]).ints("i", &[1, 2]).node(op, inputs, "y", attributes);
        assert_says(&refusal(&graph), expected);
    }
}

#[test]
fn graphs_that_would_take_too_much() {
    // 100,000 by 100,000 out of two short lists.
    let mut graph = simple();
    graph.graph().node.clear();
    graph
        .floats("column", &[100_000, 1], &[1.0; 100_000])
        .floats("row", &[1, 100_000], &[1.0; 100_000])
        .node("Add", &["column", "row"], "big", &[])
        .node("ReduceSum", &["big"], "y", &[]);
    assert_says(&refusal(&graph), "in elements");
    let mut graph = simple();
    graph.graph().node.clear();
    graph.ints("shape", &[1 << 20, 1 << 20, 4]).node("Expand", &["x", "shape"], "y", &[]);
    assert_says(&refusal(&graph), "in elements");
    // Each within the limit, together beyond it.
    let mut graph = simple();
    graph.graph().node.clear();
    graph.floats("many", &[1_000_000], &[1.0; 1_000_000]);
    (0..70).for_each(|n| {
        let _ = graph.node("Neg", &["many"], &format!("n{n}"), &[]);
    });
    assert_says(&refusal(&graph), "memory of a run");
    // 1000³ multiplications at a time.
    let mut graph = simple();
    graph.graph().node.clear();
    graph.floats("m", &[1000, 1000], &[1.0; 1_000_000]);
    (0..5).for_each(|n| {
        let _ = graph.node("MatMul", &["m", "m"], &format!("n{n}"), &[]);
    });
    assert_says(&refusal(&graph), "work of a run");
}

#[test]
fn bytes_that_would_decode_into_too_much_are_refused_quickly() {
    // Field 7 (graph) of a million empty nodes (field 1, length 0): 2 bytes each, some 200 in memory.
    let nodes: Vec<u8> = std::iter::repeat_n([0x0a, 0x00], 1_000_000).flatten().collect();
    let mut bytes = vec![0x3a];
    prost::encoding::encode_varint(nodes.len() as u64, &mut bytes);
    bytes.extend(nodes);
    let before = Instant::now();
    let error = vet::vet(&bytes, &spec()).map(|_| ()).unwrap_err().to_string();
    assert_says(&error, "entries");
    assert!(before.elapsed() < Duration::from_millis(500));
}

#[test]
fn a_cut_file_is_refused_wherever_it_is_cut() {
    let model = testing::retrieval(&testing::catalog(10), 7);
    let spec = retrieval_spec(&model);
    for len in 0..model.onnx.len() {
        assert!(vet::vet(&model.onnx[..len], &spec).is_err(), "cut at {len}");
    }
}

#[test]
fn damaged_files_never_crash_an_engine() {
    let model = testing::retrieval(&testing::catalog(10), 7);
    let spec = retrieval_spec(&model);
    let mut seeded = Seeded(99);
    let engines = engines();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..3000 {
        let mut onnx = model.onnx.clone();
        for _ in 0..=seeded.below(3) {
            let at = seeded.below(onnx.len());
            onnx[at] = seeded.next() as u8;
        }
        if vet::vet(&onnx, &spec).is_err() {
            refused += 1;
            continue;
        }
        taken += 1;
        if taken > 60 {
            continue;
        }
        for engine in &engines {
            if let Ok(session) = engine.load(&onnx, &spec) {
                let mut out = Vec::new();
                let _ = session.run(&[inference::Values::I64(&[0, 1, 2, 3, 4])], &mut out);
            }
        }
    }
    assert!(taken > 60 && refused > 500, "{taken} taken, {refused} refused: the damage is not varied enough");
}

#[test]
fn every_allowed_operator_gives_the_same_in_both_engines() {
    let float = |name: &str| TensorSpec::batched(name, DType::F32, &[4]);
    let ids = TensorSpec::batched("ids", DType::I64, &[2]);
    let spec = ModelSpec {
        inputs: vec![float("x"), ids],
        output: TensorSpec::batched("y", DType::F32, &[6]),
        batches: vec![1, 3],
    };
    let mut graph = Graph::new("all");
    graph
        .input("x", DType::F32, &[4])
        .input("ids", DType::I64, &[2])
        .output("y", DType::F32, &[6])
        .floats("table", &[5, 4], &std::array::from_fn::<f32, 20, _>(|n| n as f32 / 10.0 - 1.0))
        .floats("square", &[4, 4], &std::array::from_fn::<f32, 16, _>(|n| (n as f32).sin()))
        .floats("one", &[4], &[1.0; 4])
        .floats("small", &[1], &[0.1])
        .floats("half", &[1], &[0.5])
        .ints("axis1", &[1])
        .ints("axis2", &[2])
        .ints("zero", &[0])
        .ints("two", &[2])
        .ints("four", &[4])
        .ints("halves", &[2, 2])
        .ints("heads", &[0, -1, 2])
        .ints("flat", &[0, -1])
        .ints("limit", &[3]);
    embedded(&mut graph);
    mixed(&mut graph);
    let onnx = graph.to_onnx();
    let mut seeded = Seeded(5);
    let x: Vec<f32> = (0..12).map(|_| seeded.float()).collect();
    let ids: Vec<i64> = (0..6).map(|_| seeded.below(5) as i64).collect();
    let answers: Vec<Vec<f32>> = engines()
        .iter()
        .map(|engine| {
            let session = engine.load(&onnx, &spec).unwrap();
            let mut out = Vec::new();
            session.run(&[inference::Values::F32(&x), inference::Values::I64(&ids)], &mut out).unwrap();
            out
        })
        .collect();
    assert_eq!(answers[0].len(), 18);
    answers[1..].iter().for_each(|other| crate::support::assert_close(other, &answers[0]));
}

/// An embedding with a mask, normalised, attended to: `e` is [batch, 4].
fn embedded(graph: &mut Graph) {
    let none: &[(&str, Attribute<'_>)] = &[];
    graph
        .node("Gather", &["table", "ids"], "rows", none)
        .node("LayerNormalization", &["rows", "one"], "norm", &[("axis", Attribute::Int(-1))])
        .node("Equal", &["ids", "zero"], "padding", none)
        .node("Not", &["padding"], "real", none)
        .node("Or", &["padding", "real"], "always", none)
        .node("And", &["always", "real"], "shown", none)
        .node("Cast", &["shown"], "weight", &[("to", Attribute::Int(1))])
        .node("Unsqueeze", &["weight", "axis2"], "column", none)
        .node("Mul", &["norm", "column"], "masked", none)
        .node("Transpose", &["masked"], "turned", &[("perm", Attribute::Ints(&[0, 2, 1]))])
        .node("MatMul", &["masked", "turned"], "scores", none)
        .node("Softmax", &["scores"], "attention", &[("axis", Attribute::Int(-1))])
        .node("MatMul", &["attention", "masked"], "mixed", none)
        .node(
            "ReduceMean",
            &["mixed"],
            "mean",
            &[("axes", Attribute::Ints(&[1])), ("keepdims", Attribute::Int(0))],
        )
        .node("Slice", &["masked", "zero", "axis1", "axis1"], "first", none)
        .node("Squeeze", &["first", "axis1"], "first_row", none)
        .node("Reshape", &["first_row", "heads"], "heads_of", none)
        .node("Flatten", &["heads_of"], "unheaded", &[("axis", Attribute::Int(1))])
        .node("Add", &["mean", "unheaded"], "e", none);
}

/// Everything else: `y` is [batch, 6].
fn mixed(graph: &mut Graph) {
    let none: &[(&str, Attribute<'_>)] = &[];
    graph
        .node("Gemm", &["x", "square", "one"], "g", &[("transB", Attribute::Int(1))])
        .node("Greater", &["g", "x"], "more", none)
        .node("Where", &["more", "g", "x"], "chosen", none)
        .node("Abs", &["chosen"], "positive", none)
        .node("Add", &["positive", "small"], "above", none)
        .node("Log", &["above"], "logs", none)
        .node("Sqrt", &["above"], "roots", none)
        .node("Pow", &["above", "half"], "powers", none)
        .node("Div", &["logs", "above"], "quotients", none)
        .node("Max", &["roots", "powers", "quotients"], "largest", none)
        .node("Min", &["largest", "one"], "smallest", none)
        .node("Sigmoid", &["smallest"], "s", none)
        .node("Tanh", &["e"], "t", none)
        .node("Erf", &["s"], "erf", none)
        .node("Relu", &["t"], "r", none)
        .node("Sub", &["erf", "r"], "difference", none)
        .node("Exp", &["difference"], "exp", none)
        .node("Neg", &["exp"], "negative", none)
        .node("Clip", &["negative", "", "small_scalar"], "clipped", none)
        .node("Identity", &["clipped"], "same", none)
        .node("ReduceSum", &["same", "axis1"], "sum", none)
        .node("ReduceMax", &["same"], "max", &[("axes", Attribute::Ints(&[1]))])
        .node("Concat", &["same", "sum", "max"], "y", &[("axis", Attribute::Int(1))])
        .floats("small_scalar", &[], &[0.1]);
}

#[test]
fn an_engine_refuses_what_the_graph_check_refuses() {
    let mut graph = simple();
    graph.graph().node[0].op_type = "Loop".into();
    for engine in engines() {
        assert_says(
            &engine.load(&graph.to_onnx(), &spec()).unwrap_err().to_string(),
            "`Loop` is not allowed",
        );
    }
    let unread = [simple().to_onnx(), vec![0xfa, 0x7f, 0x03, b'a', b'b', b'c']].concat();
    let vetted = vet::vet(&unread, &spec()).unwrap();
    assert_eq!(vetted.cost.parameters, 4);
    assert!(Engine::tract().load(&unread, &spec()).is_ok());
    assert!(tract_onnx::pb::ModelProto::decode(unread.as_slice()).is_ok());
}
