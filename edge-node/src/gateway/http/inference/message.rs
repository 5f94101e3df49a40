//! Tensors as the protocol says them: as JSON, or as bytes behind the JSON (Triton's "binary tensor data extension").

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use inference::{DType, ModelSpec, Tensor, TensorSpec};
use proto::{Code, ErrorReply};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::events::read;

/// Where the JSON of a message ends, if bytes follow.
const JSON_LEN: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A request, checked against a model.
#[derive(Debug, PartialEq)]
pub struct Inference {
    /// In the model's order.
    pub inputs: Vec<Tensor>,
    /// Of each of them.
    pub rows: usize,
    /// What is wished of the answer.
    pub(super) wishes: Wishes,
}

/// What is wished of the answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wishes {
    pub(super) id: Option<String>,
    /// Bytes, not JSON.
    pub(super) binary: bool,
}

/// An input as it came.
pub(super) struct Given<'b> {
    pub(super) name: String,
    pub(super) datatype: String,
    pub(super) shape: Vec<i64>,
    pub(super) numbers: Numbers<'b>,
}

/// What an input brings.
pub(super) enum Numbers<'b> {
    Json(Value),
    /// Little-endian.
    Bytes(&'b [u8]),
    Typed(Tensor),
    /// Neither of them, or more than one.
    Unclear,
}

#[derive(Debug, Deserialize)]
struct Asked {
    id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Debug, Deserialize)]
struct Input {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Parameters,
    data: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

/// Parameters of a request, an input or an output.
#[derive(Debug, Default, Deserialize)]
struct Parameters(Map<String, Value>);

/// Parameters of requests that change no answer: how soon it is wished for.
pub(super) const HINTS: &[&str] = &["priority", "timeout"];

impl Parameters {
    /// The one that means something here. What others ask for would not be done, and is refused.
    fn only<T: DeserializeOwned>(
        &self,
        of: &str,
        name: &str,
        hints: &[&str],
    ) -> Result<Option<T>, ErrorReply> {
        let said = self.0.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str());
        known_parameters(of, said, &[hints, &[name]].concat())?;
        let value = self.0.get(name).filter(|value| !value.is_null());
        let read = value.map(|value| serde_json::from_value(value.clone()).map_err(|error| (value, error)));
        read.transpose()
            .map_err(|(value, error)| invalid(format!("parameter {name:?} of {of} is {value}: {error}")))
    }
}

/// Whether all parameters are known where they stand.
pub(super) fn known_parameters<'p>(
    of: &str,
    mut said: impl Iterator<Item = &'p str>,
    known: &[&str],
) -> Result<(), ErrorReply> {
    match said.find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => {
            let known = if known.is_empty() { "none is".to_owned() } else { format!("{known:?} are") };
            Err(invalid(format!("the parameter {name:?} of {of} is not known here; {known}")))
        }
    }
}

/// A tensor of an answer.
#[derive(Debug, Serialize)]
struct Said<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
}

/// A tensor of a model, as its metadata says it.
pub(super) fn described(spec: &TensorSpec) -> Value {
    json!({"name": spec.name, "datatype": datatype(spec.dtype), "shape": spec.dims})
}

pub(super) fn datatype(dtype: DType) -> &'static str {
    match dtype {
        DType::I64 => "INT64",
        DType::F32 => "FP32",
    }
}

pub(super) fn invalid(message: String) -> ErrorReply {
    ErrorReply::new(Code::Invalid, message)
}

impl Inference {
    /// Reads a request, and checks it against the model.
    pub fn read(
        model: &ModelSpec,
        rows_max: usize,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Self, ErrorReply> {
        let (said, mut bytes) = split(headers, body)?;
        let asked: Asked = read(said)?;
        let given = asked.inputs.into_iter().map(|input| input.given(&mut bytes));
        let mut read = Self::of(model, rows_max, given)?;
        if !bytes.is_empty() {
            return Err(invalid(format!("{} bytes behind the last input belong to none", bytes.len())));
        }
        let mut binary = asked.parameters.only("the request", "binary_data_output", HINTS)?.unwrap_or(false);
        for Output { name, parameters } in asked.outputs {
            known_output(model, &name)?;
            let of = format!("output {name:?}");
            binary = parameters.only(&of, "binary_data", &[])?.unwrap_or(binary);
        }
        read.wishes = Wishes { id: asked.id, binary };
        Ok(read)
    }

    /// Checks inputs against the model: each once, of its type and shape, all of as many rows.
    pub(super) fn of<'b>(
        model: &ModelSpec,
        rows_max: usize,
        given: impl Iterator<Item = Result<Given<'b>, ErrorReply>>,
    ) -> Result<Self, ErrorReply> {
        let (mut inputs, mut rows): (Vec<Option<Tensor>>, _) =
            (model.inputs.iter().map(|_| None).collect(), None);
        for input in given {
            let input = input?;
            let at = model.inputs.iter().position(|spec| spec.name == input.name);
            let names = || model.inputs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>();
            let at = at.ok_or_else(|| {
                invalid(format!("no input is called {:?}; there are {:?}", input.name, names()))
            })?;
            let spec = &model.inputs[at];
            let len = input.rows_of(spec, rows_max)?;
            if *rows.get_or_insert(len) != len || inputs[at].is_some() {
                return Err(invalid(format!(
                    "input {:?} comes twice, or with other rows than the rest",
                    input.name
                )));
            }
            inputs[at] = Some(input.tensor(spec, len)?);
        }
        let missing = |(input, spec): (Option<Tensor>, &TensorSpec)| {
            input.ok_or_else(|| invalid(format!("input {:?} is missing", spec.name)))
        };
        let inputs = inputs.into_iter().zip(&model.inputs).map(missing).collect::<Result<_, _>>()?;
        Ok(Self { inputs, rows: rows.unwrap_or_default(), wishes: Wishes::default() })
    }
}

/// Whether a model has this output.
pub(super) fn known_output(model: &ModelSpec, name: &str) -> Result<(), ErrorReply> {
    if name == model.output.name {
        return Ok(());
    }
    Err(invalid(format!("no output is called {name:?}; there is {:?}", model.output.name)))
}

/// The JSON, and the bytes behind it.
fn split<'b>(headers: &HeaderMap, body: &'b [u8]) -> Result<(&'b [u8], &'b [u8]), ErrorReply> {
    let Some(len) = headers.get(JSON_LEN) else { return Ok((body, &[])) };
    let len = len.to_str().ok().and_then(|text| text.parse().ok());
    let malformed = || ErrorReply::new(Code::Malformed, format!("{JSON_LEN} is not how long the JSON is"));
    len.and_then(|len| body.split_at_checked(len)).ok_or_else(malformed)
}

impl Input {
    /// With what is its own of the bytes behind the JSON.
    fn given<'b>(self, bytes: &mut &'b [u8]) -> Result<Given<'b>, ErrorReply> {
        let size = self.parameters.only(&format!("input {:?}", self.name), "binary_data_size", &[])?;
        let numbers = match (size, self.data) {
            (Some(size), None) => {
                let own;
                let short =
                    || invalid(format!("input {:?} says {size} bytes, and there are fewer", self.name));
                (own, *bytes) = bytes.split_at_checked(size).ok_or_else(short)?;
                Numbers::Bytes(own)
            }
            (None, Some(data)) => Numbers::Json(data),
            _ => Numbers::Unclear,
        };
        Ok(Given { name: self.name, datatype: self.datatype, shape: self.shape, numbers })
    }
}

impl Given<'_> {
    fn rows_of(&self, spec: &TensorSpec, rows_max: usize) -> Result<usize, ErrorReply> {
        let fits = self.datatype == datatype(spec.dtype)
            && self.shape.len() == spec.dims.len()
            && self.shape.iter().skip(1).eq(spec.dims.iter().skip(1));
        if !fits {
            let (theirs, ours) = ((&self.datatype, &self.shape), (datatype(spec.dtype), &spec.dims));
            let message = format!("input {:?} is {theirs:?}, and has to be {ours:?} (-1: rows)", self.name);
            return Err(invalid(message));
        }
        let said = self.shape.first().copied().unwrap_or_default();
        let rows = usize::try_from(said).ok().filter(|rows| (1..=rows_max).contains(rows));
        rows.ok_or_else(|| {
            let code = if said < 1 { Code::Invalid } else { Code::TooLarge };
            let message = format!("input {:?} has {said} rows; from 1 to {rows_max} can be run", self.name);
            ErrorReply::new(code, message)
        })
    }

    fn tensor(self, spec: &TensorSpec, rows: usize) -> Result<Tensor, ErrorReply> {
        let (name, len) = (self.name, rows * spec.row_len());
        let tensor = match self.numbers {
            Numbers::Bytes(own) => from_bytes(spec.dtype, own),
            Numbers::Json(data) => from_json(spec.dtype, &data, len),
            Numbers::Typed(tensor) => {
                matches!((&tensor, spec.dtype), (Tensor::I64(_), DType::I64) | (Tensor::F32(_), DType::F32))
                    .then_some(tensor)
            }
            Numbers::Unclear => None,
        };
        let tensor = tensor.filter(|tensor| tensor.view().len() == len);
        tensor.ok_or_else(|| invalid(format!("input {name:?} does not bring {len} numbers of its type")))
    }
}

fn from_bytes(dtype: DType, bytes: &[u8]) -> Option<Tensor> {
    match dtype {
        DType::I64 => {
            let (numbers, []) = bytes.as_chunks() else { return None };
            Some(Tensor::I64(numbers.iter().map(|number| i64::from_le_bytes(*number)).collect()))
        }
        DType::F32 => {
            let (numbers, []) = bytes.as_chunks() else { return None };
            Some(Tensor::F32(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()))
        }
    }
}

/// Row by row, flat or nested as deep as serde_json reads.
fn from_json(dtype: DType, data: &Value, len: usize) -> Option<Tensor> {
    fn flat<T>(value: &Value, number: &impl Fn(&Value) -> Option<T>, into: &mut Vec<T>) -> Option<()> {
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| flat(value, number, into)),
            value => number(value).map(|number| into.push(number)),
        }
    }
    match dtype {
        DType::I64 => {
            let mut numbers = Vec::with_capacity(len);
            flat(data, &Value::as_i64, &mut numbers).map(|()| Tensor::I64(numbers))
        }
        DType::F32 => {
            let mut numbers = Vec::with_capacity(len);
            // JSON has no infinity, so none was meant.
            let number = |value: &Value| value.as_f64().map(|number| number as f32).filter(|n| n.is_finite());
            flat(data, &number, &mut numbers).map(|()| Tensor::F32(numbers))
        }
    }
}

/// What a model said.
pub(super) struct Answer {
    pub(super) name: &'static str,
    pub(super) version: String,
    pub(super) rows: usize,
    pub(super) spec: TensorSpec,
    pub(super) output: Vec<f32>,
    pub(super) wishes: Wishes,
}

impl Answer {
    /// Of the output, with its rows.
    pub(super) fn shape(&self) -> Vec<i64> {
        let mut shape = self.spec.dims.clone();
        if let Some(first) = shape.first_mut() {
            *first = i64::try_from(self.rows).unwrap_or(i64::MAX);
        }
        shape
    }

    /// The numbers, little-endian.
    pub(super) fn bytes(&self) -> impl Iterator<Item = u8> {
        self.output.iter().flat_map(|number| number.to_le_bytes())
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let (output, binary) = (self.output.as_slice(), self.wishes.binary);
        let mut said = Said {
            name: &self.spec.name,
            datatype: datatype(DType::F32),
            shape: self.shape(),
            data: Some(output),
            parameters: None,
        };
        if binary {
            said.data = None;
            said.parameters = Some(json!({"binary_data_size": size_of_val(output)}));
        }
        let mut head = json!({"model_name": self.name, "model_version": self.version, "outputs": [said]});
        if let Some(id) = &self.wishes.id {
            head["id"] = id.as_str().into();
        }
        let mut body = head.to_string().into_bytes();
        let mut headers = HeaderMap::new();
        let kind = if binary { "application/octet-stream" } else { "application/json" };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if binary {
            headers.insert(JSON_LEN, HeaderValue::from(body.len()));
            body.extend(self.bytes());
        }
        (headers, body).into_response()
    }
}

#[cfg(test)]
pub(super) mod tests;
