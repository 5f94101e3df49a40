//! A newcomer's way with their own files: train, make a bundle that a node opens, gather what visitors did, train again. Items
//! come and go meanwhile. The training is short, and everything else is what `rockpool train` and `bundle publish` do.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use dataset::{Dataset, ReadOptions};
use inference::testing::SignedBundle;
use inference::{Bundle, Engine, Signer};
use proto::bundle::ArtifactKind;
use training::evaluate::Effort;
use training::{produce, sasrec};

/// Items of the shop; visitors walk from one to the next, in a circle.
const ITEMS: usize = 30;

/// The items file without those that are gone, and with some that are new.
fn items(gone: &[usize], new: usize) -> String {
    let mut text = String::from("item_id,title,category\n");
    for n in (0..ITEMS).filter(|n| !gone.contains(n)).chain(ITEMS..ITEMS + new) {
        writeln!(text, "i{n},Thing {n},{}", ["shoes", "hats"][n % 2]).unwrap();
    }
    text
}

/// A walk of each visitor, as a shop's own table has it.
fn purchases(visitors: usize, steps: usize, ratings: bool) -> String {
    let mut text =
        String::from(if ratings { "user_id;item_id;date;rating\n" } else { "user_id;item_id;date\n" });
    for (visitor, step) in (0..visitors).flat_map(|visitor| (0..steps).map(move |step| (visitor, step))) {
        let item = (visitor * 7 + step) % ITEMS;
        let rating = if ratings { format!(";{}", 1 + (visitor + item) % 10) } else { String::new() };
        writeln!(text, "u{visitor};i{item};2024-01-{:02} 10:00{rating}", step + 1).unwrap();
    }
    text
}

/// What an export of events has: impressions, and clicks on some of them.
fn events(visitors: usize, steps: usize) -> String {
    let mut text = String::from("user_id,item_id,timestamp,kind,value\n");
    for (visitor, step) in (0..visitors).flat_map(|visitor| (0..steps).map(move |step| (visitor, step))) {
        let (chosen, left) = ((visitor * 7 + step) % ITEMS, (visitor * 5 + step * 11) % ITEMS);
        let at = 1_710_000_000_000_u64 + (step * 3_600_000 + visitor * 1000) as u64;
        for (item, after, kind) in
            [(chosen, 0, "impression"), (left, 0, "impression"), (chosen, 500, "click")]
        {
            writeln!(text, "w{visitor},i{item},{},{kind},", at + after).unwrap();
        }
        writeln!(text, "w{visitor},,{},custom,", at + 600).unwrap();
    }
    text
}

fn read(folder: &Path, items: &str, interactions: &str) -> Dataset {
    fs::write(folder.join("items.csv"), items).unwrap();
    fs::write(folder.join("interactions.csv"), interactions).unwrap();
    dataset::open(folder.to_str().unwrap(), &ReadOptions::default()).unwrap()
}

/// Trains, and opens the bundle of `served` with the models as a node does.
fn bundle(trained: &Dataset, served: &Dataset) -> Bundle {
    let (engine, outlook) = (Engine::choose(None), produce::outlook(trained).unwrap());
    let mut effort = Effort::quick();
    effort.retrieval = sasrec::Config {
        len: 8,
        dim: 16,
        hidden: 16,
        rate: 1e-2,
        batch: 16,
        epochs_max: 8,
        ..effort.retrieval
    };
    let retrieval = produce::retrieval(trained, &outlook, &effort, 1, &engine).unwrap();
    let ranker = produce::ranker(trained, &outlook, &effort, 1, &engine).unwrap();
    let artifacts = HashMap::from([
        (ArtifactKind::Catalog, serde_json::to_vec(&served.catalog()).unwrap()),
        (ArtifactKind::Rules, serde_json::to_vec(&dataset::popularity::rules(served)).unwrap()),
        (ArtifactKind::RetrievalModel, retrieval.onnx.clone()),
        (ArtifactKind::RetrievalCard, retrieval.card.to_json()),
        (ArtifactKind::RankerModel, ranker.onnx.clone()),
        (ArtifactKind::RankerCard, ranker.card.to_json()),
    ]);
    let signed = SignedBundle::new(&Signer::from_seed(&[7; 32]), 1, artifacts);
    Bundle::open(signed.manifest.clone(), |kind| signed.artifact(kind), &engine).unwrap()
}

/// Of walks that begin anywhere: how often is the next item among the best five that were not met?
fn hit_rate(bundle: &Bundle) -> f64 {
    let model = &bundle.retrieval.as_ref().unwrap().model;
    let (mut scores, mut hits) = (Vec::new(), 0.0);
    for first in 0..ITEMS {
        let walk: Vec<u32> =
            (first..first + 4).map(|n| model.index_of(&format!("i{}", n % ITEMS)).unwrap()).collect();
        let next = model.index_of(&format!("i{}", (first + 4) % ITEMS)).unwrap();
        model.scores(&walk, &mut scores).unwrap();
        let better = (0..)
            .zip(&scores)
            .filter(|(item, score)| !walk.contains(item) && **score > scores[next as usize]);
        hits += if better.count() < 5 { 1.0 } else { 0.0 };
    }
    hits / ITEMS as f64
}

#[test]
fn the_second_model_finds_more_than_the_first() {
    let folder = tempfile::tempdir().unwrap();
    for ratings in [false, true] {
        let first = read(folder.path(), &items(&[], 0), &purchases(40, 3, ratings));
        let first_bundle = bundle(&first, &first);
        let card = first_bundle.ranker.as_ref().unwrap().model.card();
        assert_eq!(card.trained_on.contains("sampled negatives"), !ratings, "{}", card.trained_on);

        // Two items were taken out and three are new; the models of before still belong to the catalog.
        let today = items(&[3, 4], 3);
        let served = read(folder.path(), &today, &purchases(40, 3, ratings));
        assert!(served.reports[1].unused > 0 && served.reports[1].bad == 0);
        let opened = bundle(&first, &served);
        assert_eq!(opened.retrieval.unwrap().absent.len(), 2);

        let second = read(folder.path(), &items(&[], 3), &events(120, 8));
        assert!(second.shown.len() > second.interactions.len());
        let second_bundle = bundle(&second, &second);
        let card = second_bundle.ranker.as_ref().unwrap().model.card();
        assert!(card.trained_on.contains("impressions"), "{}", card.trained_on);
        let (before, after) = (hit_rate(&first_bundle), hit_rate(&second_bundle));
        assert!(after > before + 0.1, "ratings {ratings}: {before} then {after}");
    }
}
