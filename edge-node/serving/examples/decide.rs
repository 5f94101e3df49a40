//! `cargo run -p edge-serving --example decide [FOLDER]`
//!
//! What one decision costs, one thread, by stages, with the models in FOLDER (default: models/onnx), and beside it the bare
//! loop: the same two models called once each in the same engine (one history; 200 rows that are ready), and nothing else.
//! The catalog is made of the cards. Rounds of all measurements alternate, and the median round of each is printed, so that
//! whatever else the machine does falls on all of them alike.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use edge_serving::{Budget, Prepared, Scratch, Stage, decide};
use inference::{Bundle, Card, Engine, EngineKind, FeatureBatch, Signer, Values, testing::SignedBundle};
use proto::bundle::{ArtifactKind, Catalog, Item, Rules};
use proto::client::Recommend;
use proto::profile::{Interaction, Profile, Seen, Signal, View};
use proto::{UserId, VisitorId};

const ROUNDS: usize = 31;
const CALLS: usize = 100;
const CANDIDATES: usize = 200;
/// What is asked for.
const COUNT: u16 = 20;
/// Interactions and seen items of a visitor; visitors differ in which.
const RING: usize = 100;
const SEEN: usize = 100;
const VISITORS: usize = 20;
const NOW_MS: u64 = 1_760_000_000_000;

/// Allows this many stages.
struct Stages(usize);

impl Budget for Stages {
    fn allows(&self, stage: Stage) -> bool {
        match stage {
            Stage::Retrieve => self.0 >= 1,
            Stage::Rank => self.0 >= 2,
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/onnx"), PathBuf::from);
    for engine in [Engine::choose(None), Engine::tract()] {
        println!("{}", engine.describe());
        let before = Instant::now();
        let prepared = Prepared::new(open(&folder, &engine)?);
        println!("  open and prepare the bundle: {:.0} ms", before.elapsed().as_secs_f64() * 1e3);
        println!("  as code: {}", compiled(&prepared));
        measure(&prepared)?;
        if engine.kind() == EngineKind::Tract {
            break;
        }
    }
    Ok(())
}

/// Which models run as code.
fn compiled(prepared: &Prepared) -> String {
    let bundle = prepared.bundle();
    let retrieval = bundle.retrieval.as_ref().is_some_and(|stage| stage.model.is_compiled());
    let ranker = bundle.ranker.as_ref().is_some_and(|stage| stage.is_compiled());
    format!("retrieval {retrieval}, ranker {ranker}")
}

fn open(folder: &Path, engine: &Engine) -> Result<Bundle, Box<dyn Error>> {
    let read = |name: &str| std::fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"));
    let card = Card::parse(&read("ranker.card.json")?)?;
    let catalog = catalog(&card)?;
    let popular = catalog.items.iter().take(200).map(|item| item.id.clone()).collect();
    let rules = Rules { popular, ..Rules::default() };
    let files = HashMap::from([
        (ArtifactKind::Catalog, serde_json::to_vec(&catalog)?),
        (ArtifactKind::Rules, serde_json::to_vec(&rules)?),
        (ArtifactKind::RetrievalModel, read("retrieval.onnx")?),
        (ArtifactKind::RetrievalCard, read("retrieval.card.json")?),
        (ArtifactKind::RankerModel, read("ranker.onnx")?),
        (ArtifactKind::RankerCard, read("ranker.card.json")?),
    ]);
    let bundle = SignedBundle::new(&Signer::from_seed(&[7; 32]), 1, files);
    Ok(Bundle::open(bundle.manifest.clone(), |kind| bundle.artifact(kind), engine)?)
}

/// The card's items, with its categories and years spread over them.
fn catalog(card: &Card) -> Result<Catalog, Box<dyn Error>> {
    let categories = &card.ranker.as_ref().ok_or("no ranker's card")?.features.categories;
    let item = |(n, id): (usize, &proto::ItemId)| Item {
        id: id.clone(),
        title: id.to_string(),
        categories: categories.iter().cycle().skip(n).take(1 + n % 3).cloned().collect(),
        attributes: vec![("year".to_owned(), (1930 + n % 70).to_string())],
        image: None,
    };
    Ok(Catalog { items: card.items.iter().enumerate().map(item).collect(), ..Catalog::default() })
}

fn view(prepared: &Prepared, n: usize) -> View {
    let items = prepared.bundle().catalog.items();
    let id = |at: usize| items[at % items.len()].id.clone();
    let met = |at: usize| Interaction {
        item: id(n * 31 + at * 7),
        signal: Signal::Rating,
        stars: 1.0 + ((n + at) % 5) as f32,
        at_ms: NOW_MS - (RING - at) as u64 * 60_000,
    };
    let seen = |at: usize| Seen { item: id(n * 17 + at * 11), served: 2, seen: 1 };
    let profile = Profile {
        interactions: (0..RING).map(met).collect(),
        seen: (0..SEEN).map(seen).collect(),
        traits: vec![
            ("age".to_owned(), "31".to_owned()),
            ("gender".to_owned(), "F".to_owned()),
            ("occupation".to_owned(), "writer".to_owned()),
        ],
        ..Profile::default()
    };
    View { visitor: visitor(), profile, applied: 1 }
}

fn visitor() -> VisitorId {
    VisitorId::User(UserId::new("somebody").expect("a short id"))
}

fn measure(prepared: &Prepared) -> Result<(), Box<dyn Error>> {
    let bundle = prepared.bundle();
    let (retrieval, ranker) =
        bundle.retrieval.as_ref().zip(bundle.ranker.as_ref()).ok_or("two models are needed")?;
    let views: Vec<View> = (0..VISITORS).map(|n| view(prepared, n)).collect();
    let slot = "home".parse()?;
    let ask = Recommend {
        visitor: visitor(),
        slot,
        count: COUNT,
        token: None,
        context: Vec::new(),
        exclude: Vec::new(),
    };

    // What the bare calls are given.
    let history: Vec<i64> =
        (0..retrieval.model.card().inputs[0].row_len() as i64).map(|n| n * 7 + 1).collect();
    let places: Vec<u32> = (0..CANDIDATES as u32).collect();
    let mut rows = FeatureBatch::default();
    let of = &views[0].profile;
    let visitor = ranker.encoder.visitor(&of.interactions, &of.traits, &Vec::new(), NOW_MS);
    ranker.encoder.encode(&visitor, &places, &mut rows)?;

    let mut scratch = Scratch::default();
    let (mut scores, mut likes) = (Vec::new(), Vec::new());
    let mut decided = |stages: usize| {
        time(|n| {
            let view = &views[n % VISITORS];
            let decision = decide(prepared, view, &ask, CANDIDATES, NOW_MS, &Stages(stages), &mut scratch);
            assert!(decision.failed.is_none() && decision.items.len() == usize::from(COUNT));
            Ok(())
        })
    };
    let mut bare_retrieval =
        || time(|_| Ok(retrieval.model.session().run(&[Values::I64(&history)], &mut scores)?));
    let mut bare_ranker = || {
        let inputs = [Values::I64(rows.fields()), Values::F32(rows.dense())];
        time(|_| Ok(ranker.model.session().run(&inputs, &mut likes)?))
    };
    let mut rounds: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let round = [bare_retrieval()?, bare_ranker()?, decided(0)?, decided(1)?, decided(2)?];
        rounds.iter_mut().zip(round).for_each(|(all, one)| all.push(one));
    }
    let [retrieval, ranker, none, retrieved, whole] = rounds.map(median);
    let bare = retrieval + ranker;
    let line = |name: &str, micros: f64| println!("  {name:<52}{micros:>8.1} µs{:>8.2}", micros / bare);
    line("bare: retrieval, one history", retrieval);
    line(&format!("bare: ranker, {CANDIDATES} rows that are ready"), ranker);
    line("bare loop, both", bare);
    line("decide without a model", none);
    line("decide without the ranker", retrieved);
    line("decide", whole);
    Ok(())
}

/// Microseconds a call, on average over a round.
fn time(mut call: impl FnMut(usize) -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let before = Instant::now();
    (0..CALLS).try_for_each(&mut call)?;
    Ok(before.elapsed().as_secs_f64() * 1e6 / CALLS as f64)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}
