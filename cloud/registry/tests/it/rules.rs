//! What people decide of the rules, changed without data at hand.

use cloud_registry::RegistryError;
use proto::bundle::{ArtifactKind, RuleSettings, Rules};
use proto::{Code, Revision};

use crate::{Bench, NOW_MS, files};

fn block(item: &str) -> RuleSettings {
    RuleSettings { block: vec![item.parse().unwrap()], ..RuleSettings::default() }
}

#[tokio::test]
async fn rules_change_and_the_rest_of_the_bundle_stays() {
    let bench = Bench::new().await;
    let error = bench.registry.rules().await.unwrap_err();
    assert_eq!((error.code(), error.to_string().contains("nothing was published")), (Code::NotFound, true));
    let before = bench.publish(&files(1)).await.unwrap();
    assert_eq!(bench.registry.rules().await.unwrap(), RuleSettings::default());
    let view = bench.registry.set_rules(block("i3"), "recalled".into(), "ada", NOW_MS).await.unwrap();
    assert_eq!((view.revision, &view.note[..]), (Revision(2), "recalled"));
    assert_eq!(bench.registry.rules().await.unwrap(), block("i3"));
    for (old, new) in before.artifacts.iter().zip(&view.artifacts) {
        assert_eq!(old.digest == new.digest, old.kind != ArtifactKind::Rules, "{:?}", old.kind);
    }
    // What is counted from data is still there.
    let rules = view.artifacts.iter().find(|artifact| artifact.kind == ArtifactKind::Rules).unwrap();
    let rules = bench.storage.artifacts().read_blocking(rules.digest).unwrap();
    let rules: Rules = serde_json::from_slice(&rules).unwrap();
    assert_eq!((rules.popular.len(), rules.blocked.len()), (20, 1));
    let audit = bench.storage.audit_recent(1).await.unwrap();
    assert_eq!((&audit[0].what[..], &audit[0].who[..]), ("rules.set", "ada"));
    // The next change begins with what is newest.
    bench
        .registry
        .set_rules(RuleSettings { seen_max: 5, ..block("i4") }, String::new(), "ada", NOW_MS)
        .await
        .unwrap();
    let now = bench.registry.rules().await.unwrap();
    assert_eq!((now.seen_max, now.block[0].as_str()), (5, "i4"));
}

#[tokio::test]
async fn rules_that_cannot_be_are_refused_with_what_would_be_right() {
    let bench = Bench::new().await;
    bench.publish(&files(1)).await.unwrap();
    for (wrong, said) in [
        (RuleSettings { diversity: 1.5, ..RuleSettings::default() }, "diversity must be from 0 to 1"),
        (
            RuleSettings { explore_share: f32::NAN, ..RuleSettings::default() },
            "explore_share must be from 0 to 1",
        ),
        (RuleSettings { caps: [("brand".into(), 0)].into(), ..RuleSettings::default() }, "from 1 up"),
    ] {
        let error = bench.registry.set_rules(wrong, String::new(), "ada", NOW_MS).await.unwrap_err();
        assert!(matches!(&error, RegistryError::Rules(_)) && error.to_string().contains(said), "{error}");
        assert_eq!(error.code(), Code::Invalid);
    }
    assert_eq!(bench.registry.revision(), Revision(1));
}
