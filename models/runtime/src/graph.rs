//! Writes ONNX graphs (operator set 17) with the protobuf types that tract exposes, so that no exporter in another
//! language is needed. Both engines read the files.

use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};

use crate::tensor::{DType, TensorSpec};

const OPERATOR_SET: i64 = 17;
const IR_VERSION: i64 = 8;

/// A value of the graph: an input, a constant or what a node computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge(String);

/// The value of a node's attribute.
#[derive(Debug, Clone, Copy)]
pub enum Attribute<'a> {
    /// An integer.
    Int(i64),
    /// Integers.
    Ints(&'a [i64]),
    /// A number.
    Float(f32),
}

/// A graph in the making.
pub struct Graph {
    graph: GraphProto,
    inputs: Vec<TensorSpec>,
    edges: usize,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        let graph = GraphProto { name: name.to_owned(), ..GraphProto::default() };
        Self { graph, inputs: Vec::new(), edges: 0 }
    }

    /// An input with any number of rows of the shape `row`.
    pub fn input(&mut self, name: &str, dtype: DType, row: &[usize]) -> Edge {
        let spec = TensorSpec::batched(name, dtype, row);
        self.graph.input.push(value_info(&spec));
        self.inputs.push(spec);
        Edge(name.to_owned())
    }

    /// Constant numbers.
    pub fn floats(&mut self, dims: &[usize], values: &[f32]) -> Edge {
        assert_eq!(dims.iter().product::<usize>(), values.len(), "a constant's shape and values agree");
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(DType::F32, dims, raw)
    }

    /// A constant list of integers.
    pub fn ints(&mut self, values: &[i64]) -> Edge {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(DType::I64, &[values.len()], raw)
    }

    fn constant(&mut self, dtype: DType, dims: &[usize], raw: Vec<u8>) -> Edge {
        let edge = self.edge("c");
        self.graph.initializer.push(constant(&edge.0, dtype, dims, raw));
        edge
    }

    /// A node with one output.
    pub fn node(&mut self, op: &str, inputs: &[&Edge], attributes: &[(&str, Attribute<'_>)]) -> Edge {
        self.nodes(op, inputs, attributes, 1).remove(0)
    }

    /// A node with several outputs.
    pub fn nodes(
        &mut self,
        op: &str,
        inputs: &[&Edge],
        attributes: &[(&str, Attribute<'_>)],
        outputs: usize,
    ) -> Vec<Edge> {
        let outputs: Vec<Edge> = (0..outputs).map(|_| self.edge("v")).collect();
        let name = format!("{op}_{}", self.graph.node.len());
        let names = |edges: &mut dyn Iterator<Item = &Edge>| edges.map(|edge| edge.0.clone()).collect();
        let (input, output) = (names(&mut inputs.iter().copied()), names(&mut outputs.iter()));
        self.graph.node.push(node(name, op, input, output, attributes));
        outputs
    }

    /// `x @ weights + bias`.
    pub fn linear(&mut self, x: &Edge, (from, to): (usize, usize), weights: &[f32], bias: &[f32]) -> Edge {
        let (weights, bias) = (self.floats(&[from, to], weights), self.floats(&[to], bias));
        let product = self.node("MatMul", &[x, &weights], &[]);
        self.node("Add", &[&product, &bias], &[])
    }

    /// The same values in another shape; -1 is what is left, 0 stays.
    pub fn reshape(&mut self, x: &Edge, dims: &[i64]) -> Edge {
        let dims = self.ints(dims);
        self.node("Reshape", &[x, &dims], &[])
    }

    /// Dimensions in another order.
    pub fn transpose(&mut self, x: &Edge, order: &[i64]) -> Edge {
        self.node("Transpose", &[x], &[("perm", Attribute::Ints(order))])
    }

    /// Names `edge` the graph's output and gives the file and the specs of inputs and output.
    pub fn finish(mut self, edge: &Edge, name: &str, dtype: DType, row: &[usize]) -> Exported {
        let node = self.graph.node.iter_mut().find(|node| node.output.contains(&edge.0));
        let node = node.expect("the output is what a node computes");
        node.output.iter_mut().filter(|out| **out == edge.0).for_each(|out| *out = name.to_owned());
        let output = TensorSpec::batched(name, dtype, row);
        self.graph.output.push(value_info(&output));
        Exported { onnx: model(self.graph).encode_to_vec(), inputs: self.inputs, output }
    }

    fn edge(&mut self, kind: &str) -> Edge {
        self.edges += 1;
        Edge(format!("{kind}{}", self.edges))
    }
}

/// An ONNX file and what it takes and gives.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The file.
    pub onnx: Vec<u8>,
    /// Its inputs, in order.
    pub inputs: Vec<TensorSpec>,
    /// Its output.
    pub output: TensorSpec,
}

/// A graph as a file has it.
pub(crate) fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPERATOR_SET }],
        producer_name: "rockpool".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        ..ModelProto::default()
    }
}

pub(crate) fn constant(name: &str, dtype: DType, dims: &[usize], raw_data: Vec<u8>) -> TensorProto {
    let dim = |&dim: &usize| i64::try_from(dim).expect("a dimension in memory fits i64");
    TensorProto {
        name: name.to_owned(),
        data_type: data_type(dtype).into(),
        dims: dims.iter().map(dim).collect(),
        raw_data,
        ..TensorProto::default()
    }
}

pub(crate) fn node(
    name: String,
    op: &str,
    input: Vec<String>,
    output: Vec<String>,
    attributes: &[(&str, Attribute<'_>)],
) -> NodeProto {
    let attribute = attributes.iter().map(|(name, value)| attribute(name, *value)).collect();
    NodeProto { name, op_type: op.to_owned(), input, output, attribute, ..NodeProto::default() }
}

pub(crate) fn attribute(name: &str, value: Attribute<'_>) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    let kind = match value {
        Attribute::Int(i) => {
            attribute.i = i;
            AttributeType::Int
        }
        Attribute::Ints(ints) => {
            attribute.ints = ints.to_vec();
            AttributeType::Ints
        }
        Attribute::Float(f) => {
            attribute.f = f;
            AttributeType::Float
        }
    };
    attribute.r#type = kind.into();
    attribute
}

fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::F32 => DataType::Float,
        DType::I64 => DataType::Int64,
    }
}

/// An input or output, of any number of rows where the spec says so.
pub(crate) fn value_info(spec: &TensorSpec) -> ValueInfoProto {
    let dim = |&dim: &i64| {
        let value = match dim {
            -1 => dimension::Value::DimParam("batch".to_owned()),
            dim => dimension::Value::DimValue(dim),
        };
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = Some(TensorShapeProto { dim: spec.dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: data_type(spec.dtype).into(), shape };
    ValueInfoProto {
        name: spec.name.clone(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}
