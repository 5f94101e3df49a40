//! `cargo run -p inference --example latency [FOLDER]`
//!
//! Microseconds a call, one thread, of the models in FOLDER (default: models/onnx; tiny ones if it has none): retrieval,
//! feature encoding and ranking of 200 candidates, on both engines. ONNX Runtime is measured if its library is found.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use inference::retrieval::top;
use inference::{
    Card, Encoder, Engine, EngineKind, FeatureBatch, IndexedCatalog, Ranker, Retrieval, testing,
};
use proto::bundle::{Catalog, Item};
use proto::profile::{Interaction, Signal};

const CALLS: usize = 2000;
const CANDIDATES: u32 = 200;
const RING: usize = 100;

struct Files {
    retrieval: (Vec<u8>, Vec<u8>),
    ranker: (Vec<u8>, Vec<u8>),
}

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../onnx"), PathBuf::from);
    let files = if folder.join("retrieval.onnx").exists() {
        let read = |name: &str| std::fs::read(folder.join(name)).with_context(|| format!("reading {name}"));
        Files {
            retrieval: (read("retrieval.onnx")?, read("retrieval.card.json")?),
            ranker: (read("ranker.onnx")?, read("ranker.card.json")?),
        }
    } else {
        println!("no models in {}: tiny ones of 1,682 items", folder.display());
        let catalog = testing::catalog(1682);
        let (retrieval, ranker) = (testing::retrieval(&catalog, 1), testing::ranker(&catalog, 2));
        Files {
            retrieval: (retrieval.onnx.clone(), retrieval.card_json()),
            ranker: (ranker.onnx.clone(), ranker.card_json()),
        }
    };
    println!("{:<34}{:>10}{:>10}{:>10}", "", "p50 µs", "p99 µs", "mean µs");
    for engine in [Engine::choose(None), Engine::tract()] {
        measure(&engine, &files)?;
        if engine.kind() == EngineKind::Tract {
            break;
        }
    }
    Ok(())
}

fn measure(engine: &Engine, files: &Files) -> anyhow::Result<()> {
    println!("{}", engine.describe());
    let before = Instant::now();
    let retrieval = Retrieval::load(engine, &files.retrieval.0, &files.retrieval.1)?;
    let ranker = Ranker::load(engine, &files.ranker.0, &files.ranker.1)?;
    println!("{:<34}{:>10}", "  load both (ms in all)", before.elapsed().as_millis());
    for (name, session) in [("retrieval", retrieval.session()), ("ranker", ranker.session())] {
        let cost = session.cost();
        println!("  {name}: {} weights, {} multiplications a row", cost.parameters, cost.work);
    }

    let items = retrieval.items() as u32;
    let history: Vec<u32> = (0..RING as u32).map(|n| n * 7 % items).collect();
    let (mut scores, mut keys, mut best) = (Vec::new(), Vec::new(), Vec::new());
    time("  retrieval", || Ok(retrieval.scores(&history, &mut scores)?))?;
    time("  top 200 of all", || {
        top(&scores, CANDIDATES as usize, history.iter().copied(), &mut keys, &mut best);
        Ok(())
    })?;

    let encoder = Encoder::new(ranker.card(), Arc::new(catalog(ranker.card())?))?;
    let interactions = interactions(ranker.card(), &history);
    let mut visitor = encoder.visitor(&interactions, &vec![], &vec![], 1_000_000);
    time("  the visitor's half of a row", || {
        visitor = encoder.visitor(&interactions, &vec![], &vec![], 1_000_000);
        Ok(())
    })?;
    let candidates: Vec<u32> = (0..CANDIDATES.min(items)).collect();
    let (mut batch, mut p) = (FeatureBatch::default(), Vec::new());
    time("  encode 200 candidates", || Ok(encoder.encode(&visitor, &candidates, &mut batch)?))?;
    time("  rank 200 candidates", || Ok(ranker.rank(&batch, &mut p)?))?;
    [1, 2, 4].into_iter().try_for_each(|threads| together(threads, &retrieval, &history, &ranker, &batch))
}

/// Retrieval and ranking, one after the other, on many threads at once.
fn together(
    threads: usize,
    retrieval: &Retrieval,
    history: &[u32],
    ranker: &Ranker,
    batch: &FeatureBatch,
) -> anyhow::Result<()> {
    let before = Instant::now();
    let work = || -> anyhow::Result<()> {
        let (mut scores, mut p) = (Vec::new(), Vec::new());
        for _ in 0..CALLS {
            retrieval.scores(history, &mut scores)?;
            ranker.rank(batch, &mut p)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|handle| {
            handle.join().map_err(|_| anyhow::anyhow!("a measuring thread panicked"))?
        })
    })?;
    let rate = (threads * CALLS) as f64 / before.elapsed().as_secs_f64();
    println!("{:<34}{rate:>10.0}", format!("  both, calls/s on {threads} threads"));
    Ok(())
}

/// The card's items, with its categories and attributes spread over them.
fn catalog(card: &Card) -> anyhow::Result<IndexedCatalog> {
    let part = card.ranker.as_ref().context("a ranker's card")?;
    let categories = &part.features.categories;
    let item = |(n, id): (usize, &proto::ItemId)| Item {
        id: id.clone(),
        title: id.to_string(),
        categories: categories.iter().cycle().skip(n).take(1 + n % 3).cloned().collect(),
        attributes: vec![("year".to_owned(), (1930 + n % 70).to_string())],
        image: None,
    };
    let items = card.items.iter().enumerate().map(item).collect();
    IndexedCatalog::new(Catalog { items, ..Catalog::default() }).map_err(anyhow::Error::msg)
}

fn interactions(card: &Card, history: &[u32]) -> Vec<Interaction> {
    let rated = |(n, index): (usize, &u32)| Interaction {
        item: card.items[*index as usize].clone(),
        signal: Signal::Rating,
        stars: 1.0 + (n % 5) as f32,
        at_ms: n as u64 * 1000,
    };
    history.iter().enumerate().map(rated).collect()
}

fn time(name: &str, mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    (0..CALLS / 10).try_for_each(|_| call())?;
    let mut micros = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let before = Instant::now();
        call()?;
        micros.push(before.elapsed().as_nanos() as f64 / 1000.0);
    }
    micros.sort_unstable_by(f64::total_cmp);
    let mean = micros.iter().sum::<f64>() / CALLS as f64;
    println!("{name:<34}{:>10.1}{:>10.1}{mean:>10.1}", micros[CALLS / 2], micros[CALLS * 99 / 100]);
    Ok(())
}
