//! What runs as code answers as the ONNX file does: for any weights, any visitor, any item. What is not recognised runs as before.

use std::collections::HashMap;
use std::path::Path;

use inference::testing::{self, SignedBundle};
use inference::{
    Bundle, Card, Engine, FeatureBatch, RankScratch, Ranker, RankerStage, Retrieval, Schema, Signer, Values,
};
use prost::Message;
use proto::bundle::{ArtifactKind, Catalog, Item};
use proto::profile::{Interaction, Signal};
use proto::{Digest, ItemId};
use tract_onnx::pb::ModelProto;

use crate::support::{Seeded, engines};

/// Items of the catalog that no model knows.
const COLD: usize = 20;

fn read(name: &str) -> Vec<u8> {
    std::fs::read(Path::new("../onnx").join(name)).unwrap()
}

#[track_caller]
fn assert_same(ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len());
    for (at, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{at}: {a} and {b}");
    }
}

/// A committed model, with its graph and its card changed; golden answers are those of the new graph.
fn changed(kind: &str, change: impl FnOnce(&mut ModelProto)) -> (Vec<u8>, Vec<u8>) {
    let mut card = Card::parse(&read(&format!("{kind}.card.json"))).unwrap();
    let mut model = ModelProto::decode(read(&format!("{kind}.onnx")).as_slice()).unwrap();
    change(&mut model);
    let onnx = model.encode_to_vec();
    card.onnx_digest = Digest::of(&onnx);
    let spec = if kind == "ranker" { Ranker::spec(&card) } else { Retrieval::spec(&card) };
    let session = Engine::tract().load(&onnx, &spec).unwrap();
    for golden in &mut card.golden {
        let positions: Vec<u32> = golden.output.iter().map(|(at, _)| *at).collect();
        *golden = session.golden(golden.inputs.clone(), positions).unwrap();
    }
    (onnx, card.to_json())
}

/// Other weights of the same shapes. A mask stays one, and so does the scale of a normalization.
fn reweigh(model: &mut ModelProto, seeded: &mut Seeded) {
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        let floats = tensor.raw_data.as_chunks::<4>().0;
        let values: Vec<f32> = floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let special = tensor.data_type != 1 || values[0] < -1e8 || values.iter().all(|value| *value == 1.0);
        if !special {
            let scale =
                if tensor.dims.len() == 2 { (2.0 / tensor.dims[0].min(64) as f32).sqrt() } else { 0.1 };
            tensor.raw_data = values.iter().flat_map(|_| (seeded.float() * scale).to_le_bytes()).collect();
        }
    }
}

/// Serves a ranker of `ml-100k`'s items over a catalog that has all of them, and some more.
fn stage(engine: &Engine, onnx: &[u8], card: &[u8]) -> RankerStage {
    let parsed = Card::parse(card).unwrap();
    let categories = &parsed.ranker.as_ref().unwrap().features.categories;
    let cold = (0..COLD).map(|n| ItemId::new(format!("cold-{n}")).unwrap());
    let item = |(n, id): (usize, ItemId)| Item {
        title: id.to_string(),
        id,
        categories: categories.iter().cycle().skip(n).take(n % 4).cloned().collect(),
        // Some of them unknown, some no number.
        image: None,
        attributes: match n % 5 {
            0 => vec![],
            1 => vec![("year".to_owned(), "long ago".to_owned())],
            _ => vec![("year".to_owned(), (1930 + n % 70).to_string())],
        },
    };
    let items = parsed.items.iter().cloned().chain(cold).enumerate().map(item).collect();
    let catalog = Catalog { items, ..Catalog::default() };
    let rules = testing::rules(&catalog);
    let files = HashMap::from([
        (ArtifactKind::Catalog, serde_json::to_vec(&catalog).unwrap()),
        (ArtifactKind::Rules, serde_json::to_vec(&rules).unwrap()),
        (ArtifactKind::RankerModel, onnx.to_vec()),
        (ArtifactKind::RankerCard, card.to_vec()),
    ]);
    let bundle = SignedBundle::new(&Signer::from_seed(&[7; 32]), 1, files);
    Bundle::open(bundle.manifest.clone(), |kind| bundle.artifact(kind), engine).unwrap().ranker.unwrap()
}

/// Ranks for visitors of every kind, both ways.
fn compare(stage: &RankerStage, seeded: &mut Seeded) {
    let items = stage.encoder.catalog().items();
    let (mut scratch, mut rows) = (RankScratch::default(), FeatureBatch::default());
    let (mut served, mut wanted) = (Vec::new(), Vec::new());
    for (visitor, met) in [0, 1, 3, 40, 200].into_iter().enumerate() {
        let interaction = |n: usize| Interaction {
            // Cold ones among them, and one that the catalog does not have.
            item: match n % 9 {
                4 => items[items.len() - 1 - n % COLD].id.clone(),
                5 => ItemId::new("nobody knows").unwrap(),
                _ => items[seeded.below(items.len())].id.clone(),
            },
            signal: [Signal::Rating, Signal::Click, Signal::Conversion][n % 3],
            stars: (n % 6) as f32,
            at_ms: n as u64 * 100_000,
        };
        let interactions: Vec<_> = (0..met).map(interaction).collect();
        let traits = match visitor {
            0 => vec![],
            1 => vec![("age".to_owned(), "unknown".to_owned()), ("gender".to_owned(), "X".to_owned())],
            _ => vec![("age".to_owned(), "33".to_owned()), ("occupation".to_owned(), "artist".to_owned())],
        };
        let features = stage.encoder.visitor(&interactions, &traits, &vec![], 1_700_000_000_000);
        for candidates in [0, 1, 2, 199, 200] {
            let mut places: Vec<u32> = (0..candidates).map(|_| seeded.below(items.len()) as u32).collect();
            places.extend(items.len() as u32 - candidates.min(COLD) as u32..items.len() as u32);
            stage.encoder.encode(&features, &places, &mut rows).unwrap();
            stage.model.rank(&rows, &mut wanted).unwrap();
            stage.rank(&features, &places, &mut scratch, &mut served).unwrap();
            assert_same(&served, &wanted);
        }
        assert!(stage.rank(&features, &[items.len() as u32], &mut scratch, &mut served).is_err());
    }
}

fn compare_scores(retrieval: &Retrieval, seeded: &mut Seeded) {
    let len = retrieval.card().inputs[0].row_len();
    let (mut served, mut wanted) = (Vec::new(), Vec::new());
    for met in [0, 1, 2, 7, len - 1, len, len + 1, 4 * len] {
        let history: Vec<u32> = (0..met).map(|_| seeded.below(retrieval.items()) as u32).collect();
        let mut row = vec![0; len];
        let latest = &history[met.saturating_sub(len)..];
        for (place, index) in row[len - latest.len()..].iter_mut().zip(latest) {
            *place = i64::from(*index) + 1;
        }
        retrieval.session().run(&[Values::I64(&row)], &mut wanted).unwrap();
        retrieval.scores(&history, &mut served).unwrap();
        assert_same(&served, &wanted);
    }
}

#[test]
fn the_committed_models_run_as_code_and_answer_the_same() {
    let mut seeded = Seeded(5);
    for engine in engines() {
        let stage = stage(&engine, &read("ranker.onnx"), &read("ranker.card.json"));
        assert!(stage.is_compiled());
        compare(&stage, &mut seeded);
        let retrieval =
            Retrieval::load(&engine, &read("retrieval.onnx"), &read("retrieval.card.json")).unwrap();
        assert!(retrieval.is_compiled());
        compare_scores(&retrieval, &mut seeded);
    }
}

#[test]
fn any_weights_answer_the_same() {
    let mut compiled = (0, 0);
    for seed in 1..=8 {
        let mut seeded = Seeded(seed);
        let (onnx, card) = changed("ranker", |model| reweigh(model, &mut seeded));
        let stage = stage(&Engine::choose(None), &onnx, &card);
        compiled.0 += usize::from(stage.is_compiled());
        compare(&stage, &mut seeded);
        let (onnx, card) = changed("retrieval", |model| reweigh(model, &mut seeded));
        let retrieval = Retrieval::load(&Engine::choose(None), &onnx, &card).unwrap();
        compiled.1 += usize::from(retrieval.is_compiled());
        compare_scores(&retrieval, &mut seeded);
    }
    // Where rounding alone went too far, the engine serves: that is no error, but it must not be the rule.
    assert!(compiled.0 >= 6 && compiled.1 >= 6, "{compiled:?} of 8 ran as code");
}

#[test]
fn another_network_runs_as_it_did() {
    let other = |op: &'static str, instead: &'static str| {
        move |model: &mut ModelProto| {
            let mut nodes = model.graph.as_mut().unwrap().node.iter_mut();
            nodes.find(|node| node.op_type == op).unwrap().op_type = instead.to_owned();
        }
    };
    let mut seeded = Seeded(9);
    let (onnx, card) = changed("ranker", other("Relu", "Tanh"));
    let other_ranker = stage(&Engine::choose(None), &onnx, &card);
    assert!(!other_ranker.is_compiled());
    compare(&other_ranker, &mut seeded);
    let (onnx, card) = changed("retrieval", other("Relu", "Tanh"));
    let retrieval = Retrieval::load(&Engine::choose(None), &onnx, &card).unwrap();
    assert!(!retrieval.is_compiled());
    compare_scores(&retrieval, &mut seeded);
    // Values that a formula of the same shape would take otherwise: a scale of a normalization that is not 1.
    let (onnx, card) = changed("retrieval", |model| {
        let floats = |tensor: &&mut tract_onnx::pb::TensorProto| {
            tensor.data_type == 1
                && tensor.raw_data.as_chunks::<4>().0.iter().all(|b| f32::from_le_bytes(*b) == 1.0)
        };
        let scale = model.graph.as_mut().unwrap().initializer.iter_mut().find(floats).unwrap();
        scale.raw_data[..4].copy_from_slice(&1.5f32.to_le_bytes());
    });
    let retrieval = Retrieval::load(&Engine::choose(None), &onnx, &card).unwrap();
    assert!(!retrieval.is_compiled());
    compare_scores(&retrieval, &mut seeded);
    // A tiny one that nobody here trained.
    let tiny = testing::ranker(&testing::catalog(30), 3);
    let ranker = Ranker::load(&Engine::tract(), &tiny.onnx, &tiny.card_json()).unwrap();
    let schema = Schema::new(&testing::feature_spec(), 30);
    assert_eq!(ranker.card().inputs[0].row_len(), schema.fields.len());
}
