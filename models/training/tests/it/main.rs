//! The command line as a user meets it: their own CSV files in, models that a node can load out.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

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

#[test]
fn without_ratings_only_the_retrieval_model_is_written() {
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
    assert!(folder.path().join("out/retrieval.onnx").exists());
    assert!(!folder.path().join("out/ranker.onnx").exists());
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
    let output = rockpool_train(&["evaluate", "--quick", "--data", data, "--bad-rows-max", "0"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("1 of 301 rows are bad"), "{said}");

    let output = rockpool_train(&["train", "--help"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("interactions  visitor_id") && said.contains("RFC 3339"), "{said}");
}
