//! Tiny valid catalogs, models, cards and signed bundles, so that other crates' tests need no training. Weights come from a
//! seed: two seeds give two models that answer differently.

pub mod graph;

use std::collections::{BTreeMap, HashMap};

use proto::bundle::{ArtifactKind, Catalog, Item, Manifest, Rules, SignedManifest};
use proto::{Digest, ItemId, Revision};

use self::graph::Graph;
use crate::bundle::{Signer, artifact_ref};
use crate::card::{Card, ModelKind, RankerPart, RetrievalPart};
use crate::engine::Engine;
use crate::features::{FeatureSpec, FieldValues, GlobalStats, ItemStats, NamedValues, Schema};
use crate::graph::Attribute;
use crate::ranker::Ranker;
use crate::retrieval::Retrieval;
use crate::tensor::{DType, ModelSpec, Tensor, TensorSpec};

/// History that the tiny retrieval model looks at.
pub const HISTORY_LEN: usize = 5;
/// Its embedding's length.
const WIDTH: usize = 4;
const DAY: &str = "20260101";

/// An ONNX file with its card.
#[derive(Debug, Clone)]
pub struct Model {
    /// The ONNX file.
    pub onnx: Vec<u8>,
    /// The card, not yet as JSON, for tests that change it.
    pub card: Card,
}

impl Model {
    /// The card as JSON.
    pub fn card_json(&self) -> Vec<u8> {
        self.card.to_json()
    }

    /// Replaces the ONNX file, and the digest in the card.
    pub fn set_onnx(&mut self, onnx: Vec<u8>) {
        self.card.onnx_digest = Digest::of(&onnx);
        self.onnx = onnx;
    }
}

/// `i0`, `i1` …, each with one or two of three categories and a year.
pub fn catalog(items: usize) -> Catalog {
    let categories = ["Action", "Comedy", "Drama"];
    let item = |n: usize| Item {
        id: ItemId::new(format!("i{n}")).expect("a short id"),
        title: format!("Item {n}"),
        categories: [categories[n % 3], categories[(n / 3) % 3]][..1 + usize::from(n % 3 != (n / 3) % 3)]
            .iter()
            .map(|name| (*name).to_owned())
            .collect(),
        attributes: vec![("year".to_owned(), (1950 + n % 50).to_string())],
        image: None,
    };
    Catalog { items: (0..items).map(item).collect(), ..Catalog::default() }
}

/// Popular: the catalog's first 200 items.
pub fn rules(catalog: &Catalog) -> Rules {
    Rules {
        popular: catalog.items.iter().take(200).map(|item| item.id.clone()).collect(),
        ..Rules::default()
    }
}

/// What the tiny ranker's encoder knows of [`catalog`].
pub fn feature_spec() -> FeatureSpec {
    let vocabulary = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    FeatureSpec {
        traits: vec![
            NamedValues { name: "age".to_owned(), values: FieldValues::Bands(vec![18.0, 25.0, 35.0, 50.0]) },
            NamedValues {
                name: "gender".to_owned(),
                values: FieldValues::Vocabulary(vocabulary(&["F", "M"])),
            },
        ],
        attributes: vec![NamedValues {
            name: "year".to_owned(),
            values: FieldValues::Bands(vec![1960.0, 1970.0, 1980.0, 1990.0]),
        }],
        categories: vocabulary(&["Action", "Comedy", "Drama"]),
        liked_items: 2,
    }
}

/// Mean of the history's embeddings, times all embeddings.
pub fn retrieval(catalog: &Catalog, seed: u64) -> Model {
    poisoned_retrieval(catalog, seed, |_| false)
}

/// The same, but the embeddings of some items (by place) are so large that two of them in one history add up to infinity: the file
/// is sound, and answers others well. Not more than one of the first four, and of the next five, is to be poisoned: golden
/// answers are of those.
pub fn poisoned_retrieval(catalog: &Catalog, seed: u64, poisoned: impl Fn(usize) -> bool) -> Model {
    let items = catalog.items.len();
    let mut weights = Weights(seed);
    let mut table = weights.take((items + 1) * WIDTH);
    table[..WIDTH].fill(0.0);
    let transposed: Vec<f32> = (0..WIDTH)
        .flat_map(|w| (1..=items).map(move |i| (i, w)))
        .map(|(i, w)| table[i * WIDTH + w])
        .collect();
    for item in (0..items).filter(|item| poisoned(*item)) {
        table[(item + 1) * WIDTH..(item + 2) * WIDTH].fill(f32::MAX * 0.9);
    }
    let mut graph = Graph::new("retrieval");
    graph
        .input("history", DType::I64, &[HISTORY_LEN])
        .output("scores", DType::F32, &[items])
        .floats("table", &[items + 1, WIDTH], &table)
        .floats("items", &[WIDTH, items], &transposed)
        .node("Gather", &["table", "history"], "rows", &[])
        .node(
            "ReduceMean",
            &["rows"],
            "mean",
            &[("axes", Attribute::Ints(&[1])), ("keepdims", Attribute::Int(0))],
        )
        .node("MatMul", &["mean", "items"], "scores", &[]);
    let mut card = card(ModelKind::Retrieval, catalog, graph.specs());
    card.retrieval = Some(RetrievalPart { history_len: HISTORY_LEN });
    let input = Tensor::I64((0..HISTORY_LEN as i64 * 2).map(|n| n % (items as i64 + 1)).collect());
    finish(graph, card, Retrieval::spec, vec![input], (2 * items) as u32)
}

/// Logistic regression over fields and numbers.
pub fn ranker(catalog: &Catalog, seed: u64) -> Model {
    let features = feature_spec();
    let schema = Schema::new(&features, catalog.items.len());
    let (fields, dense) = (schema.fields.len(), schema.dense.len());
    let mut weights = Weights(seed);
    let mut graph = Graph::new("ranker");
    graph
        .input("fields", DType::I64, &[fields])
        .input("dense", DType::F32, &[dense])
        .output("p", DType::F32, &[])
        .floats("table", &[schema.table_len, 1], &weights.take(schema.table_len))
        .floats("weights", &[dense, 1], &weights.take(dense))
        .ints("flat", &[-1])
        .node("Gather", &["table", "fields"], "rows", &[])
        .ints("places", &[1])
        .node("ReduceSum", &["rows", "places"], "wide", &[("keepdims", Attribute::Int(0))])
        .node("MatMul", &["dense", "weights"], "deep", &[])
        .node("Add", &["wide", "deep"], "both", &[])
        .node("Sigmoid", &["both"], "column", &[])
        .node("Reshape", &["column", "flat"], "p", &[]);
    let mut card = card(ModelKind::Ranker, catalog, graph.specs());
    let stats =
        |n: usize| ItemStats { count: n as u32 % 7, likes: n as u32 % 4, stars_sum: (n % 7) as f32 * 3.0 };
    let item_stats: Vec<ItemStats> = (0..catalog.items.len()).map(stats).collect();
    card.ranker = Some(RankerPart {
        feature_schema_hash: schema.hash().to_owned(),
        global: GlobalStats::of(&item_stats),
        item_stats,
        features,
    });
    let ids: Vec<i64> =
        schema.fields.iter().cycle().take(3 * fields).map(|field| field.offset as i64).collect();
    let inputs = vec![Tensor::I64(ids), Tensor::F32(weights.take(3 * dense))];
    finish(graph, card, Ranker::spec, inputs, 3)
}

fn card(kind: ModelKind, catalog: &Catalog, (inputs, output): (Vec<TensorSpec>, TensorSpec)) -> Card {
    Card {
        name: "tiny".to_owned(),
        version: Card::version_of(kind, DAY, &Digest::of(b"")),
        kind,
        created_at: "2026-01-01T00:00:00Z".to_owned(),
        onnx_digest: Digest::of(b""),
        trained_on: "nothing: weights from a seed".to_owned(),
        protocol: "none".to_owned(),
        metrics: BTreeMap::new(),
        intended_use: "tests".to_owned(),
        limits: "knows nothing".to_owned(),
        inputs,
        output,
        items: catalog.items.iter().map(|item| item.id.clone()).collect(),
        retrieval: None,
        ranker: None,
        golden: Vec::new(),
    }
}

fn finish(
    graph: Graph,
    mut card: Card,
    spec: fn(&Card) -> ModelSpec,
    inputs: Vec<Tensor>,
    outputs: u32,
) -> Model {
    let onnx = graph.to_onnx();
    card.onnx_digest = Digest::of(&onnx);
    card.version = Card::version_of(card.kind, DAY, &card.onnx_digest);
    let session = Engine::tract().load(&onnx, &spec(&card)).expect("the tiny graphs are valid");
    card.golden = vec![session.golden(inputs, 0..outputs).expect("the tiny graphs run")];
    Model { onnx, card }
}

/// A signed bundle with its files.
#[derive(Debug, Clone)]
pub struct SignedBundle {
    /// The manifest, not yet encoded.
    pub manifest: Manifest,
    /// The same, signed.
    pub signed: SignedManifest,
    /// Its files.
    pub artifacts: HashMap<ArtifactKind, Vec<u8>>,
}

impl SignedBundle {
    /// A bundle of these files, published at 1 ms, expiring at `u64::MAX` ms.
    pub fn new(signer: &Signer, revision: u64, artifacts: HashMap<ArtifactKind, Vec<u8>>) -> Self {
        let mut refs: Vec<_> = artifacts.iter().map(|(kind, bytes)| artifact_ref(*kind, bytes)).collect();
        refs.sort_by_key(|artifact| artifact.kind);
        let (revision, published_at_ms, expires_at_ms) = (Revision(revision), 1, u64::MAX);
        let manifest = Manifest { revision, published_at_ms, expires_at_ms, artifacts: refs };
        Self { signed: signer.sign(&manifest), manifest, artifacts }
    }

    /// A file's bytes, as [`crate::Bundle::open`] asks for them.
    pub fn artifact(&self, kind: ArtifactKind) -> Option<Vec<u8>> {
        self.artifacts.get(&kind).cloned()
    }
}

/// A signed bundle of [`catalog`], [`rules`] and both tiny models. `items` is at least 1.
pub fn bundle(signer: &Signer, revision: u64, items: usize, seed: u64) -> SignedBundle {
    let catalog = catalog(items);
    let (retrieval, ranker) = (retrieval(&catalog, seed), ranker(&catalog, seed + 1));
    let json = |value: Result<Vec<u8>, serde_json::Error>| value.expect("plain data serializes");
    let artifacts = HashMap::from([
        (ArtifactKind::Rules, json(serde_json::to_vec(&rules(&catalog)))),
        (ArtifactKind::Catalog, json(serde_json::to_vec(&catalog))),
        (ArtifactKind::RetrievalCard, retrieval.card_json()),
        (ArtifactKind::RetrievalModel, retrieval.onnx),
        (ArtifactKind::RankerCard, ranker.card_json()),
        (ArtifactKind::RankerModel, ranker.onnx),
    ]);
    SignedBundle::new(signer, revision, artifacts)
}

/// SplitMix64 (Steele, Lea, Flood 2014), as floats from -0.5 to 0.5.
struct Weights(u64);

impl Weights {
    fn take(&mut self, count: usize) -> Vec<f32> {
        let next = |state: &mut u64| {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next(&mut self.0)).collect()
    }
}
