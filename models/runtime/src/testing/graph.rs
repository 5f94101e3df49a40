//! Writes small ONNX graphs.

use prost::Message;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, tensor_shape_proto::Dimension, tensor_shape_proto::dimension, type_proto,
};

use crate::tensor::{DType, TensorSpec};

/// An attribute's value.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// One integer.
    Int(i64),
    /// Several.
    Ints(&'a [i64]),
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

/// A graph in the making, of operator set 17.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The file as it will be written, for tests that break it.
    pub model: ModelProto,
    inputs: Vec<TensorSpec>,
    output: Option<TensorSpec>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        let opset = OperatorSetIdProto { domain: String::new(), version: 17 };
        let graph = GraphProto { name: name.to_owned(), ..GraphProto::default() };
        let model = ModelProto {
            ir_version: 8,
            opset_import: vec![opset],
            producer_name: "rockpool".to_owned(),
            graph: Some(graph),
            ..ModelProto::default()
        };
        Self { model, inputs: Vec::new(), output: None }
    }

    /// The graph itself.
    pub fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.as_mut().expect("made with one")
    }

    /// An input of any number of rows.
    pub fn input(&mut self, name: &str, dtype: DType, row: &[usize]) -> &mut Self {
        let spec = TensorSpec::batched(name, dtype, row);
        self.graph().input.push(value_info(&spec));
        self.inputs.push(spec);
        self
    }

    /// The output, of as many rows.
    pub fn output(&mut self, name: &str, dtype: DType, row: &[usize]) -> &mut Self {
        let spec = TensorSpec::batched(name, dtype, row);
        self.graph().output.push(value_info(&spec));
        self.output = Some(spec);
        self
    }

    /// A constant of floats.
    pub fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> &mut Self {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, 1, dims, raw_data)
    }

    /// A constant list of integers.
    pub fn ints(&mut self, name: &str, values: &[i64]) -> &mut Self {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, 7, &[values.len()], raw_data)
    }

    fn tensor(&mut self, name: &str, data_type: i32, dims: &[usize], raw_data: Vec<u8>) -> &mut Self {
        let dims = dims.iter().map(|dim| *dim as i64).collect();
        let tensor =
            TensorProto { name: name.to_owned(), data_type, dims, raw_data, ..TensorProto::default() };
        self.graph().initializer.push(tensor);
        self
    }

    /// A node with one output.
    pub fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, Value<'_>)],
    ) -> &mut Self {
        let attribute = attributes.iter().map(|(name, value)| attribute(name, *value)).collect();
        let node = NodeProto {
            name: format!("{op}:{output}"),
            op_type: op.to_owned(),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..NodeProto::default()
        };
        self.graph().node.push(node);
        self
    }

    /// What inputs and output were declared as.
    ///
    /// # Panics
    /// If no output was declared.
    pub fn specs(&self) -> (Vec<TensorSpec>, TensorSpec) {
        (self.inputs.clone(), self.output.clone().expect("a graph under test has an output"))
    }

    /// The file.
    pub fn to_onnx(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }
}

fn attribute(name: &str, value: Value<'_>) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    match value {
        Value::Int(i) => {
            attribute.r#type = 2;
            attribute.i = i;
        }
        Value::Ints(ints) => {
            attribute.r#type = 7;
            attribute.ints = ints.to_vec();
        }
    }
    attribute
}

fn value_info(spec: &TensorSpec) -> ValueInfoProto {
    let dim = |dim: &i64| {
        let value = match dim {
            -1 => dimension::Value::DimParam("batch".to_owned()),
            dim => dimension::Value::DimValue(*dim),
        };
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let elem_type = match spec.dtype {
        DType::F32 => 1,
        DType::I64 => 7,
    };
    let shape = Some(TensorShapeProto { dim: spec.dims.iter().map(dim).collect() });
    let value = type_proto::Value::TensorType(type_proto::Tensor { elem_type, shape });
    ValueInfoProto {
        name: spec.name.clone(),
        r#type: Some(TypeProto { value: Some(value), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}
