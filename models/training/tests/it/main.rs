//! The command line as a user meets it: their own CSV files in, models that a node can load out.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

mod newcomer;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use inference::{Engine, Ranker, Retrieval};

fn rockpool_train(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rockpool-train"))
        .args(arguments)
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .expect("the binary was built for this test")
}

/// 30 visitors walk through 20 items; ratings only if asked for.
fn write_data(folder: &Path, ratings: bool) {
    let mut items = String::from("item_id,title,categories,year\n");
    (0..20).for_each(|n| writeln!(items, "i{n},\"Item, {n}\",a|b{},{}", n % 3, 1990 + n).unwrap());
    let mut interactions = String::from("visitor_id,item_id,timestamp,rating\n");
    for visitor in 0..30 {
        for step in 0..10 {
            let item = (visitor + step) % 20;
            let rating = if ratings { ((visitor + item) % 5 + 1).to_string() } else { String::new() };
            writeln!(interactions, "v{visitor},i{item},{},{rating}", 1_000_000 + step * 100 + visitor)
                .unwrap();
        }
    }
    interactions.push_str("v1,no-such-item,1000,5\n");
    fs::write(folder.join("items.csv"), items).unwrap();
    fs::write(folder.join("interactions.csv"), interactions).unwrap();
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn own_files_become_models_that_load() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path(), true);
    let (data, out) = (folder.path().to_str().unwrap(), folder.path().join("models"));
    let output = rockpool_train(&["train", "--quick", "--data", data, "--out", out.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("interactions.csv, line 302: item_id \"no-such-item\" is not in the items file"),
        "{said}"
    );

    let engine = Engine::choose(None);
    let file = |name: &str| read(&out.join(name));
    let retrieval = Retrieval::load(&engine, &file("retrieval.onnx"), &file("retrieval.card.json")).unwrap();
    assert_eq!(retrieval.items(), 20);
    assert_eq!(retrieval.item(3).unwrap().as_str(), "i3");
    let mut scores = Vec::new();
    retrieval.scores(&[1, 2, 3], &mut scores).unwrap();
    assert!(scores.len() == 20 && scores.iter().all(|score| score.is_finite()));
    let ranker = Ranker::load(&engine, &file("ranker.onnx"), &file("ranker.card.json")).unwrap();
    assert_eq!(ranker.card().ranker.as_ref().unwrap().item_stats.iter().map(|s| s.count).sum::<u32>(), 300);
}

/// Purchases without ratings: both models, the second from sampled negatives, which its card says. An older ranker of other
/// data does not stay beside the new retrieval model.
#[test]
fn without_ratings_a_ranker_is_trained_too() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path(), false);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (items, interactions, out) = (path("items.csv"), path("interactions.csv"), path("out"));
    let output = rockpool_train(&[
        "train",
        "--quick",
        "--items",
        &items,
        "--interactions",
        &interactions,
        "--out",
        &out,
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = |name: &str| read(&folder.path().join("out").join(name));
    let ranker =
        Ranker::load(&Engine::choose(None), &file("ranker.onnx"), &file("ranker.card.json")).unwrap();
    assert!(ranker.card().trained_on.contains("sampled negatives"), "{}", ranker.card().trained_on);
}

fn train(folder: &Path) -> (bool, String) {
    let (data, out) = (folder.to_str().unwrap(), folder.join("out"));
    let output = rockpool_train(&["train", "--quick", "--data", data, "--out", out.to_str().unwrap()]);
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What an earlier run left is moved aside as soon as one model of this run is there; if there is none, it stays.
#[test]
fn a_model_of_an_earlier_run_does_not_stay_beside_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("ranker.onnx"), "stale").unwrap();
    write_data(folder.path(), true);
    // Ten ratings are too few for a ranker; two visitors meet nothing in an order: no retrieval model either.
    fs::write(folder.path().join("interactions.csv"), "visitor_id,item_id,timestamp\nv1,i1,1\nv2,i2,2\n")
        .unwrap();
    let (good, said) = train(folder.path());
    assert!(!good && said.contains("no model could be trained") && said.contains("--models none"), "{said}");
    assert!(said.contains("no retrieval model was written: the data set has 0 visitors"), "{said}");
    assert!(said.contains("no ranker model was written: a ranker learns from 100 trials"), "{said}");
    assert_eq!(read(&out.join("ranker.onnx")), b"stale");

    // One interaction a visitor: a ranker, and no retrieval model.
    let mut rows = String::from("visitor_id,item_id,timestamp,kind\n");
    (0..150).for_each(|n| writeln!(rows, "v{n},i{},{},purchase", n % 7, 1_700_000_000 + n).unwrap());
    fs::write(folder.path().join("interactions.csv"), rows).unwrap();
    fs::write(out.join("retrieval.onnx"), "stale").unwrap();
    let (good, said) = train(folder.path());
    assert!(good, "{said}");
    assert!(!out.join("retrieval.onnx").exists() && out.join("retrieval.onnx.old").exists(), "{said}");
    assert!(read(&out.join("ranker.onnx")) != b"stale" && out.join("ranker.onnx.old").exists(), "{said}");
}

/// Inputs that lost everything at the end of training, or before it.
#[test]
fn ratings_all_alike_and_a_long_title_are_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path(), true);
    let path = |name: &str| folder.path().join(name);
    let items = fs::read_to_string(path("items.csv")).unwrap();
    fs::write(path("items.csv"), items.replace("Item, 7", &"x".repeat(513))).unwrap();
    let mut rows = String::from("visitor_id;item_id;timestamp;rating\n");
    for visitor in 0..30 {
        for step in 0..10 {
            let time = format!("2024-01-{:02} 10:{visitor:02}:00", step + 1);
            writeln!(rows, "v{visitor};i{};{time};5", (visitor + step) % 20).unwrap();
        }
    }
    fs::write(path("interactions.csv"), rows).unwrap();
    let (good, said) = train(folder.path());
    assert!(good && said.contains("every rating is 5") && said.contains("1 titles were cut"), "{said}");
    assert!(said.contains("300 times have no zone, and were read as UTC"), "{said}");
    for name in ["retrieval.onnx", "ranker.onnx", "retrieval.card.json", "ranker.card.json"] {
        assert!(path("out").join(name).exists(), "{name}: {said}");
    }
}

#[test]
fn evaluate_writes_the_figures_as_json() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path(), true);
    // Protocol A wants 20 interactions a visitor; nobody here has them, and that is said.
    let json = folder.path().join("report.json");
    let arguments =
        ["evaluate", "--quick", "--data", folder.path().to_str().unwrap(), "--json", json.to_str().unwrap()];
    let output = rockpool_train(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&read(&json)).unwrap();
    assert!(report.pointer("/retrieval/full/hr_at_10").unwrap().is_f64());
    assert!(report.pointer("/retrieval/sampled99").unwrap().is_null());
    assert!(report.pointer("/ctr/auc").unwrap().is_f64());
}

#[test]
fn mistakes_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let output = rockpool_train(&["train", "--data", folder.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("no items.csv, items.tsv or items.parquet there"),
        "{said}"
    );

    write_data(folder.path(), true);
    let data = folder.path().to_str().unwrap();
    let rows = folder.path().join("interactions.csv");
    fs::write(&rows, fs::read_to_string(&rows).unwrap() + "v1,i1,soon,5\n").unwrap();
    let output = rockpool_train(&["evaluate", "--quick", "--data", data, "--bad-rows-max", "0"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("1 of 302 rows are bad"), "{said}");
    for wrong in
        [["--bad-rows-max", "2"], ["--rating-scale", "5"], ["--utc-offset", "Berlin"], ["--column", "id=x"]]
    {
        let output = rockpool_train(&["train", "--data", data, wrong[0], wrong[1]]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(wrong[0]), "{said}");
    }

    let output = rockpool_train(&["train", "--help"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("interactions  visitor_id") && said.contains("--utc-offset"), "{said}");
}
