//! What is published: numbered, signed, announced, and published again.

use cloud_registry::RegistryError;
use inference::{Bundle, Engine};
use proto::control::PublishBundle;
use proto::{Code, Revision};

use crate::{Bench, DAY_MS, NOW_MS, files, key, open};

#[tokio::test]
async fn a_bundle_is_numbered_signed_and_announced() {
    let bench = Bench::new().await;
    let mut offers = bench.registry.offers();
    assert_eq!(bench.registry.revision(), Revision(0));
    assert_eq!(*offers.borrow_and_update(), cloud_registry::Offers::default());
    let files = files(1);
    let view = bench.publish(&files).await.unwrap();
    assert_eq!((view.revision, view.rollback_of, view.artifacts.len()), (Revision(1), None, 6));
    offers.changed().await.unwrap();
    let announced = offers.borrow_and_update().trial.clone().unwrap();
    assert_eq!(announced.revision, Revision(1));
    // An edge that trusts the key takes it in.
    let manifest = inference::bundle::verify(&announced.signed, &[bench.registry.public_key()]).unwrap();
    assert_eq!(manifest.expires_at_ms, NOW_MS + 30 * DAY_MS);
    let read = |kind| {
        let digest = manifest.artifact(kind)?.digest;
        bench.storage.artifacts().read_blocking(digest).ok()
    };
    let bundle = Bundle::open(manifest.clone(), read, &Engine::tract()).unwrap();
    assert_eq!(bundle.catalog.items().len(), 20);
    let audit = bench.storage.audit_recent(1).await.unwrap();
    assert_eq!((&audit[0].what[..], &audit[0].who[..]), ("bundle.publish", "admin"));
    assert!(audit[0].detail.starts_with("revision 1: 20 items, retrieval retrieval-"), "{}", audit[0].detail);
}

#[tokio::test]
async fn a_rollback_is_a_newer_revision_with_older_contents() {
    let bench = Bench::new().await;
    let first = bench.publish(&files(1)).await.unwrap();
    let second = bench.publish(&files(2)).await.unwrap();
    assert_ne!(first.artifacts, second.artifacts);
    let back = bench.registry.rollback(Revision(1), "worse clicks".into(), "admin", NOW_MS).await.unwrap();
    assert_eq!((back.revision, back.rollback_of), (Revision(3), Some(Revision(1))));
    assert_eq!(back.artifacts, first.artifacts);
    assert_eq!(bench.registry.revision(), Revision(3));
    let error = bench.registry.rollback(Revision(3), String::new(), "admin", NOW_MS).await.unwrap_err();
    assert!(matches!(error, RegistryError::IsNewest(Revision(3))), "{error}");
    let error = bench.registry.rollback(Revision(9), String::new(), "admin", NOW_MS).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(bench.registry.revision(), Revision(3));
}

#[tokio::test]
async fn a_restart_goes_on_with_the_same_key_and_the_newest_bundle() {
    let bench = Bench::new().await;
    bench.publish(&files(1)).await.unwrap();
    let (key, offers) = (bench.registry.public_key(), bench.registry.offers().borrow().clone());
    let bench = bench.restart().await;
    assert_eq!(bench.registry.public_key(), key);
    assert_eq!(bench.registry.offers().borrow().clone(), offers);
    assert_eq!(bench.publish(&files(2)).await.unwrap().revision, Revision(2));
}

#[tokio::test]
async fn a_key_that_is_gone_or_exposed_stops_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new().await;
    bench.publish(&files(1)).await.unwrap();
    let path = key(&bench.folder);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = open(&bench.folder, &bench.storage).await.unwrap_err();
    assert!(matches!(error, RegistryError::Key(_)), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = open(&bench.folder, &bench.storage).await.unwrap_err();
    assert!(matches!(error, RegistryError::KeyLost(_)), "{error}");
    assert!(!path.exists(), "no other key is made in its place");
}

#[tokio::test]
async fn the_newest_is_renewed_at_half_of_its_life() {
    let bench = Bench::new().await;
    assert_eq!(bench.registry.renew_if_due(NOW_MS).await.unwrap(), None, "there is nothing to renew");
    let first = bench.publish(&files(1)).await.unwrap();
    assert_eq!(bench.registry.renew_if_due(NOW_MS + 14 * DAY_MS).await.unwrap(), None);
    let late = NOW_MS + 16 * DAY_MS;
    let renewed = bench.registry.renew_if_due(late).await.unwrap().unwrap();
    assert_eq!((renewed.revision, renewed.rollback_of), (Revision(2), None));
    assert_eq!(renewed.artifacts, first.artifacts);
    let newest = bench.registry.offers().borrow().trial.clone().unwrap();
    assert_eq!((newest.revision, newest.expires_at_ms), (Revision(2), late + 30 * DAY_MS));
    assert_eq!(bench.registry.renew_if_due(late).await.unwrap(), None, "once is enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_at_once_get_revisions_of_their_own_and_the_last_stays() {
    let bench = Bench::new().await;
    let artifacts = bench.upload(&files(1)).await;
    let mut publishers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (registry, artifacts) = (bench.registry.clone(), artifacts.clone());
        publishers.spawn(async move {
            let bundle = PublishBundle { artifacts, note: format!("{n}") };
            registry.publish(bundle, "admin", NOW_MS).await.unwrap().revision.0
        });
    }
    let mut revisions = publishers.join_all().await;
    revisions.sort_unstable();
    assert_eq!(revisions, [1, 2, 3, 4]);
    assert_eq!(bench.registry.revision(), Revision(4));
}
