//! Artifacts: what comes out is what went in, or an error.

use std::path::PathBuf;

use cloud_storage::{ARTIFACTS_FOLDER, Config, Storage, StorageError};
use proto::bundle::ArtifactKind;
use proto::limits::{ARTIFACT_BYTES_MAX, ARTIFACT_PART_BYTES};
use proto::{Code, Digest};

use crate::{NOW_MS, open};

async fn store(storage: &Storage, bytes: &[u8]) -> Digest {
    let mut upload = storage.upload(ArtifactKind::Catalog, ARTIFACT_BYTES_MAX).await.unwrap();
    for chunk in bytes.chunks(100_000) {
        upload.write(chunk).await.unwrap();
    }
    let stored = upload.finish(None, "admin", NOW_MS).await.unwrap();
    assert_eq!(stored.size, bytes.len() as u64);
    stored.digest
}

fn sample(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

fn files(folder: &tempfile::TempDir) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.path().join(ARTIFACTS_FOLDER)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn an_artifact_comes_out_in_parts_as_it_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let bytes = sample(2 * ARTIFACT_PART_BYTES + 17);
    let digest = store(&storage, &bytes).await;
    assert_eq!(digest, Digest::of(&bytes));
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let (size, part) = storage.artifacts().part(digest, got.len() as u64).await.unwrap();
        assert_eq!(size, bytes.len() as u64);
        assert!(!part.is_empty() && part.len() <= ARTIFACT_PART_BYTES);
        got.extend(part);
    }
    assert_eq!(got, bytes);
    assert_eq!(storage.artifacts().read_blocking(digest).unwrap(), bytes);
    assert_eq!(storage.artifact_size(digest).await.unwrap(), Some(bytes.len() as u64));
    let beyond = storage.artifacts().part(digest, bytes.len() as u64).await.unwrap_err();
    assert!(matches!(beyond, StorageError::BeyondEnd { .. }), "{beyond}");
    let audit = storage.audit_recent(10).await.unwrap();
    assert_eq!((audit.len(), &audit[0].what[..]), (1, "artifact.store"));
}

#[tokio::test]
async fn an_empty_artifact_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let digest = store(&storage, b"").await;
    assert_eq!(storage.artifacts().part(digest, 0).await.unwrap(), (0, Vec::new()));
}

#[tokio::test]
async fn too_large_and_wrongly_announced_uploads_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let mut upload = storage.upload(ArtifactKind::Rules, 100).await.unwrap();
    upload.write(&[0; 60]).await.unwrap();
    let error = upload.write(&[0; 41]).await.unwrap_err();
    assert!(matches!(error, StorageError::TooLarge { max: 100 }), "{error}");
    drop(upload);
    let mut upload = storage.upload(ArtifactKind::Rules, 100).await.unwrap();
    upload.write(b"rules").await.unwrap();
    let announced = Digest::of(b"other rules");
    let error = upload.finish(Some(announced), "admin", NOW_MS).await.unwrap_err();
    assert!(matches!(error, StorageError::WrongDigest { .. }), "{error}");
    assert_eq!(files(&folder), Vec::<PathBuf>::new());
    assert_eq!(storage.artifact_size(Digest::of(b"rules")).await.unwrap(), None);
}

#[tokio::test]
async fn what_a_crash_left_half_written_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let kept = store(&storage, b"kept").await;
    let mut upload = storage.upload(ArtifactKind::Rules, 100).await.unwrap();
    upload.write(b"half").await.unwrap();
    // As kill -9 would: no destructor runs.
    std::mem::forget(upload);
    assert_eq!(files(&folder).len(), 2);
    storage.close().await;
    let storage = open(&folder).await;
    assert_eq!(files(&folder).len(), 1);
    assert_eq!(storage.artifacts().read_blocking(kept).unwrap(), b"kept");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_until_it_is_uploaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let bytes = sample(5_000);
    let digest = store(&storage, &bytes).await;
    storage.artifacts().part(digest, 0).await.unwrap();
    let path = folder.path().join(ARTIFACTS_FOLDER).join(digest.to_string());
    let mut damaged = bytes.clone();
    damaged[4_321] ^= 1;
    damaged.push(0);
    std::fs::write(&path, damaged).unwrap();
    let error = storage.artifacts().part(digest, 0).await.unwrap_err();
    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
    assert_eq!(error.code(), Code::Corrupt);
    assert!(storage.artifacts().read_blocking(digest).is_err());
    assert_eq!(store(&storage, &bytes).await, digest);
    assert_eq!(storage.artifacts().part(digest, 0).await.unwrap().1, bytes);
}

#[tokio::test]
async fn all_artifacts_together_have_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { artifacts_bytes_max: 1_000, ..Config::default() };
    let storage = Storage::open(folder.path(), &config).await.unwrap();
    store(&storage, &sample(900)).await;
    let mut upload = storage.upload(ArtifactKind::Catalog, ARTIFACT_BYTES_MAX).await.unwrap();
    assert!(matches!(upload.write(&sample(101)).await, Err(StorageError::TooLarge { max: 100 })));
    drop(upload);
    store(&storage, &sample(100)).await;
    let error = storage.upload(ArtifactKind::Catalog, ARTIFACT_BYTES_MAX).await.unwrap_err();
    assert!(matches!(error, StorageError::Full { used: 1_000, max: 1_000 }), "{error}");
}

#[tokio::test]
async fn an_unknown_digest_is_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let error = storage.artifacts().part(Digest::of(b"?"), 0).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}
