//! Any request to a model, in JSON or over gRPC: what is understood fits the model, and is the same when it is said in bytes behind
//! JSON.

#![no_main]

use std::sync::LazyLock;

use edge_node::gateway::http::fuzzing::{ROWS_MAX, tensors, tensors_over_grpc};
use http::{HeaderMap, HeaderValue};
use inference::{DType, ModelSpec, Tensor, TensorSpec};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const JSON_LEN: &str = "inference-header-content-length";

static MODEL: LazyLock<ModelSpec> = LazyLock::new(|| ModelSpec {
    inputs: vec![TensorSpec::batched("ids", DType::I64, &[2]), TensorSpec::batched("x", DType::F32, &[1, 2])],
    output: TensorSpec::batched("y", DType::F32, &[1]),
    batches: vec![1, 32],
});

fuzz_target!(|bytes: &[u8]| {
    // A line of its own says where the JSON ends, as the header does; an empty one: there is no such header. Or: it came over gRPC.
    let Some(line) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (len, body) = (&bytes[..line], &bytes[line + 1..]);
    let mut headers = HeaderMap::new();
    if !len.is_empty() {
        let Ok(len) = HeaderValue::from_bytes(len) else { return };
        headers.insert(JSON_LEN, len);
    }
    let read = if len == b"grpc" { tensors_over_grpc(&MODEL, body) } else { tensors(&MODEL, &headers, body) };
    let Ok((inputs, rows)) = read else { return };
    assert!((1..=ROWS_MAX).contains(&rows) && inputs.len() == MODEL.inputs.len());
    for (input, spec) in inputs.iter().zip(&MODEL.inputs) {
        assert_eq!((input.view().dtype(), input.view().len()), (spec.dtype, rows * spec.row_len()));
    }
    let numbers: Vec<Vec<u8>> = inputs.iter().map(little_endian).collect();
    let (headers, body) = in_bytes(&numbers, rows);
    let (again, as_many) = tensors(&MODEL, &headers, &body).expect("the same in bytes");
    // As bytes: a NaN is not equal to itself.
    assert!(as_many == rows && again.iter().map(little_endian).eq(numbers));
});

fn in_bytes(numbers: &[Vec<u8>], rows: usize) -> (HeaderMap, Vec<u8>) {
    let input = |(bytes, spec): (&Vec<u8>, &TensorSpec)| {
        let mut shape = json!(spec.dims);
        shape[0] = rows.into();
        let datatype = if spec.dtype == DType::I64 { "INT64" } else { "FP32" };
        json!({"name": spec.name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": bytes.len()}})
    };
    let inputs: Vec<Value> = numbers.iter().zip(&MODEL.inputs).map(input).collect();
    let mut body = json!({"inputs": inputs}).to_string().into_bytes();
    let mut headers = HeaderMap::new();
    headers.insert(JSON_LEN, HeaderValue::from(body.len()));
    body.extend(numbers.concat());
    (headers, body)
}

fn little_endian(tensor: &Tensor) -> Vec<u8> {
    match tensor {
        Tensor::I64(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        Tensor::F32(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
    }
}
