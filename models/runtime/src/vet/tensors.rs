//! Tensors inside a graph: weights and constants. Their data must be there, complete, and finite.

use tract_onnx::pb::TensorProto;

use super::ops::{Elem, Fact};
use super::{refused, short};
use crate::error::ModelError;
use crate::tensor::RANK_MAX;

/// Integers of a constant that are kept, because they may be a shape, axes or bounds.
const INTS_MAX: usize = 64;

/// Checks a tensor; gives its number of elements.
pub(super) fn check(tensor: &TensorProto) -> Result<u64, ModelError> {
    let name = short(&tensor.name);
    if tensor.data_location.is_some_and(|location| location != 0) || !tensor.external_data.is_empty() {
        return Err(refused(format!("tensor `{name}` has its data outside of the file")));
    }
    if tensor.segment.is_some() {
        return Err(refused(format!("tensor `{name}` is in segments")));
    }
    let elem = elem(tensor)?;
    let volume = Fact { elem, dims: dims(tensor)?, ints: None }.volume()?;
    let raw = tensor.raw_data.len() as u64;
    let (typed, width) = match elem {
        Elem::F32 => (tensor.float_data.len(), 4),
        Elem::I64 => (tensor.int64_data.len(), 8),
        Elem::Bool => (tensor.int32_data.len(), 1),
    };
    let others =
        [tensor.float_data.len(), tensor.int64_data.len(), tensor.int32_data.len()].iter().sum::<usize>()
            + tensor.double_data.len()
            + tensor.uint64_data.len()
            + tensor.string_data.len();
    let complete = if raw > 0 { raw == volume * width && others == 0 } else { typed as u64 == volume };
    if !complete || others != typed {
        return Err(refused(format!("tensor `{name}` does not have the data of its {volume} elements")));
    }
    if !floats(tensor).all(f32::is_finite) {
        return Err(refused(format!("tensor `{name}` has a value that is not finite")));
    }
    Ok(volume)
}

/// What shape inference knows of a checked tensor.
pub(super) fn fact(tensor: &TensorProto) -> Result<Fact, ModelError> {
    let elem = elem(tensor)?;
    let fact = Fact { elem, dims: dims(tensor)?, ints: None };
    let small = elem == Elem::I64 && fact.volume()? <= INTS_MAX as u64;
    Ok(Fact { ints: small.then(|| ints(tensor)), ..fact })
}

fn elem(tensor: &TensorProto) -> Result<Elem, ModelError> {
    Elem::of(i64::from(tensor.data_type)).ok_or_else(|| {
        refused(format!("tensor `{}` of element type {}", short(&tensor.name), tensor.data_type))
    })
}

pub(crate) fn dims(tensor: &TensorProto) -> Result<Vec<usize>, ModelError> {
    if tensor.dims.len() > RANK_MAX {
        return Err(refused(format!("tensor `{}` has over {RANK_MAX} dimensions", short(&tensor.name))));
    }
    let dims = tensor.dims.iter().map(|dim| usize::try_from(*dim).ok().filter(|dim| *dim > 0));
    dims.collect::<Option<_>>()
        .ok_or_else(|| refused(format!("tensor `{}` has a dimension below 1", short(&tensor.name))))
}

pub(crate) fn floats(tensor: &TensorProto) -> impl Iterator<Item = f32> {
    let raw = if tensor.data_type == 1 { tensor.raw_data.as_slice() } else { &[] };
    let raw = raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    raw.chain(tensor.float_data.iter().copied())
}

pub(crate) fn ints(tensor: &TensorProto) -> Vec<i64> {
    let raw = tensor.raw_data.chunks_exact(8);
    let raw = raw.map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]));
    raw.chain(tensor.int64_data.iter().copied()).collect()
}
