//! What a model's graph may contain, and how much it may cost. A graph is a program from outside: before an engine sees it,
//! it is read within bounds, every operator is looked up in an allow-list, every shape is worked out, and memory and work are
//! added up. What an engine then gets is written anew from what was read, so that nothing unread can hide in it.
//!
//! Refused: external data, subgraphs (so no loops and no conditions), functions, custom domains, sparse tensors, element
//! types other than `f32`, `i64` and `bool`, weights that are not finite, operators that are not in [`ops`], integer division
//! (by zero it kills the process), shapes that depend on data.

pub(crate) mod ops;
mod shapes;
pub(crate) mod tensors;
mod wire;

use std::collections::HashMap;

use prost::Message;
use proto::limits::ARTIFACT_BYTES_MAX;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, ValueInfoProto, tensor_shape_proto, type_proto};

use self::ops::Fact;
use crate::error::ModelError;
use crate::tensor::{DType, ModelSpec, TensorSpec};

/// Largest ONNX file, in bytes.
pub const MODEL_BYTES_MAX: u64 = ARTIFACT_BYTES_MAX;
/// Most nodes of a graph.
pub const NODES_MAX: usize = 2048;
/// Most inputs, outputs or attributes of one node.
pub const NODE_PARTS_MAX: usize = 64;
/// Most elements that all nodes may write in one run of the largest batch (256 MiB of floats).
pub const ACTIVATIONS_MAX: u64 = 64 * 1024 * 1024;
/// Most multiplications in one run of the largest batch.
pub const WORK_MAX: u64 = 4_000_000_000;
/// Operator sets (`ai.onnx`) that are understood; within them every operator in [`ops`] means the same.
pub const OPSETS: std::ops::RangeInclusive<i64> = 13..=21;

/// What one run costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Weights.
    pub parameters: u64,
    /// Elements that all nodes write, for one row.
    pub activations: u64,
    /// Multiplications, for one row.
    pub work: u64,
}

/// A graph that was taken in.
#[derive(Debug, Clone)]
pub struct Vetted {
    pub(crate) model: ModelProto,
    /// What a run of one row costs.
    pub cost: Cost,
}

impl Vetted {
    /// The graph as an ONNX file, written anew.
    pub(crate) fn to_onnx(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }
}

pub(crate) fn refused(reason: impl Into<String>) -> ModelError {
    ModelError::refused("the ONNX graph", reason)
}

/// Reads and checks an ONNX file against what the caller expects of it.
pub fn vet(onnx: &[u8], spec: &ModelSpec) -> Result<Vetted, ModelError> {
    if onnx.len() as u64 > MODEL_BYTES_MAX {
        return Err(ModelError::too_large("the ONNX file, in bytes", onnx.len() as u64, MODEL_BYTES_MAX));
    }
    wire::scan(onnx)?;
    let mut model =
        ModelProto::decode(onnx).map_err(|error| ModelError::malformed("the ONNX file", error))?;
    check_model(&model)?;
    let graph = model.graph.as_mut().ok_or_else(|| refused("it has no graph"))?;
    // Neither is needed to run, and both can contradict the graph.
    graph.value_info.clear();
    graph.quantization_annotation.clear();
    let parameters = check_graph(graph, spec)?;
    let mut cost = infer(graph, spec, 1)?;
    infer(graph, spec, spec.batch_max())?;
    cost.parameters = parameters;
    Ok(Vetted { model, cost })
}

fn check_model(model: &ModelProto) -> Result<(), ModelError> {
    if !model.functions.is_empty() || !model.training_info.is_empty() {
        return Err(refused("functions and training parts are not allowed"));
    }
    for import in &model.opset_import {
        if !matches!(import.domain.as_str(), "" | "ai.onnx") {
            return Err(refused(format!("operator domain `{}`", short(&import.domain))));
        }
        if !OPSETS.contains(&import.version) {
            return Err(refused(format!("operator set {}, {OPSETS:?} are understood", import.version)));
        }
    }
    if model.opset_import.len() != 1 {
        return Err(refused("exactly one operator set must be imported"));
    }
    Ok(())
}

/// Checks what needs no shapes; gives the number of weights.
fn check_graph(graph: &GraphProto, spec: &ModelSpec) -> Result<u64, ModelError> {
    if graph.node.is_empty() || graph.node.len() > NODES_MAX {
        return Err(ModelError::too_large(
            "the graph (1 at least), in nodes",
            graph.node.len() as u64,
            NODES_MAX as u64,
        ));
    }
    if !graph.sparse_initializer.is_empty() {
        return Err(refused("sparse tensors"));
    }
    check_values("input", &graph.input, &spec.inputs)?;
    check_values("output", &graph.output, std::slice::from_ref(&spec.output))?;
    let mut parameters = 0;
    for tensor in &graph.initializer {
        parameters += tensors::check(tensor)?;
    }
    graph.node.iter().try_for_each(check_node)?;
    Ok(parameters)
}

fn check_node(node: &NodeProto) -> Result<(), ModelError> {
    if !matches!(node.domain.as_str(), "" | "ai.onnx") {
        return Err(refused(format!("operator domain `{}`", short(&node.domain))));
    }
    if [node.input.len(), node.output.len(), node.attribute.len()].iter().any(|len| *len > NODE_PARTS_MAX) {
        return Err(refused(format!("a `{}` with over {NODE_PARTS_MAX} parts", short(&node.op_type))));
    }
    for attribute in &node.attribute {
        let nested = attribute.g.is_some() || !attribute.graphs.is_empty();
        let sparse = attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty();
        let others = !attribute.tensors.is_empty() || !attribute.type_protos.is_empty();
        if nested || sparse || others || !attribute.ref_attr_name.is_empty() {
            let (name, op) = (short(&attribute.name), short(&node.op_type));
            return Err(refused(format!("attribute `{name}` of `{op}` is not a number, text or tensor")));
        }
        if let Some(tensor) = &attribute.t {
            tensors::check(tensor)?;
        }
    }
    Ok(())
}

/// Checks names, types and shapes of the graph's inputs or outputs against those expected, in order.
fn check_values(what: &str, values: &[ValueInfoProto], specs: &[TensorSpec]) -> Result<(), ModelError> {
    let names: Vec<_> = values.iter().map(|value| short(&value.name)).take(8).collect();
    let wanted: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    if values.len() != specs.len() || names != wanted {
        return Err(refused(format!("{what}s must be {wanted:?}, not {names:?}")));
    }
    for (value, spec) in values.iter().zip(specs) {
        let Some(type_proto::Value::TensorType(tensor)) =
            value.r#type.as_ref().and_then(|t| t.value.as_ref())
        else {
            return Err(refused(format!("{what} `{}` is not a tensor", spec.name)));
        };
        let dtype = match tensor.elem_type {
            1 => Some(DType::F32),
            7 => Some(DType::I64),
            _ => None,
        };
        let dims: Vec<i64> = tensor.shape.iter().flat_map(|shape| &shape.dim).map(dim).collect();
        if dtype != Some(spec.dtype) || dims != spec.dims {
            return Err(refused(format!(
                "{what} `{}` must be {:?} {:?} (-1: any), not element type {} {dims:?}",
                spec.name, spec.dtype, spec.dims, tensor.elem_type
            )));
        }
    }
    Ok(())
}

fn dim(dim: &tensor_shape_proto::Dimension) -> i64 {
    match &dim.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(value)) => *value,
        _ => -1,
    }
}

/// Works out every shape for a batch of `batch` rows, in the order of the nodes, and adds up what they cost.
fn infer(graph: &GraphProto, spec: &ModelSpec, batch: usize) -> Result<Cost, ModelError> {
    let mut facts: HashMap<&str, Fact> = HashMap::new();
    for input in &spec.inputs {
        facts.insert(&input.name, Fact::input(input, batch));
    }
    for tensor in &graph.initializer {
        if facts.insert(&tensor.name, tensors::fact(tensor)?).is_some() {
            return Err(refused(format!("`{}` is defined twice", short(&tensor.name))));
        }
    }
    let mut cost = Cost::default();
    for node in &graph.node {
        let inputs = node
            .input
            .iter()
            .map(|name| match name.as_str() {
                "" => Ok(None),
                name => facts
                    .get(name)
                    .map(Some)
                    .ok_or_else(|| refused(format!("`{}` is used before it is defined", short(name)))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (outputs, work) = ops::infer(node, &inputs)?;
        if outputs.len() != node.output.len() {
            return Err(refused(format!("`{}` with {} outputs", short(&node.op_type), node.output.len())));
        }
        for (name, fact) in node.output.iter().zip(outputs) {
            cost.activations += fact.volume()?;
            if name.is_empty() || facts.insert(name, fact).is_some() {
                return Err(refused(format!("`{}` is defined twice, or empty", short(name))));
            }
        }
        cost.work = cost.work.saturating_add(work);
        check_cost(&cost)?;
    }
    let wanted = Fact::input(&spec.output, batch);
    match facts.get(spec.output.name.as_str()) {
        Some(got) if got.same_shape(&wanted) => Ok(cost),
        Some(got) => Err(refused(format!(
            "output `{}` comes out as {got}, {wanted} is due at batch {batch}",
            spec.output.name
        ))),
        None => Err(refused(format!("nothing computes output `{}`", spec.output.name))),
    }
}

fn check_cost(cost: &Cost) -> Result<(), ModelError> {
    if cost.activations > ACTIVATIONS_MAX {
        return Err(ModelError::too_large("memory of a run, in elements", cost.activations, ACTIVATIONS_MAX));
    }
    if cost.work > WORK_MAX {
        return Err(ModelError::too_large("work of a run, in multiplications", cost.work, WORK_MAX));
    }
    Ok(())
}

/// A foreign text, cut for an error message.
pub(crate) fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}
