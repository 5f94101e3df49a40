//! Histories in, the best items out.

use inference::retrieval::top;
use inference::{Engine, ModelError, Retrieval, Values, testing};
use proto::Digest;

use crate::support::{assert_close, engines};

fn load(engine: &Engine) -> Retrieval {
    let model = testing::retrieval(&testing::catalog(20), 7);
    Retrieval::load(engine, &model.onnx, &model.card_json()).unwrap()
}

#[test]
fn a_history_is_padded_on_the_left_and_cut_to_the_latest() {
    for engine in engines() {
        let retrieval = load(&engine);
        let (mut scores, mut wanted) = (Vec::new(), vec![]);
        for (history, row) in [
            (vec![], [0, 0, 0, 0, 0]),
            (vec![2, 5], [0, 0, 0, 3, 6]),
            (vec![9, 8, 7, 6, 5, 4, 3], [8, 7, 6, 5, 4]),
        ] {
            retrieval.scores(&history, &mut scores).unwrap();
            retrieval.session().run(&[Values::I64(&row)], &mut wanted).unwrap();
            assert_eq!(scores, wanted);
        }
        assert!(matches!(retrieval.scores(&[20], &mut scores), Err(ModelError::Input(_))));
    }
}

#[test]
fn many_histories_at_once_are_the_same_as_each_alone() {
    let retrieval = load(&Engine::tract());
    let histories: Vec<Vec<u32>> = (0..33).map(|n| (0..n % 9).collect()).collect();
    let views: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
    let (mut many, mut one) = (Vec::new(), Vec::new());
    retrieval.scores_many(&views, &mut many).unwrap();
    for (history, many) in histories.iter().zip(many.chunks(20)) {
        retrieval.scores(history, &mut one).unwrap();
        assert_close(many, &one);
    }
}

#[test]
fn items_are_known_by_id_and_index() {
    let retrieval = load(&Engine::tract());
    assert_eq!(retrieval.items(), 20);
    assert_eq!(retrieval.index_of("i7"), Some(7));
    assert_eq!(retrieval.index_of("unknown"), None);
    assert_eq!(retrieval.item(7).map(|item| item.as_str()), Some("i7"));
    assert_eq!(retrieval.item(20), None);
}

#[test]
fn top_is_the_best_in_order_whatever_the_scores() {
    let scores = [1.0, f32::NAN, 3.0, 3.0, -0.0, 0.0, f32::INFINITY, f32::NEG_INFINITY];
    let mut out = Vec::new();
    top(&scores, 100, [], &mut Vec::new(), &mut out);
    let order: Vec<u32> = out.iter().map(|(index, _)| *index).collect();
    assert_eq!(order, [6, 2, 3, 0, 4, 5, 7, 1]);
    top(&scores, 3, [2], &mut Vec::new(), &mut out);
    assert_eq!(out, [(6, f32::INFINITY), (3, 3.0), (0, 1.0)]);
    top(&scores, 0, [], &mut Vec::new(), &mut out);
    assert!(out.is_empty());
    top(&[], 5, [], &mut Vec::new(), &mut out);
    assert!(out.is_empty());
    top(&scores, 5, 0..9, &mut Vec::new(), &mut out);
    assert!(out.is_empty());
}

#[test]
fn a_model_that_is_not_its_card_s_is_refused() {
    let catalog = testing::catalog(20);
    let (model, other) = (testing::retrieval(&catalog, 7), testing::retrieval(&catalog, 8));
    let load =
        |onnx: &[u8], card: &[u8]| Retrieval::load(&Engine::tract(), onnx, card).map(|_| ()).unwrap_err();
    assert!(matches!(load(&other.onnx, &model.card_json()), ModelError::Digest { .. }));
    // With the digest put right, the answers still are not those promised.
    let mut forged = model.clone();
    forged.set_onnx(other.onnx.clone());
    for engine in engines() {
        let error = Retrieval::load(&engine, &forged.onnx, &forged.card_json()).unwrap_err();
        assert!(matches!(error, ModelError::Golden { index: 0, .. }), "{error}");
    }
    let ranker = testing::ranker(&catalog, 7);
    let error = load(&ranker.onnx, &ranker.card_json());
    assert!(error.to_string().contains("Retrieval is due"), "{error}");
    // A vocabulary of another length is a shape that does not fit.
    let mut wrong = testing::retrieval(&testing::catalog(21), 7);
    wrong.card.onnx_digest = Digest::of(&model.onnx);
    let error = load(&model.onnx, &wrong.card_json());
    assert!(error.to_string().contains("output `scores` must be F32 [-1, 21]"), "{error}");
}
