//! The command line as people meet it, where it needs no deployment: help and mistakes are answered at once.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

use std::path::Path;
use std::process::{Command, Output};

use proto::bundle::ArtifactKind;
use rockpool::publish;

/// Runs it in the source tree, where it would build `rockpool-train`, if there were a cargo.
fn rockpool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rockpool"))
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .env("CARGO", "/nowhere/cargo")
        .output()
        .expect("the binary was built for this test")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn help_and_mistakes_of_train_need_no_build() {
    for command in [&["train"][..], &["evaluate"], &["bundle", "publish"]] {
        let output = rockpool(&[command, &["--help"]].concat());
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        for wanted in [
            "--bad-rows-max",
            "--items",
            "--rating-scale",
            "--utc-offset",
            "interactions  visitor_id",
            "kind",
        ] {
            assert!(said.contains(wanted), "{command:?} lacks {wanted}: {said}");
        }
    }
    let output = rockpool(&["train", "--bad-rows-max", "2"]);
    assert!(
        !output.status.success() && said(&output).contains("a share is from 0 to 1"),
        "{}",
        said(&output)
    );
    // Only then is it built, which is said at once.
    let output = rockpool(&["train", "--quick"]);
    let said = said(&output);
    assert!(said.contains("building rockpool-train (") && said.contains("cannot run cargo"), "{said}");
}

fn shop(folder: &Path) {
    std::fs::write(folder.join("items.csv"), "item_id,title\na,Alpha\nb,Beta\n").unwrap();
    let rows = "visitor_id;item_id;timestamp\nv;a;2024-01-01\nv;gone;2024-01-02\nw;b;soon\n";
    std::fs::write(folder.join("interactions.csv"), rows).unwrap();
}

/// Publishing reads with the options of training and shows the same report, before it asks the cloud; an item that was taken
/// out of the catalog does not stop it.
#[test]
fn publish_takes_what_train_took() {
    let folder = tempfile::tempdir().unwrap();
    shop(folder.path());
    let data = folder.path().to_str().unwrap();
    let publish = |more: &[&str]| {
        let base = ["bundle", "publish", "--api", "http://127.0.0.1:1", "--data", data, "--models", "none"];
        said(&rockpool(&[&base, more].concat()))
    };
    let strict = publish(&[]);
    assert!(strict.contains("line 4: timestamp \"soon\"") && strict.contains("--bad-rows-max"), "{strict}");
    let lax = publish(&["--bad-rows-max", "0.5"]);
    assert!(
        lax.contains("3 rows, 1 skipped, 1 not used") && lax.contains("line 3: item_id \"gone\""),
        "{lax}"
    );
    assert!(lax.contains("were read as UTC") && !lax.contains("are bad"), "{lax}");
    let other = folder.path().join("today.csv");
    std::fs::write(&other, "item_id,title\na,Alpha\n").unwrap();
    let today = publish(&["--bad-rows-max", "0.5", "--items", other.to_str().unwrap()]);
    assert!(today.contains("today.csv: 1 rows, 0 skipped"), "{today}");
}

/// What is missing is said before a deployment is started.
#[test]
fn up_says_at_once_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    shop(folder.path());
    let (data, nothing) = (folder.path().to_str().unwrap(), folder.path().join("models"));
    let output =
        rockpool(&["up", "--data", data, "--bad-rows-max", "1", "--models", nothing.to_str().unwrap()]);
    let said = said(&output);
    assert!(!output.status.success() && said.contains("there is no model in"), "{said}");
    assert!(said.contains("rockpool train --out") && !said.contains("starting a cloud"), "{said}");
}

#[test]
fn a_bundle_has_the_models_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    shop(folder.path());
    let options = dataset::ReadOptions { bad_rows_max: 1.0, ..dataset::ReadOptions::default() };
    let data = dataset::open(folder.path().to_str().unwrap(), &options).unwrap();
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    let kinds = || {
        publish::artifacts(&data, &models)
            .map(|all| all.into_iter().map(|(kind, _)| kind).collect::<Vec<_>>())
    };
    assert!(kinds().is_err(), "no model at all");
    std::fs::write(models.join("retrieval.onnx"), "").unwrap();
    let error = kinds().unwrap_err().to_string();
    assert!(error.contains("only one of retrieval.onnx and retrieval.card.json"), "{error}");
    std::fs::write(models.join("retrieval.card.json"), "{\"version\": \"retrieval-1\"}").unwrap();
    use ArtifactKind::{Catalog, RetrievalCard, RetrievalModel, Rules};
    assert_eq!(kinds().unwrap(), [Catalog, Rules, RetrievalModel, RetrievalCard]);
    let artifacts = publish::artifacts(&data, &models).unwrap();
    assert_eq!(publish::contents(&data, &artifacts).unwrap(), "2 items, retrieval-1, no ranker");
    assert_eq!(publish::artifacts(&data, Path::new(publish::NO_MODELS)).unwrap().len(), 2);
}
