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

use inference::{DType, TensorSpec};

const OPERATOR_SET: i64 = 17;
const IR_VERSION: i64 = 8;

/// A value of the graph: an input, a constant or what a node computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge(String);

/// A node's attribute.
#[derive(Debug, Clone, Copy)]
pub enum Attribute<'a> {
    /// An integer.
    Int(&'a str, i64),
    /// Integers.
    Ints(&'a str, &'a [i64]),
    /// A number.
    Float(&'a str, f32),
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
        self.constant(DataType::Float, dims, raw)
    }

    /// A constant list of integers.
    pub fn ints(&mut self, values: &[i64]) -> Edge {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(DataType::Int64, &[values.len()], raw)
    }

    fn constant(&mut self, dtype: DataType, dims: &[usize], raw_data: Vec<u8>) -> Edge {
        let edge = self.edge("c");
        let dims =
            dims.iter().map(|&dim| i64::try_from(dim).expect("a dimension in memory fits i64")).collect();
        self.graph.initializer.push(TensorProto {
            name: edge.0.clone(),
            data_type: dtype.into(),
            dims,
            raw_data,
            ..TensorProto::default()
        });
        edge
    }

    /// A node with one output.
    pub fn node(&mut self, op: &str, inputs: &[&Edge], attributes: &[Attribute<'_>]) -> Edge {
        self.nodes(op, inputs, attributes, 1).remove(0)
    }

    /// A node with several outputs.
    pub fn nodes(
        &mut self,
        op: &str,
        inputs: &[&Edge],
        attributes: &[Attribute<'_>],
        outputs: usize,
    ) -> Vec<Edge> {
        let outputs: Vec<Edge> = (0..outputs).map(|_| self.edge("v")).collect();
        self.graph.node.push(NodeProto {
            name: format!("{op}_{}", self.graph.node.len()),
            op_type: op.to_owned(),
            input: inputs.iter().map(|edge| edge.0.clone()).collect(),
            output: outputs.iter().map(|edge| edge.0.clone()).collect(),
            attribute: attributes.iter().map(attribute).collect(),
            ..NodeProto::default()
        });
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
        self.node("Transpose", &[x], &[Attribute::Ints("perm", order)])
    }

    /// Names `edge` the graph's output and gives the file and the specs of inputs and output.
    pub fn finish(mut self, edge: &Edge, name: &str, dtype: DType, row: &[usize]) -> Exported {
        let node = self.graph.node.iter_mut().find(|node| node.output.contains(&edge.0));
        let node = node.expect("the output is what a node computes");
        node.output.iter_mut().filter(|out| **out == edge.0).for_each(|out| *out = name.to_owned());
        let output = TensorSpec::batched(name, dtype, row);
        self.graph.output.push(value_info(&output));
        let opset = OperatorSetIdProto { domain: String::new(), version: OPERATOR_SET };
        let model = ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![opset],
            producer_name: "rockpool-train".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            ..ModelProto::default()
        };
        Exported { onnx: model.encode_to_vec(), inputs: self.inputs, output }
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

fn attribute(attribute: &Attribute<'_>) -> AttributeProto {
    let mut proto = AttributeProto::default();
    let (name, kind) = match *attribute {
        Attribute::Int(name, i) => {
            proto.i = i;
            (name, AttributeType::Int)
        }
        Attribute::Ints(name, ints) => {
            proto.ints = ints.to_vec();
            (name, AttributeType::Ints)
        }
        Attribute::Float(name, f) => {
            proto.f = f;
            (name, AttributeType::Float)
        }
    };
    proto.name = name.to_owned();
    proto.r#type = kind.into();
    proto
}

fn value_info(spec: &TensorSpec) -> ValueInfoProto {
    let dim = |&dim: &i64| {
        let value = match dim {
            -1 => dimension::Value::DimParam("batch".to_owned()),
            dim => dimension::Value::DimValue(dim),
        };
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let elem_type = match spec.dtype {
        DType::F32 => DataType::Float,
        DType::I64 => DataType::Int64,
    };
    let shape = Some(TensorShapeProto { dim: spec.dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: elem_type.into(), shape };
    ValueInfoProto {
        name: spec.name.clone(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}
