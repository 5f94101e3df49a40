//! Small ONNX graphs whose values have names of the test's own, and that a test can break.

use prost::Message;
use tract_onnx::pb::{GraphProto, ModelProto};

use crate::graph::{self, Attribute};
use crate::tensor::{DType, TensorSpec};

/// A graph in the making.
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
        let model = graph::model(GraphProto { name: name.to_owned(), ..GraphProto::default() });
        Self { model, inputs: Vec::new(), output: None }
    }

    /// The graph itself.
    pub fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.as_mut().expect("made with one")
    }

    /// An input of any number of rows.
    pub fn input(&mut self, name: &str, dtype: DType, row: &[usize]) -> &mut Self {
        let spec = TensorSpec::batched(name, dtype, row);
        self.graph().input.push(graph::value_info(&spec));
        self.inputs.push(spec);
        self
    }

    /// The output, of as many rows.
    pub fn output(&mut self, name: &str, dtype: DType, row: &[usize]) -> &mut Self {
        let spec = TensorSpec::batched(name, dtype, row);
        self.graph().output.push(graph::value_info(&spec));
        self.output = Some(spec);
        self
    }

    /// A constant of floats.
    pub fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> &mut Self {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, DType::F32, dims, raw_data)
    }

    /// A constant list of integers.
    pub fn ints(&mut self, name: &str, values: &[i64]) -> &mut Self {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, DType::I64, &[values.len()], raw_data)
    }

    fn tensor(&mut self, name: &str, dtype: DType, dims: &[usize], raw_data: Vec<u8>) -> &mut Self {
        self.graph().initializer.push(graph::constant(name, dtype, dims, raw_data));
        self
    }

    /// A node with one output.
    pub fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, Attribute<'_>)],
    ) -> &mut Self {
        let inputs = inputs.iter().map(|name| (*name).to_owned()).collect();
        let node = graph::node(format!("{op}:{output}"), op, inputs, vec![output.to_owned()], attributes);
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
