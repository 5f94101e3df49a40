//! Both engines give the same answers, from many threads, at any batch; a missing or broken library never hurts.

use std::path::Path;

use inference::testing::{self, graph::Graph};
use inference::{DType, Engine, EngineKind, ModelError, ModelSpec, Ranker, Retrieval, Schema, Values};

use crate::support::{Seeded, assert_close, engines, retrieval_spec};

#[test]
fn both_engines_agree_on_retrieval_at_any_batch() {
    let model = testing::retrieval(&testing::catalog(50), 7);
    let mut seeded = Seeded(1);
    let rows: Vec<i64> = (0..40 * testing::HISTORY_LEN).map(|_| seeded.below(51) as i64).collect();
    let answers = |engine: &Engine, rows: &[i64]| {
        let session = engine.load(&model.onnx, &retrieval_spec(&model)).unwrap();
        let mut out = Vec::new();
        session.run(&[Values::I64(rows)], &mut out).unwrap();
        out
    };
    for engine in engines() {
        let whole = answers(&engine, &rows);
        assert_eq!(whole.len(), 40 * 50);
        for batch in [1, 3, 16, 17, 40] {
            let part = answers(&engine, &rows[..batch * testing::HISTORY_LEN]);
            assert_close(&part, &whole[..batch * 50]);
        }
        assert_close(&whole, &answers(&Engine::tract(), &rows));
    }
}

#[test]
fn both_engines_agree_on_ranking_at_any_batch() {
    let catalog = testing::catalog(30);
    let model = testing::ranker(&catalog, 3);
    let spec = Ranker::spec(&model.card);
    let (fields, dense) = (spec.inputs[0].row_len(), spec.inputs[1].row_len());
    let table = Schema::new(&testing::feature_spec(), 30).table_len;
    let mut seeded = Seeded(2);
    for batch in [1, 20, 21, 199, 200, 201, 450] {
        let ids: Vec<i64> = (0..batch * fields).map(|_| seeded.below(table) as i64).collect();
        let numbers: Vec<f32> = (0..batch * dense).map(|_| seeded.float()).collect();
        let answers: Vec<Vec<f32>> = engines()
            .iter()
            .map(|engine| {
                let mut out = vec![9.0; 3];
                let session = engine.load(&model.onnx, &spec).unwrap();
                session.run(&[Values::I64(&ids), Values::F32(&numbers)], &mut out).unwrap();
                out
            })
            .collect();
        assert_eq!(answers[0].len(), batch);
        assert!(answers[0].iter().all(|p| (0.0..=1.0).contains(p)));
        answers[1..].iter().for_each(|other| assert_close(other, &answers[0]));
    }
}

#[test]
fn many_threads_get_the_answers_of_one() {
    let model = testing::retrieval(&testing::catalog(50), 7);
    for engine in engines() {
        let retrieval = Retrieval::load(&engine, &model.onnx, &model.card_json()).unwrap();
        let alone: Vec<Vec<f32>> = (0..50)
            .map(|item| {
                let mut out = Vec::new();
                retrieval.scores(&[item, 49 - item], &mut out).unwrap();
                out
            })
            .collect();
        std::thread::scope(|scope| {
            for thread in 0..8u32 {
                let (retrieval, alone) = (&retrieval, &alone);
                scope.spawn(move || {
                    let mut out = Vec::new();
                    for n in 0..200 {
                        let item = (n * 7 + thread) % 50;
                        retrieval.scores(&[item, 49 - item], &mut out).unwrap();
                        assert_close(&out, &alone[item as usize]);
                    }
                });
            }
        });
    }
}

#[test]
fn wrong_inputs_are_errors_and_do_no_harm() {
    let model = testing::retrieval(&testing::catalog(10), 7);
    for engine in engines() {
        let session = engine.load(&model.onnx, &retrieval_spec(&model)).unwrap();
        let mut out = Vec::new();
        let (short, float, good) = ([1i64; 4], [1f32; 5], [1i64; 5]);
        let wrong: [&[Values<'_>]; 4] =
            [&[Values::I64(&short)], &[Values::F32(&float)], &[], &[Values::I64(&good), Values::I64(&good)]];
        for inputs in wrong {
            assert!(matches!(session.run(inputs, &mut out), Err(ModelError::Input(_))));
        }
        // Beyond the embedding table: the engine says so, and goes on.
        let error = session.run(&[Values::I64(&[1, 2, 3, 4, 99])], &mut out).unwrap_err();
        assert!(matches!(error, ModelError::Engine { action: "run the model", .. }), "{error}");
        session.run(&[Values::I64(&good)], &mut out).unwrap();
        assert_eq!(out.len(), 10);
        session.run(&[Values::I64(&[])], &mut out).unwrap();
        assert!(out.is_empty());
    }
}

#[test]
fn an_answer_that_is_not_finite_is_an_error() {
    let mut graph = Graph::new("log");
    graph.input("x", DType::F32, &[2]).output("y", DType::F32, &[2]).node("Log", &["x"], "y", &[]);
    let (inputs, output) = graph.specs();
    let spec = ModelSpec { inputs, output, batches: vec![1] };
    for engine in engines() {
        let session = engine.load(&graph.to_onnx(), &spec).unwrap();
        let mut out = Vec::new();
        session.run(&[Values::F32(&[1.0, 2.0])], &mut out).unwrap();
        assert_close(&out, &[0.0, 2f32.ln()]);
        let error = session.run(&[Values::F32(&[1.0, -1.0])], &mut out).unwrap_err();
        assert!(matches!(error, ModelError::NotFinite(1)), "{error}");
    }
}

#[test]
fn a_library_that_is_missing_or_broken_means_tract_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut cut = vec![0u8; 64];
    cut[..6].copy_from_slice(b"\x7fELF\x02\x01");
    cut[0x28] = 0xff;
    cut[0x29] = 0xff;
    let cases = [
        (folder.path().join("absent.so"), "No such file"),
        (file("empty.so", b""), "failed to fill whole buffer"),
        (file("text.so", &[b'x'; 100]), "is no library"),
        (file("cut.so", &cut), "is cut"),
    ];
    for (path, reason) in cases {
        let engine = Engine::choose(Some(&path));
        assert_eq!(engine.kind(), EngineKind::Tract);
        assert!(engine.describe().contains(reason), "{}", engine.describe());
        assert!(Engine::ort(&path).is_err());
    }
    // A library, but not this one: the C library's mathematics are on every Linux.
    let others = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6"];
    if let Some(path) = others.iter().map(Path::new).find(|path| path.exists()) {
        if engines().len() == 1 {
            assert!(Engine::choose(Some(path)).describe().contains("OrtGetApiBase"));
        }
        assert_eq!(Engine::choose(Some(path)).kind(), EngineKind::Tract);
    }
}

#[test]
fn an_engine_says_what_it_is() {
    for engine in engines() {
        assert!(!engine.describe().is_empty());
        let name = engine.kind().to_string();
        assert!(["ort", "tract"].contains(&name.as_str()));
        let model = testing::retrieval(&testing::catalog(10), 7);
        let session = engine.load(&model.onnx, &retrieval_spec(&model)).unwrap();
        assert_eq!(session.kind(), engine.kind());
        // 11 rows of 4, and 4 columns of 10.
        assert_eq!(session.cost().parameters, 44 + 40);
        assert!(session.cost().work >= 40);
    }
}

/// The files that are served: what one engine says, the other says.
#[test]
fn both_engines_agree_on_the_committed_models() {
    let read = |name: &str| std::fs::read(Path::new("../onnx").join(name)).unwrap();
    let mut seeded = Seeded(3);

    let (onnx, card) = (read("retrieval.onnx"), read("retrieval.card.json"));
    let models: Vec<_> = engines().iter().map(|e| Retrieval::load(e, &onnx, &card).unwrap()).collect();
    for len in [1, 2, 7, 49, 50, 51, 200] {
        let history: Vec<u32> = (0..len).map(|_| seeded.below(models[0].items()) as u32).collect();
        let scores = |model: &Retrieval| {
            let mut scores = Vec::new();
            model.scores(&history, &mut scores).unwrap();
            scores
        };
        models[1..].iter().for_each(|model| assert_close(&scores(model), &scores(&models[0])));
    }

    let (onnx, card) = (read("ranker.onnx"), read("ranker.card.json"));
    let models: Vec<_> = engines().iter().map(|e| Ranker::load(e, &onnx, &card).unwrap()).collect();
    let card = models[0].card();
    let table = Schema::new(&card.ranker.as_ref().unwrap().features, card.items.len()).table_len;
    let (fields, dense) = (card.inputs[0].row_len(), card.inputs[1].row_len());
    for rows in [1, 3, 200] {
        let ids: Vec<i64> = (0..rows * fields).map(|_| seeded.below(table) as i64).collect();
        let numbers: Vec<f32> = (0..rows * dense).map(|_| seeded.float()).collect();
        let likes = |model: &Ranker| {
            let mut likes = Vec::new();
            model.session().run(&[Values::I64(&ids), Values::F32(&numbers)], &mut likes).unwrap();
            likes
        };
        assert_eq!(likes(&models[0]).len(), rows);
        models[1..].iter().for_each(|model| assert_close(&likes(model), &likes(&models[0])));
    }
}
