//! The ladder: a table of allowed dependencies, and of the only crates that may name a foreign one. Direction cannot rot
//! silently.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::root;

/// Crate, folder, and which of ours it may depend on. `service` may be used by every deployed process.
const ALLOWED: &[(&str, &str, &[&str])] = &[
    ("proto", "proto", &[]),
    ("transport", "proto/transport", &["proto"]),
    ("inference", "models/runtime", &["proto"]),
    ("dataset", "models/dataset", &["proto"]),
    ("training", "models/training", &["proto", "inference", "dataset"]),
    ("edge-cache", "edge-node/cache", &["proto", "transport"]),
    ("edge-store", "edge-node/store", &["proto", "transport"]),
    ("edge-serving", "edge-node/serving", &["proto", "inference"]),
    ("edge-uplink", "edge-node/uplink", &["proto", "transport"]),
    (
        "edge-node",
        "edge-node",
        &[
            "proto",
            "transport",
            "inference",
            "edge-cache",
            "edge-store",
            "edge-serving",
            "edge-uplink",
            "service",
        ],
    ),
    ("cloud-storage", "cloud/storage", &["proto"]),
    ("cloud-registry", "cloud/registry", &["proto", "inference", "cloud-storage"]),
    ("cloud", "cloud", &["proto", "transport", "inference", "cloud-storage", "cloud-registry", "service"]),
    ("client-sdk", "client-sdk", &["proto", "transport"]),
    ("service", "deploy/service", &["proto"]),
    (
        "rockpool",
        "deploy/cli",
        &["proto", "transport", "dataset", "client-sdk", "edge-cache", "edge-node", "service"],
    ),
    ("workspace-hack", "deploy/workspace-hack", &[]),
    (
        "chaos",
        "tests/chaos",
        &[
            "proto",
            "transport",
            "inference",
            "edge-store",
            "edge-uplink",
            "edge-node",
            "rockpool",
            "faulty-disk",
        ],
    ),
    ("faulty-disk", "tests/chaos/disk", &[]),
];

/// Foreign crates, and which of ours may name them.
const KEPT_APART: &[(&str, &str)] = &[
    ("quinn", "transport"),
    ("quinn-proto", "transport"),
    ("rustls", "transport"),
    ("tokio-rustls", "transport"),
    ("h3-quinn", "transport"),
    ("rcgen", "transport"),
    ("x509-parser", "transport"),
    ("ort", "inference"),
    ("prost", "inference"),
    ("prost", "edge-node"),
    ("tonic", "edge-node"),
    ("tract-onnx", "inference"),
    ("openraft", "edge-store"),
    ("raft-log", "edge-store"),
    ("sled", "edge-store"),
    ("sled", "edge-cache"),
    ("hyper-rustls", "transport"),
    ("moka", "edge-cache"),
    ("sqlx", "cloud-storage"),
    ("bincode", "proto"),
    ("candle-core", "training"),
    ("parquet", "dataset"),
];

fn manifest(folder: &str) -> Table {
    let path = root().join(folder).join("Cargo.toml");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).parse().unwrap()
}

/// What is shipped depends on these; tests may use more.
fn dependencies(manifest: &Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flatten();
    let places = targets.filter_map(|(_, target)| target.as_table()).chain([manifest]);
    let tables = places.flat_map(|place| ["dependencies", "build-dependencies"].map(|name| place.get(name)));
    tables.flatten().filter_map(Value::as_table).flat_map(|table| table.keys().cloned()).collect()
}

#[test]
fn every_crate_depends_only_on_what_the_ladder_allows() {
    let workspace = manifest(".");
    let members = workspace["workspace"]["members"].as_array().unwrap();
    let folders: Vec<&str> = members.iter().map(|member| member.as_str().unwrap()).collect();
    let listed: BTreeMap<_, _> =
        ALLOWED.iter().map(|(name, folder, allowed)| (*name, (*folder, *allowed))).collect();
    assert_eq!(folders.len(), listed.len(), "a crate of the workspace is not on the ladder: {folders:?}");
    for (name, (folder, allowed)) in &listed {
        assert!(folders.contains(folder), "{folder} is not in the workspace");
        let manifest = manifest(folder);
        assert_eq!(manifest["package"]["name"].as_str(), Some(*name), "{folder}");
        for dependency in dependencies(&manifest) {
            let ours = listed.contains_key(dependency.as_str()) && dependency != "workspace-hack";
            assert!(
                !ours || allowed.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn heavy_and_foreign_crates_are_named_in_one_place() {
    for (name, folder, _) in ALLOWED.iter().filter(|(name, ..)| *name != "workspace-hack") {
        for dependency in dependencies(&manifest(folder)) {
            let kept = KEPT_APART.iter().filter(|(foreign, _)| *foreign == dependency);
            let owners: Vec<_> = kept.map(|(_, owner)| *owner).collect();
            assert!(
                owners.is_empty() || owners.contains(name),
                "{name} names {dependency}: only {owners:?} may"
            );
        }
    }
}
