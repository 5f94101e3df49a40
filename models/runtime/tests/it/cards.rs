//! What a card may not say.

use inference::testing::{self, Model};
use inference::{Card, Golden, ModelError, Tensor};
use proto::Code;

fn ranker() -> Model {
    testing::ranker(&testing::catalog(10), 1)
}

fn refusal(change: impl FnOnce(&mut Card)) -> ModelError {
    let mut model = ranker();
    change(&mut model.card);
    Card::parse(&model.card.to_json()).map(|_| ()).expect_err("it must be refused")
}

fn assert_refused(says: &str, change: impl FnOnce(&mut Card)) {
    let error = refusal(change).to_string();
    assert!(error.contains(says), "`{error}` does not say `{says}`");
}

#[test]
fn a_card_survives_its_json() {
    for model in [ranker(), testing::retrieval(&testing::catalog(10), 1)] {
        assert_eq!(Card::parse(&model.card_json()).unwrap(), model.card);
    }
}

#[test]
fn a_version_names_kind_day_and_file() {
    let model = ranker();
    let hex = model.card.onnx_digest.to_string();
    assert_eq!(model.card.version.to_string(), format!("ranker-20260101-{}", &hex[..8]));
}

#[test]
fn bytes_that_are_no_card() {
    for bytes in [&b""[..], b"{}", b"[1]", b"\xff\xfe"] {
        assert_eq!(Card::parse(bytes).unwrap_err().code(), Code::Malformed);
    }
    let json = ranker().card_json();
    for len in 0..json.len() {
        assert!(Card::parse(&json[..len]).is_err());
    }
    let mut extra: serde_json::Value = serde_json::from_slice(&json).unwrap();
    extra["surprise"] = 1.into();
    let error = Card::parse(extra.to_string().as_bytes()).unwrap_err();
    assert!(error.to_string().contains("unknown field `surprise`"), "{error}");
    let huge = vec![b' '; inference::card::CARD_BYTES_MAX + 1];
    assert_eq!(Card::parse(&huge).unwrap_err().code(), Code::TooLarge);
}

#[test]
fn parts_that_do_not_agree() {
    assert_refused("`name` has", |card| card.name.clear());
    assert_refused("`version` has", |card| card.version = proto::ModelVersion("a\nb".into()));
    assert_refused("a text has", |card| card.limits = "x".repeat(20_000));
    assert_refused("metrics", |card| card.metrics = (0..300).map(|n| (n.to_string(), 1.0)).collect());
    assert_refused("vocabulary", |card| card.items.clear());
    assert_refused("twice", |card| card.items[1] = card.items[0].clone());
    assert_refused("`ranker` part", |card| card.ranker = None);
    assert_refused("`retrieval` part", |card| card.kind = inference::ModelKind::Retrieval);
    assert_refused("item stats for", |card| card.ranker.as_mut().unwrap().item_stats.truncate(9));
    assert_refused("inputs and output must be", |card| card.inputs[0].dims[1] += 1);
    assert_refused("inputs and output must be", |card| card.output.name = "q".into());
    assert_refused("golden inputs", |card| card.golden.clear());
    assert_refused("golden inputs", |card| card.golden = vec![card.golden[0].clone(); 17]);
    assert_refused("at least one answer", |card| card.golden[0].output.clear());
    let long = Golden { inputs: vec![Tensor::F32(vec![0.0; 1_100_000])], output: vec![(0, 0.0)] };
    assert_refused("numbers in all golden", |card| card.golden.push(long));
}

#[test]
fn a_card_of_another_encoder_is_refused() {
    let error = refusal(|card| card.ranker.as_mut().unwrap().feature_schema_hash = "00".repeat(32));
    assert!(matches!(error, ModelError::Schema { .. }), "{error}");
    // One category more is another schema.
    let error = refusal(|card| card.ranker.as_mut().unwrap().features.categories.push("Western".into()));
    assert!(matches!(error, ModelError::Schema { .. }), "{error}");
}

#[test]
fn a_retrieval_card_of_no_or_too_long_history_is_refused() {
    for len in [0, 513] {
        let mut model = testing::retrieval(&testing::catalog(10), 1);
        model.card.retrieval.as_mut().unwrap().history_len = len;
        let error = Card::parse(&model.card_json()).unwrap_err().to_string();
        assert!(error.contains("history_len"), "{error}");
    }
}
