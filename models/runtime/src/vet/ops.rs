//! The operators that a graph may use, each with what comes out of it and what it costs. To allow another one: add an arm
//! to [`infer`] and a case to the tests; both engines must agree on it (the golden answers will tell).

use std::fmt;

use tract_onnx::pb::{AttributeProto, NodeProto};

use super::shapes::{self, Shape};
use super::{ACTIVATIONS_MAX, refused, short, tensors};
use crate::error::ModelError;
use crate::tensor::{DType, RANK_MAX, TensorSpec};

/// Element types that are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elem {
    F32,
    I64,
    Bool,
}

impl Elem {
    /// By ONNX's number of the type.
    pub(super) fn of(number: i64) -> Option<Self> {
        match number {
            1 => Some(Elem::F32),
            7 => Some(Elem::I64),
            9 => Some(Elem::Bool),
            _ => None,
        }
    }
}

/// What is known of a value in the graph.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fact {
    pub(super) elem: Elem,
    pub(super) dims: Shape,
    /// The numbers themselves, of a small constant list of integers.
    pub(super) ints: Option<Vec<i64>>,
}

impl Fact {
    /// An input or output of the graph for a batch of `batch` rows.
    pub(super) fn input(spec: &TensorSpec, batch: usize) -> Self {
        let elem = match spec.dtype {
            DType::F32 => Elem::F32,
            DType::I64 => Elem::I64,
        };
        let dims = spec.dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(batch)).collect();
        Self { elem, dims, ints: None }
    }

    fn new(elem: Elem, dims: Shape) -> Self {
        Self { elem, dims, ints: None }
    }

    /// Number of elements, if it is within [`ACTIVATIONS_MAX`] and the rank within [`RANK_MAX`].
    pub(super) fn volume(&self) -> Result<u64, ModelError> {
        let volume = self.dims.iter().try_fold(1u64, |all, dim| all.checked_mul(*dim as u64));
        match volume {
            Some(volume) if volume <= ACTIVATIONS_MAX && self.dims.len() <= RANK_MAX => Ok(volume),
            _ => Err(ModelError::too_large(
                "a tensor, in elements",
                volume.unwrap_or(u64::MAX),
                ACTIVATIONS_MAX,
            )),
        }
    }

    pub(super) fn same_shape(&self, other: &Fact) -> bool {
        self.elem == other.elem && self.dims == other.dims
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.elem, self.dims)
    }
}

/// A node with its inputs at hand.
struct Node<'a> {
    proto: &'a NodeProto,
    inputs: &'a [Option<&'a Fact>],
}

impl<'a> Node<'a> {
    fn wrong(&self, reason: impl fmt::Display) -> ModelError {
        refused(format!("`{}` ({}): {reason}", short(&self.proto.op_type), short(&self.proto.name)))
    }

    fn optional(&self, at: usize) -> Option<&'a Fact> {
        self.inputs.get(at).copied().flatten()
    }

    fn input(&self, at: usize) -> Result<&'a Fact, ModelError> {
        self.optional(at).ok_or_else(|| self.wrong(format!("input {at} is missing")))
    }

    fn floats(&self, at: usize) -> Result<&'a Fact, ModelError> {
        match self.input(at)? {
            fact if fact.elem == Elem::F32 => Ok(fact),
            fact => Err(self.wrong(format!("input {at} must be floats, it is {fact}"))),
        }
    }

    /// A constant list of integers.
    fn ints(&self, at: usize) -> Result<&'a [i64], ModelError> {
        let ints = self.input(at)?.ints.as_deref();
        ints.ok_or_else(|| self.wrong(format!("input {at} must be a constant, short list of integers")))
    }

    fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.proto.attribute.iter().find(|attribute| attribute.name == name)
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i)
    }

    /// Axes from input `at`, or from the attribute as older operator sets have them; none: not given.
    fn axes(&self, at: usize) -> Result<Option<&'a [i64]>, ModelError> {
        match (self.optional(at), self.attribute("axes")) {
            (Some(_), _) => self.ints(at).map(Some),
            (None, attribute) => Ok(attribute.map(|attribute| attribute.ints.as_slice())),
        }
    }

    fn shape(&self, shape: Result<Shape, String>) -> Result<Shape, ModelError> {
        shape.map_err(|reason| self.wrong(reason))
    }
}

type Inferred = Result<(Vec<Fact>, u64), ModelError>;

/// What comes out of a node, and how many multiplications it takes. Anything not named here is refused.
pub(super) fn infer(proto: &NodeProto, inputs: &[Option<&Fact>]) -> Inferred {
    let node = Node { proto, inputs };
    match proto.op_type.as_str() {
        "Relu" | "Sigmoid" | "Tanh" | "Exp" | "Log" | "Sqrt" | "Erf" | "Neg" | "Abs" | "Reciprocal"
        | "Softplus" | "LeakyRelu" | "Elu" | "HardSigmoid" | "Gelu" | "Softmax" | "LogSoftmax" => {
            elementwise(node.floats(0)?.clone())
        }
        "Identity" => elementwise(node.input(0)?.clone()),
        "Not" | "And" | "Or" | "Xor" => logic(&node),
        "Add" | "Sub" | "Mul" | "Min" | "Max" => arithmetic(&node),
        // Integer division by zero kills the process.
        "Div" | "Pow" => {
            node.floats(0)?;
            node.floats(1)?;
            arithmetic(&node)
        }
        "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" => {
            let (a, b) = (node.input(0)?, node.input(1)?);
            same_elem(&node, a, b)?;
            elementwise(Fact::new(Elem::Bool, node.shape(shapes::broadcast(&a.dims, &b.dims))?))
        }
        "Where" => select(&node),
        "Cast" => {
            let elem = Elem::of(node.int("to", 0)).ok_or_else(|| node.wrong("to an unknown element type"))?;
            elementwise(Fact::new(elem, node.input(0)?.dims.clone()))
        }
        "MatMul" => matmul(&node),
        "Gemm" => gemm(&node),
        "Gather" => gather(&node),
        "Concat" => concat(&node),
        "Split" => split(&node),
        "Slice" => slice(&node),
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" => reduce(&node),
        "Clip" => clip(&node),
        "LayerNormalization" => normalization(&node),
        "Constant" => constant(&node),
        "Reshape" | "Transpose" | "Flatten" | "Squeeze" | "Unsqueeze" | "Expand" => layout(&node),
        other => Err(refused(format!("operator `{}` is not allowed", short(other)))),
    }
}

fn elementwise(fact: Fact) -> Inferred {
    let work = fact.volume()?;
    Ok((vec![fact], work))
}

fn same_elem(node: &Node<'_>, a: &Fact, b: &Fact) -> Result<(), ModelError> {
    if a.elem == b.elem { Ok(()) } else { Err(node.wrong(format!("{a} with {b}"))) }
}

fn arithmetic(node: &Node<'_>) -> Inferred {
    let first = node.input(0)?;
    if first.elem == Elem::Bool {
        return Err(node.wrong("bool is no number"));
    }
    let mut dims = first.dims.clone();
    for at in 1..node.inputs.len() {
        let next = node.input(at)?;
        same_elem(node, first, next)?;
        dims = node.shape(shapes::broadcast(&dims, &next.dims))?;
    }
    elementwise(Fact::new(first.elem, dims))
}

fn logic(node: &Node<'_>) -> Inferred {
    let mut dims = Vec::new();
    for at in 0..node.inputs.len() {
        let next = node.input(at)?;
        if next.elem != Elem::Bool {
            return Err(node.wrong(format!("input {at} must be bool, it is {next}")));
        }
        dims = node.shape(shapes::broadcast(&dims, &next.dims))?;
    }
    elementwise(Fact::new(Elem::Bool, dims))
}

fn select(node: &Node<'_>) -> Inferred {
    let (condition, a, b) = (node.input(0)?, node.input(1)?, node.input(2)?);
    same_elem(node, a, b)?;
    if condition.elem != Elem::Bool {
        return Err(node.wrong("the condition must be bool"));
    }
    let both = node.shape(shapes::broadcast(&a.dims, &b.dims))?;
    elementwise(Fact::new(a.elem, node.shape(shapes::broadcast(&both, &condition.dims))?))
}

fn clip(node: &Node<'_>) -> Inferred {
    for at in 1..node.inputs.len() {
        if node.optional(at).is_some() && node.floats(at)?.volume()? != 1 {
            return Err(node.wrong("a bound must be one number"));
        }
    }
    elementwise(node.floats(0)?.clone())
}

/// Scale and bias have the shape of what is normalised together.
fn normalization(node: &Node<'_>) -> Inferred {
    let data = node.floats(0)?;
    let axis = shapes::axis(node.int("axis", -1), data.dims.len()).map_err(|reason| node.wrong(reason))?;
    for at in 1..node.inputs.len() {
        if node.floats(at)?.dims != data.dims[axis..] {
            return Err(node.wrong(format!("input {at} must be of shape {:?}", &data.dims[axis..])));
        }
    }
    elementwise(data.clone())
}

fn matmul(node: &Node<'_>) -> Inferred {
    let (a, b) = (node.floats(0)?, node.floats(1)?);
    let (dims, inner) = shapes::matmul(&a.dims, &b.dims).map_err(|reason| node.wrong(reason))?;
    let fact = Fact::new(Elem::F32, dims);
    let work = fact.volume()?.saturating_mul(inner as u64);
    Ok((vec![fact], work))
}

fn gemm(node: &Node<'_>) -> Inferred {
    let turned = |fact: &Fact, name: &str| -> Result<(usize, usize), ModelError> {
        match (fact.dims.as_slice(), node.int(name, 0) != 0) {
            ([rows, columns], false) => Ok((*rows, *columns)),
            ([rows, columns], true) => Ok((*columns, *rows)),
            _ => Err(node.wrong("Gemm takes matrices")),
        }
    };
    let (a, b) = (turned(node.floats(0)?, "transA")?, turned(node.floats(1)?, "transB")?);
    if a.1 != b.0 {
        return Err(node.wrong(format!("{a:?} by {b:?}")));
    }
    let fact = Fact::new(Elem::F32, vec![a.0, b.1]);
    if let Some(c) = node.optional(2) {
        let dims = node.shape(shapes::broadcast(&fact.dims, &c.dims))?;
        if dims != fact.dims || c.elem != Elem::F32 {
            return Err(node.wrong(format!("{c} cannot be added to {fact}")));
        }
    }
    let work = fact.volume()?.saturating_mul(a.1 as u64);
    Ok((vec![fact], work))
}

fn gather(node: &Node<'_>) -> Inferred {
    let (data, indices) = (node.input(0)?, node.input(1)?);
    if indices.elem != Elem::I64 {
        return Err(node.wrong("indices must be i64"));
    }
    let axis = node.shape(shapes::axis(node.int("axis", 0), data.dims.len()).map(|axis| vec![axis]))?[0];
    let dims = [&data.dims[..axis], &indices.dims, &data.dims[axis + 1..]].concat();
    elementwise(Fact::new(data.elem, dims))
}

fn concat(node: &Node<'_>) -> Inferred {
    let first = node.input(0)?;
    let axis = shapes::axis(node.int("axis", 0), first.dims.len()).map_err(|reason| node.wrong(reason))?;
    let mut dims = first.dims.clone();
    for at in 1..node.inputs.len() {
        let next = node.input(at)?;
        same_elem(node, first, next)?;
        let agree =
            next.dims.len() == dims.len() && (0..dims.len()).all(|i| i == axis || next.dims[i] == dims[i]);
        if !agree {
            return Err(node.wrong(format!("{first} with {next} on axis {axis}")));
        }
        dims[axis] = dims[axis].saturating_add(next.dims[axis]);
    }
    elementwise(Fact::new(first.elem, dims))
}

fn split(node: &Node<'_>) -> Inferred {
    let data = node.input(0)?;
    let axis = shapes::axis(node.int("axis", 0), data.dims.len()).map_err(|reason| node.wrong(reason))?;
    let parts = node.proto.output.len();
    let given = if node.optional(1).is_some() { Some(node.ints(1)?) } else { None };
    let sizes = shapes::split(data.dims[axis], parts, given).map_err(|reason| node.wrong(reason))?;
    let part = |size: usize| {
        let mut dims = data.dims.clone();
        dims[axis] = size;
        Fact::new(data.elem, dims)
    };
    Ok((sizes.into_iter().map(part).collect(), 0))
}

fn slice(node: &Node<'_>) -> Inferred {
    let data = node.input(0)?;
    let (starts, ends) = (node.ints(1)?, node.ints(2)?);
    let axes = if node.optional(3).is_some() { Some(node.ints(3)?) } else { None };
    let steps = if node.optional(4).is_some() { Some(node.ints(4)?) } else { None };
    let dims = node.shape(shapes::slice(&data.dims, starts, ends, axes, steps))?;
    elementwise(Fact::new(data.elem, dims))
}

fn reduce(node: &Node<'_>) -> Inferred {
    let data = node.floats(0)?;
    if node.int("noop_with_empty_axes", 0) != 0 {
        return Err(node.wrong("noop_with_empty_axes"));
    }
    let dims = node.shape(shapes::reduce(&data.dims, node.axes(1)?, node.int("keepdims", 1) != 0))?;
    Ok((vec![Fact::new(Elem::F32, dims)], data.volume()?))
}

fn constant(node: &Node<'_>) -> Inferred {
    match node.attribute("value").and_then(|attribute| attribute.t.as_ref()) {
        Some(tensor) if node.proto.attribute.len() == 1 => Ok((vec![tensors::fact(tensor)?], 0)),
        _ => Err(node.wrong("a constant is given as one tensor `value`")),
    }
}

/// Operators that move or repeat elements.
fn layout(node: &Node<'_>) -> Inferred {
    let data = node.input(0)?;
    let dims = match node.proto.op_type.as_str() {
        "Reshape" if node.int("allowzero", 0) != 0 => Err("allowzero".to_owned()),
        "Reshape" => shapes::reshape(&data.dims, node.ints(1)?),
        "Transpose" => shapes::transpose(&data.dims, node.attribute("perm").map(|perm| perm.ints.as_slice())),
        "Flatten" => shapes::flatten(&data.dims, node.int("axis", 1)),
        "Squeeze" => shapes::squeeze(&data.dims, node.axes(1)?),
        "Unsqueeze" => shapes::unsqueeze(&data.dims, node.axes(1)?.unwrap_or(&[])),
        _ => shapes::expand(&data.dims, node.ints(1)?),
    };
    elementwise(Fact::new(data.elem, node.shape(dims)?))
}
