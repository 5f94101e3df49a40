//! tract. A plan for a fixed batch is faster than one for any batch, so a model has one for each of a few batch sizes; a
//! call is padded with zeros to the next of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::prelude::*;

use crate::error::ModelError;
use crate::tensor::{ModelSpec, TensorSpec, Values};
use crate::vet::Vetted;

const NAME: &str = "tract";

fn failed(action: &'static str, reason: impl std::fmt::Display) -> ModelError {
    ModelError::Engine { engine: NAME, action, reason: reason.to_string() }
}

/// tract panics on some graphs and inputs where an error was due.
fn guarded<T>(action: &'static str, work: impl FnOnce() -> TractResult<T>) -> Result<T, ModelError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| failed(action, format!("{error:#}"))),
        Err(_) => Err(failed(action, "it panicked")),
    }
}

/// One plan for each batch size, growing.
#[derive(Debug)]
pub(super) struct Plans(Vec<(usize, Arc<TypedRunnableModel>)>);

impl Plans {
    pub(super) fn load(vetted: &Vetted, spec: &ModelSpec) -> Result<Self, ModelError> {
        let plan = |batch: &usize| Ok((*batch, guarded("load the model", || plan(vetted, spec, *batch))?));
        spec.batches.iter().map(plan).collect::<Result<_, ModelError>>().map(Self)
    }

    pub(super) fn run(
        &self,
        spec: &ModelSpec,
        inputs: &[Values<'_>],
        rows: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let Some((batch, plan)) = self.0.iter().find(|(batch, _)| *batch >= rows) else {
            return Err(failed("run the model", format!("no plan for a batch of {rows}")));
        };
        let outputs = guarded("run the model", || {
            let values = inputs.iter().zip(&spec.inputs).map(|(values, spec)| tensor(values, spec, *batch));
            plan.run(values.collect::<TractResult<_>>()?)
        })?;
        let Some(output) = outputs.first() else { return Err(failed("run the model", "nothing came out")) };
        let view = output.to_plain_array_view::<f32>().map_err(|error| failed("run the model", error))?;
        out.extend(view.iter().take(rows * spec.output.row_len()));
        Ok(())
    }
}

fn plan(vetted: &Vetted, spec: &ModelSpec, batch: usize) -> TractResult<Arc<TypedRunnableModel>> {
    let mut model = tract_onnx::onnx().model_for_proto_model(&vetted.model)?;
    for (at, input) in spec.inputs.iter().enumerate() {
        let fact = match input.dtype {
            crate::tensor::DType::I64 => InferenceFact::dt_shape(i64::datum_type(), shape(input, batch)),
            crate::tensor::DType::F32 => InferenceFact::dt_shape(f32::datum_type(), shape(input, batch)),
        };
        model.set_input_fact(at, fact)?;
    }
    model.into_optimized()?.into_runnable()
}

fn shape(spec: &TensorSpec, batch: usize) -> TVec<usize> {
    spec.dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(batch)).collect()
}

fn tensor(values: &Values<'_>, spec: &TensorSpec, batch: usize) -> TractResult<TValue> {
    let shape = shape(spec, batch);
    let tensor = match values {
        Values::I64(values) => padded(values, &shape)?,
        Values::F32(values) => padded(values, &shape)?,
    };
    Ok(tensor.into())
}

fn padded<T: Datum + Copy + Default>(values: &[T], shape: &[usize]) -> TractResult<Tensor> {
    let len = shape.iter().product();
    if values.len() == len {
        return Tensor::from_shape(shape, values);
    }
    let mut whole = vec![T::default(); len];
    whole[..values.len()].copy_from_slice(values);
    Tensor::from_shape(shape, &whole)
}
