use super::*;

pub fn model() -> ModelSpec {
    ModelSpec {
        inputs: vec![
            TensorSpec::batched("ids", DType::I64, &[2]),
            TensorSpec::batched("numbers", DType::F32, &[1]),
        ],
        output: TensorSpec::batched("scores", DType::F32, &[3]),
        batches: vec![1],
    }
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<Inference, ErrorReply> {
    Inference::read(&model(), 4, headers, body)
}

fn said(inputs: &Value) -> Result<Inference, ErrorReply> {
    read(&HeaderMap::new(), json!({"id": "a", "inputs": inputs}).to_string().as_bytes())
}

fn due() -> (Vec<Tensor>, usize) {
    (vec![Tensor::I64(vec![1, 2, 3, -4]), Tensor::F32(vec![0.5, 7.0])], 2)
}

#[test]
fn tensors_come_flat_or_nested_and_in_any_order() {
    let flat = said(&json!([
        {"name": "numbers", "shape": [2, 1], "datatype": "FP32", "data": [0.5, 7]},
        {"name": "ids", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, -4]},
    ]));
    let nested = said(&json!([
        {"name": "ids", "shape": [2, 2], "datatype": "INT64", "data": [[1, 2], [3, -4]]},
        {"name": "numbers", "shape": [2, 1], "datatype": "FP32", "data": [[0.5], [7]]},
    ]));
    for read in [flat.unwrap(), nested.unwrap()] {
        assert_eq!((read.inputs, read.rows), due());
        assert_eq!(read.wishes, Wishes { id: Some("a".into()), binary: false });
    }
}

/// As the extension has it: the JSON, then the inputs' bytes in the order in which the JSON names them, little-endian.
#[test]
fn tensors_come_as_bytes() {
    let head = json!({"parameters": {"binary_data_output": true}, "inputs": [
        {"name": "numbers", "shape": [2, 1], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
        {"name": "ids", "shape": [2, 2], "datatype": "INT64", "parameters": {"binary_data_size": 32}},
    ]});
    let mut body = head.to_string().into_bytes();
    let mut headers = HeaderMap::new();
    headers.insert(JSON_LEN, body.len().into());
    body.extend([0.5f32, 7.0].iter().flat_map(|number| number.to_le_bytes()));
    body.extend([1i64, 2, 3, -4].iter().flat_map(|number| number.to_le_bytes()));
    let whole = read(&headers, &body).unwrap();
    assert_eq!((whole.inputs, whole.rows), due());
    assert!(whole.wishes.binary);
    assert_eq!(read(&headers, &body[..body.len() - 1]).unwrap_err().code, Code::Invalid);
    body.push(0);
    assert!(read(&headers, &body).unwrap_err().message.contains("1 bytes behind"));
    headers.insert(JSON_LEN, 100_000.into());
    assert_eq!(read(&headers, &body).unwrap_err().code, Code::Malformed);
}

#[test]
fn what_does_not_fit_the_model_is_said() {
    let ids = json!({"name": "ids", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]});
    let numbers = json!({"name": "numbers", "shape": [1, 1], "datatype": "FP32", "data": [1]});
    assert!(said(&json!([ids, numbers])).is_ok());
    let with = |field: &str, value: Value| {
        let mut changed = ids.clone();
        changed[field] = value;
        said(&json!([changed, numbers])).unwrap_err()
    };
    assert!(with("name", json!("other")).message.contains("\"other\""));
    assert!(with("datatype", json!("INT32")).message.contains("INT64"));
    assert!(with("shape", json!([1, 3])).message.contains("[-1, 2]"));
    assert!(
        with("shape", json!([2, 2])).message.contains("2 numbers")
            || with("shape", json!([2, 2])).code == Code::Invalid
    );
    assert_eq!(with("shape", json!([5, 2])).code, Code::TooLarge);
    for (rows, text) in [(0, "has 0 rows; from 1 to 4"), (-1, "has -1 rows; from 1 to 4")] {
        let error = with("shape", json!([rows, 2]));
        assert!(error.code == Code::Invalid && error.message.contains(text), "{error}");
    }
    assert!(
        with("parameters", json!({"shared_memory_region": "r"})).message.contains("shared_memory_region")
    );
    assert!(with("data", json!([1.5, 2])).message.contains("2 numbers"));
    assert!(with("data", json!([1])).message.contains("2 numbers"));
    assert!(with("data", Value::Null).message.contains("2 numbers"));
    assert!(said(&json!([ids])).unwrap_err().message.contains("\"numbers\" is missing"));
    assert!(said(&json!([ids, ids])).unwrap_err().message.contains("twice"));
}

/// What would not be done is not passed over.
#[test]
fn parameters_that_mean_nothing_here_are_refused() {
    let asked = |parameters: Value, output: Value| {
        let body = json!({"parameters": parameters, "outputs": [{"name": "scores", "parameters": output}], "inputs": [
            {"name": "ids", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]},
            {"name": "numbers", "shape": [1, 1], "datatype": "FP32", "data": [1]},
        ]});
        read(&HeaderMap::new(), body.to_string().as_bytes())
    };
    let hints = json!({"priority": 1, "timeout": 1_000, "binary_data_output": true, "sequence_id": null});
    assert!(asked(hints, json!({"binary_data": false})).is_ok());
    for (parameters, output, name) in [
        (json!({"sequence_id": 7}), json!({}), "sequence_id"),
        (json!({"classification": 2}), json!({}), "classification"),
        (json!({}), json!({"classification": 2}), "classification"),
        (json!({}), json!({"shared_memory_region": "r"}), "shared_memory_region"),
        (json!({}), json!({"binary_data": "yes"}), "binary_data"),
        (json!({"binary_data": true}), json!({}), "binary_data"),
    ] {
        let error = asked(parameters, output).unwrap_err();
        assert!(error.code == Code::Invalid && error.message.contains(name), "{error}");
    }
    let numbers = json!({"name": "numbers", "shape": [1, 1], "datatype": "FP32", "data": [1e40]});
    let ids = json!({"name": "ids", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]});
    assert!(said(&json!([ids, numbers])).is_err(), "more than a float holds");
}

#[tokio::test]
async fn an_answer_is_json_or_bytes() {
    let answer = |wishes| Answer {
        name: "ranker",
        version: "v1".into(),
        rows: 1,
        spec: model().output,
        output: vec![0.5, 1.0, 2.0],
        wishes,
    };
    let plain = answer(Wishes { id: Some("a".into()), binary: false }).into_response();
    let body = axum::body::to_bytes(plain.into_body(), 1_000).await.unwrap();
    let scores = json!({"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": [0.5, 1.0, 2.0]});
    let whole = json!({"model_name": "ranker", "model_version": "v1", "id": "a", "outputs": [scores]});
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), whole);
    let binary = answer(Wishes { id: None, binary: true }).into_response();
    let len: usize = binary.headers()[JSON_LEN].to_str().unwrap().parse().unwrap();
    let body = axum::body::to_bytes(binary.into_body(), 1_000).await.unwrap();
    assert_eq!(body[len..], [0.5f32, 1.0, 2.0].map(f32::to_le_bytes).concat());
}
