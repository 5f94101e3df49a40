//! What is refused: with a reason, and without a trace in what is served.

use std::collections::HashMap;

use cloud_registry::{NOTE_BYTES_MAX, RegistryError};
use inference::testing;
use proto::bundle::{ArtifactKind, ArtifactRef, Catalog};
use proto::control::PublishBundle;
use proto::{Code, Digest, Revision};

use crate::{Bench, NOW_MS, files};

type Files = HashMap<ArtifactKind, Vec<u8>>;

/// Publishes files that an edge would refuse, after good ones.
async fn refused(spoil: impl FnOnce(&mut Files)) -> RegistryError {
    let bench = Bench::new().await;
    bench.publish(&files(1)).await.unwrap();
    let offers = bench.registry.offers().borrow().clone();
    let mut files = files(2);
    spoil(&mut files);
    let error = bench.publish(&files).await.unwrap_err();
    assert_eq!(bench.registry.revision(), Revision(1), "{error}");
    assert_eq!(bench.registry.offers().borrow().clone(), offers);
    assert_eq!(bench.storage.bundles(10).await.unwrap().len(), 1);
    error
}

#[tokio::test]
async fn artifacts_must_be_there_with_the_size_that_is_said() {
    let bench = Bench::new().await;
    let artifacts = bench.upload(&files(1)).await;
    let mut unknown = artifacts.clone();
    unknown[0].digest = Digest::of(b"never uploaded");
    let mut longer = artifacts.clone();
    longer[0].size += 1;
    let publish = |artifacts: Vec<ArtifactRef>| {
        bench.registry.publish(PublishBundle { artifacts, note: String::new() }, "admin", NOW_MS)
    };
    let error = publish(unknown).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotUploaded { kind: ArtifactKind::Catalog, .. }), "{error}");
    assert_eq!(error.code(), Code::NotFound);
    assert!(matches!(publish(longer).await.unwrap_err(), RegistryError::WrongSize { .. }));
    let twice = [artifacts.clone(), artifacts[..1].to_vec()].concat();
    let error = publish(twice).await.unwrap_err();
    assert!(error.to_string().contains("twice"), "{error}");
    let hundred = artifacts.iter().cycle().take(100).cloned().collect();
    assert_eq!(publish(hundred).await.unwrap_err().code(), Code::Invalid);
    assert_eq!(publish(Vec::new()).await.unwrap_err().code(), Code::Invalid);
    let note = "x".repeat(NOTE_BYTES_MAX + 1);
    let error = bench.registry.publish(PublishBundle { artifacts, note }, "admin", NOW_MS).await.unwrap_err();
    assert_eq!(error.code(), Code::TooLarge);
    assert_eq!(bench.registry.revision(), Revision(0));
}

#[tokio::test]
async fn a_kind_that_is_missing_is_named() {
    let error = refused(|files| drop(files.remove(&ArtifactKind::Rules))).await;
    assert!(error.to_string().contains("Rules"), "{error}");
    let error = refused(|files| drop(files.remove(&ArtifactKind::RankerCard))).await;
    assert!(error.to_string().contains("RankerCard"), "{error}");
}

#[tokio::test]
async fn a_catalog_or_rules_that_are_none_are_refused() {
    let error = refused(|files| drop(files.insert(ArtifactKind::Catalog, b"{\"items\": 7}".to_vec()))).await;
    assert!(matches!(error.code(), Code::Invalid | Code::Malformed), "{error}");
    let error = refused(|files| {
        let mut catalog = testing::catalog(20);
        catalog.items[1].id = catalog.items[0].id.clone();
        files.insert(ArtifactKind::Catalog, serde_json::to_vec::<Catalog>(&catalog).unwrap());
    })
    .await;
    assert_eq!(error.code(), Code::Invalid, "{error}");
    let error = refused(|files| {
        files.insert(ArtifactKind::Rules, b"{\"diversity_lambda\": 2.0}".to_vec());
    })
    .await;
    assert!(error.to_string().contains("diversity_lambda"), "{error}");
}

#[tokio::test]
async fn a_model_of_another_card_is_refused() {
    let error = refused(|files| {
        let other = testing::retrieval(&testing::catalog(20), 99);
        files.insert(ArtifactKind::RetrievalModel, other.onnx);
    })
    .await;
    assert_eq!(error.code(), Code::Invalid, "{error}");
    assert!(error.to_string().contains("RetrievalModel"), "{error}");
}

#[tokio::test]
async fn a_model_of_the_wrong_shape_is_refused() {
    let error = refused(|files| {
        // Scores 7 items; its card promises 20.
        let mut model = testing::retrieval(&testing::catalog(20), 1);
        model.set_onnx(testing::retrieval(&testing::catalog(7), 1).onnx);
        files.insert(ArtifactKind::RetrievalCard, model.card_json());
        files.insert(ArtifactKind::RetrievalModel, model.onnx);
    })
    .await;
    assert!(matches!(error, RegistryError::Refused { .. }), "{error}");
    assert_eq!(error.code(), Code::Invalid, "{error}");
}

#[tokio::test]
async fn a_model_whose_golden_answers_differ_is_refused() {
    let error = refused(|files| {
        // The graph of one seed with the answers of another.
        let catalog = testing::catalog(20);
        let mut model = testing::ranker(&catalog, 1);
        model.set_onnx(testing::ranker(&catalog, 2).onnx);
        files.insert(ArtifactKind::RankerCard, model.card_json());
        files.insert(ArtifactKind::RankerModel, model.onnx);
    })
    .await;
    assert!(error.to_string().contains("golden"), "{error}");
    assert_eq!(error.code(), Code::Invalid);
}

#[tokio::test]
async fn bytes_that_are_no_model_are_refused() {
    let error = refused(|files| {
        let mut model = testing::retrieval(&testing::catalog(20), 1);
        model.set_onnx((0..4_000_u32).map(|n| (n * 37 % 251) as u8).collect());
        files.insert(ArtifactKind::RetrievalCard, model.card_json());
        files.insert(ArtifactKind::RetrievalModel, model.onnx);
    })
    .await;
    assert!(matches!(error.code(), Code::Malformed | Code::Invalid), "{error}");
}

#[tokio::test]
async fn what_the_disk_damaged_is_the_systems_fault() {
    let bench = Bench::new().await;
    let first = bench.publish(&files(1)).await.unwrap();
    bench.publish(&files(2)).await.unwrap();
    let model = first.artifacts.iter().find(|a| a.kind == ArtifactKind::RetrievalModel).unwrap();
    let path = bench.folder.path().join(cloud_storage::ARTIFACTS_FOLDER).join(model.digest.to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[50] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let error = bench.registry.rollback(Revision(1), String::new(), "admin", NOW_MS).await.unwrap_err();
    assert_eq!(error.code(), Code::Corrupt, "{error}");
    assert_eq!(bench.registry.revision(), Revision(2));
}
