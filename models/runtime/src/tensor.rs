//! The few words about tensors that models, cards and engines share: element type, declared shape, values.

use serde::{Deserialize, Serialize};

use crate::error::ModelError;

/// Most dimensions of a tensor.
pub const RANK_MAX: usize = 8;

/// Element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DType {
    /// 64-bit signed integers: ids.
    I64,
    /// 32-bit floats.
    F32,
}

/// What a model declares of an input or an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Its name in the graph.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its shape; -1 is the symbolic batch, allowed in the first place only.
    pub dims: Vec<i64>,
}

impl TensorSpec {
    /// A spec whose first dimension is the batch.
    pub fn batched(name: &str, dtype: DType, row: &[usize]) -> Self {
        let row = row.iter().map(|dim| i64::try_from(*dim).expect("a dimension in memory fits i64"));
        Self { name: name.to_owned(), dtype, dims: std::iter::once(-1).chain(row).collect() }
    }

    /// Elements of one row of the batch.
    pub fn row_len(&self) -> usize {
        self.dims.iter().skip(1).map(|dim| usize::try_from(*dim).unwrap_or(0)).product()
    }
}

/// What a model must look like, and how it will be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// Its inputs, in the graph's order; each has the batch as its first dimension.
    pub inputs: Vec<TensorSpec>,
    /// Its only output, `f32` with the batch as its first dimension.
    pub output: TensorSpec,
    /// Batch sizes for which tract keeps an optimized plan, growing. Other sizes are padded to the next one, larger ones
    /// are cut into pieces of the last one.
    pub batches: Vec<usize>,
}

impl ModelSpec {
    /// The largest batch that is run in one piece.
    pub fn batch_max(&self) -> usize {
        self.batches.last().copied().unwrap_or(1)
    }
}

/// Borrowed values of one input, row by row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values<'a> {
    /// Ids.
    I64(&'a [i64]),
    /// Numbers.
    F32(&'a [f32]),
}

impl<'a> Values<'a> {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Values::I64(_) => DType::I64,
            Values::F32(_) => DType::F32,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Values::I64(values) => values.len(),
            Values::F32(values) => values.len(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn slice(self, from: usize, to: usize) -> Values<'a> {
        match self {
            Values::I64(values) => Values::I64(&values[from..to]),
            Values::F32(values) => Values::F32(&values[from..to]),
        }
    }
}

/// Owned values of one input, as a card's golden inputs hold them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tensor {
    /// Ids.
    I64(Vec<i64>),
    /// Numbers.
    F32(Vec<f32>),
}

impl Tensor {
    /// A borrowed view.
    pub fn view(&self) -> Values<'_> {
        match self {
            Tensor::I64(values) => Values::I64(values),
            Tensor::F32(values) => Values::F32(values),
        }
    }
}

/// Checks that `inputs` fit `spec` and agree on the batch; gives the number of rows.
pub(crate) fn rows(spec: &ModelSpec, inputs: &[Values<'_>]) -> Result<usize, ModelError> {
    if inputs.len() != spec.inputs.len() {
        return Err(ModelError::Input(format!(
            "{} inputs, the model has {}",
            inputs.len(),
            spec.inputs.len()
        )));
    }
    let mut rows = None;
    for (input, spec) in inputs.iter().zip(&spec.inputs) {
        let row_len = spec.row_len().max(1);
        let these = input.len() / row_len;
        if input.dtype() != spec.dtype || input.len() % row_len != 0 {
            let (dtype, len) = (input.dtype(), input.len());
            return Err(ModelError::Input(format!(
                "`{}` takes rows of {row_len} {:?}, not {len} {dtype:?} in all",
                spec.name, spec.dtype
            )));
        }
        if *rows.get_or_insert(these) != these {
            return Err(ModelError::Input(format!(
                "`{}` has {these} rows, the first has {rows:?}",
                spec.name
            )));
        }
    }
    Ok(rows.unwrap_or(0))
}
