//! Reads a vetted graph node by node, in the order in which an exporter wrote it. Every step says which operator must come
//! next, on which values, with which attributes; whatever else is found ends the reading with `None`. So a graph that was read to the end
//! is the one that the reading describes, and nothing more.

use std::collections::HashMap;

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use crate::graph::{Attribute, attribute};
use crate::vet::tensors;

/// A constant of floats.
#[derive(Debug, Clone)]
pub(super) struct Floats {
    /// Its shape.
    pub(super) dims: Vec<usize>,
    /// Its values, row by row.
    pub(super) values: Vec<f32>,
}

impl Floats {
    fn new(tensor: &TensorProto) -> Option<Self> {
        let values: Vec<f32> = tensors::floats(tensor).collect();
        let dims = tensors::dims(tensor).ok()?;
        (dims.iter().product::<usize>() == values.len()).then_some(Self { dims, values })
    }

    /// The values, if the shape is this one.
    pub(super) fn shaped(self, dims: &[usize]) -> Option<Vec<f32>> {
        (self.dims == dims).then_some(self.values)
    }

    /// Columns `from..to` of a matrix.
    pub(super) fn columns(&self, from: usize, to: usize) -> Vec<f32> {
        let width = self.dims.last().copied().unwrap_or(1);
        self.values.chunks_exact(width).flat_map(|row| row[from..to].iter().copied()).collect()
    }
}

/// What a node's input must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input<'a> {
    /// This value.
    Edge(&'a str),
    /// A constant, whatever its name.
    Constant,
}

use Input::{Constant, Edge};

/// A node as it was found.
struct Found<'a> {
    constants: Vec<&'a TensorProto>,
    outputs: &'a [String],
}

/// A place in a graph.
pub(super) struct Reader<'a> {
    nodes: std::slice::Iter<'a, NodeProto>,
    constants: HashMap<&'a str, &'a TensorProto>,
    output: &'a str,
}

impl<'a> Reader<'a> {
    /// At the graph's first node.
    pub(super) fn new(graph: &'a GraphProto) -> Option<Self> {
        let constants = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let [output] = graph.output.as_slice() else { return None };
        Some(Self { nodes: graph.node.iter(), constants, output: &output.name })
    }

    fn take(
        &mut self,
        op: &str,
        inputs: &[Input<'_>],
        attributes: &[(&str, Attribute<'_>)],
    ) -> Option<Found<'a>> {
        let node = self.nodes.next()?;
        if node.op_type != op || node.input.len() != inputs.len() {
            return None;
        }
        let same = |(name, value): &(&str, Attribute<'_>)| node.attribute.contains(&attribute(name, *value));
        if node.attribute.len() != attributes.len() || !attributes.iter().all(same) {
            return None;
        }
        let mut constants = Vec::new();
        for (name, wanted) in node.input.iter().zip(inputs) {
            match wanted {
                Edge(edge) if name == edge => {}
                Edge(_) => return None,
                Constant => constants.push(*self.constants.get(name.as_str())?),
            }
        }
        Some(Found { constants, outputs: &node.output })
    }

    /// A node of values alone.
    pub(super) fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute<'_>)],
    ) -> Option<&'a str> {
        let inputs: Vec<_> = inputs.iter().map(|edge| Edge(edge)).collect();
        one(self.take(op, &inputs, attributes)?.outputs)
    }

    /// A node of values and one constant of floats.
    pub(super) fn with_floats(&mut self, op: &str, inputs: &[Input<'_>]) -> Option<(Floats, &'a str)> {
        let found = self.take(op, inputs, &[])?;
        let [constant] = found.constants.as_slice() else { return None };
        Some((Floats::new(constant)?, one(found.outputs)?))
    }

    /// Rows of a table, looked up.
    pub(super) fn gather(&mut self, ids: &str) -> Option<(Floats, &'a str)> {
        self.with_floats("Gather", &[Constant, Edge(ids)])
    }

    /// `x @ matrix`.
    pub(super) fn product(&mut self, x: &str) -> Option<(Floats, &'a str)> {
        self.with_floats("MatMul", &[Edge(x), Constant])
    }

    /// `x + constant`.
    pub(super) fn plus(&mut self, x: &str) -> Option<(Floats, &'a str)> {
        self.with_floats("Add", &[Edge(x), Constant])
    }

    /// `x @ matrix [from, to] + bias [to]`, as values.
    pub(super) fn linear(&mut self, x: &str, from: usize, to: usize) -> Option<(Linear, &'a str)> {
        let (weights, product) = self.product(x)?;
        let (bias, sum) = self.plus(product)?;
        Some((Linear { weights: weights.shaped(&[from, to])?, bias: bias.shaped(&[to])? }, sum))
    }

    /// The same, to any width.
    pub(super) fn any_linear(&mut self, x: &str, from: usize) -> Option<(Linear, &'a str)> {
        let to = self.constants.get(self.nodes.as_slice().first()?.input.get(1)?.as_str())?.dims.get(1)?;
        self.linear(x, from, usize::try_from(*to).ok()?)
    }

    /// Another shape, exactly this one.
    pub(super) fn reshape(&mut self, x: &str, dims: &[i64]) -> Option<&'a str> {
        let found = self.take("Reshape", &[Edge(x), Constant], &[])?;
        (tensors::ints(found.constants[0]) == dims).then_some(())?;
        one(found.outputs)
    }

    /// The range `from..to` of one axis.
    pub(super) fn slice(&mut self, x: &str, from: i64, to: i64, axis: i64) -> Option<&'a str> {
        let found = self.take("Slice", &[Edge(x), Constant, Constant, Constant], &[])?;
        let ints: Vec<_> = found.constants.iter().map(|tensor| tensors::ints(tensor)).collect();
        (ints == [[from], [to], [axis]]).then_some(())?;
        one(found.outputs)
    }

    /// A product that is cut by columns: the width and the name of each of `N` pieces.
    pub(super) fn split<const N: usize>(&mut self, x: &str) -> Option<([usize; N], [&'a str; N])> {
        let found = self.take("Split", &[Edge(x), Constant], &[("axis", Attribute::Int(1))])?;
        let widths: Option<Vec<usize>> =
            tensors::ints(found.constants[0]).iter().map(|width| usize::try_from(*width).ok()).collect();
        let names: Vec<&str> = found.outputs.iter().map(String::as_str).collect();
        Some((widths?.try_into().ok()?, names.try_into().ok()?))
    }

    /// Layer normalization (Ba et al., 2016) of the last dimension, `len` wide, without scale and shift; gives its epsilon.
    pub(super) fn normalize(&mut self, x: &str, len: usize) -> Option<(f32, &'a str)> {
        let next = self.nodes.as_slice().first()?;
        let epsilon = next.attribute.iter().find(|attribute| attribute.name == "epsilon")?.f;
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon))];
        let found = self.take("LayerNormalization", &[Edge(x), Constant], &attributes)?;
        let scale = Floats::new(found.constants[0])?.shaped(&[len])?;
        scale.iter().all(|scale| *scale == 1.0).then_some((epsilon, one(found.outputs)?))
    }

    /// True if nothing is left, and `last` is what the graph answers.
    pub(super) fn ends_with(mut self, last: &str) -> bool {
        self.nodes.next().is_none() && self.output == last
    }
}

/// `x @ weights + bias`; weights row by row.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    pub(super) weights: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

fn one(outputs: &[String]) -> Option<&str> {
    match outputs {
        [output] => Some(output),
        _ => None,
    }
}
