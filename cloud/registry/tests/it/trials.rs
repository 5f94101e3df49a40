//! Rollouts over a real storage: what is offered to whom, what is written down, and what a restart goes on with.

use cloud_registry::RegistryError;
use proto::control::{AnswerCounts, NodeReport, Role, RolloutStage};
use proto::{Code, NodeId, PopId, Revision};

use crate::{Bench, NOW_MS, files};

fn pop(name: &str) -> PopId {
    PopId::new(name).unwrap()
}

fn report(revision: u64, failed: u64) -> NodeReport {
    NodeReport {
        role: Role::Leader,
        term: 1,
        applied: 1,
        last_log: 1,
        outbox: 0,
        revision: Revision(revision),
        retrieval: None,
        ranker: None,
        engine: "tract".into(),
        in_flight: 0,
        bundle_error: None,
        client_address: String::new(),
        unfit: Revision(0),
        answers: AnswerCounts { answers: 100, failed, fell_back: failed, took_us: 1 },
    }
}

impl Bench {
    /// The only node of a PoP reports; then a second has passed.
    async fn says(&self, name: &str, says: &NodeReport, now_ms: u64) {
        self.storage.report(&pop(name), NodeId(1), says, now_ms).await.unwrap();
        self.registry.heard(&pop(name), NodeId(1), says, now_ms).await;
        self.registry.settle(now_ms).await.unwrap();
    }

    fn offered(&self) -> (u64, u64) {
        (self.registry.offered(&pop("a")).0, self.registry.offered(&pop("b")).0)
    }

    async fn stage(&self, revision: u64) -> RolloutStage {
        self.storage.rollout(Revision(revision)).await.unwrap().unwrap().stage
    }

    /// Two PoPs that serve revision 1, which is promoted.
    async fn two_pops() -> Self {
        let bench = Self::new().await;
        for name in ["b", "a"] {
            bench.says(name, &report(0, 0), NOW_MS).await;
        }
        bench.publish(&files(1)).await.unwrap();
        assert_eq!(bench.offered(), (1, 0), "the first by id tries it");
        for second in 0..=10 {
            bench.says("a", &report(1, 0), NOW_MS + second * 1_000).await;
        }
        assert_eq!(bench.offered(), (1, 1));
        bench.says("b", &report(1, 0), NOW_MS + 10_000).await;
        bench
    }
}

#[tokio::test]
async fn a_poison_bundle_stays_at_the_canary_which_gets_the_old_contents_back() {
    let bench = Bench::two_pops().await;
    bench.publish(&files(2)).await.unwrap();
    assert_eq!(bench.offered(), (2, 1));
    bench.says("a", &report(2, 17), NOW_MS + 11_000).await;
    assert_eq!(bench.offered(), (3, 3), "a newer revision, for all");
    let stages = [bench.stage(1).await, bench.stage(2).await, bench.stage(3).await];
    assert_eq!(stages, [RolloutStage::Promoted, RolloutStage::Stopped, RolloutStage::Promoted]);
    let [one, three] = [Revision(1), Revision(3)].map(|revision| bench.storage.bundle(revision));
    let (one, three) = (one.await.unwrap().unwrap(), three.await.unwrap().unwrap());
    assert_eq!(three.manifest.artifacts, one.manifest.artifacts);
    assert_eq!(three.rollback_of, Some(Revision(1)));
    inference::bundle::verify(&three.signed, &[bench.registry.public_key()]).unwrap();

    let audit = bench.storage.audit_recent(2).await.unwrap();
    assert_eq!((&audit[0].what[..], &audit[0].who[..]), ("rollout.recover", "cloud"));
    assert_eq!((&audit[1].what[..], &audit[1].who[..]), ("rollout.stop", "cloud"));
    assert!(audit[1].detail.contains("failed for 17 of 100"), "{}", audit[1].detail);
    let ended = bench.registry.offers().borrow().ended.clone();
    assert_eq!((ended["stopped"], ended["promoted"]), (1, 2));

    let error = bench.registry.rollback(Revision(2), String::new(), "admin", NOW_MS).await.unwrap_err();
    assert!(matches!(error, RegistryError::WasStopped(_)), "{error}");
    let error =
        bench.registry.rollback(Revision(1), String::new(), "admin", NOW_MS + 12_000).await.unwrap_err();
    assert!(matches!(error, RegistryError::IsOffered { .. }), "revision 3 is the same: {error}");
    assert_eq!(bench.offered(), (3, 3));
}

#[tokio::test]
async fn a_restart_goes_on_with_the_trial_and_its_end() {
    let bench = Bench::two_pops().await;
    bench.publish(&files(2)).await.unwrap();
    bench.says("a", &report(2, 0), NOW_MS + 11_000).await;
    let bench = bench.restart().await;
    assert_eq!(bench.offered(), (2, 1));
    bench.registry.settle(NOW_MS + 99_999).await.unwrap();
    assert_eq!(bench.stage(2).await, RolloutStage::Canary, "its time began anew");
    bench.registry.settle(NOW_MS + 100_000).await.unwrap();
    assert_eq!((bench.stage(2).await, bench.offered()), (RolloutStage::Stopped, (3, 3)));
    let bench = bench.restart().await;
    assert_eq!(bench.offered(), (3, 3));
    bench.registry.settle(NOW_MS + 101_000).await.unwrap();
    assert_eq!(bench.registry.revision(), Revision(3), "recovered once");
}

#[tokio::test]
async fn a_cloud_that_ended_between_verdict_and_recovery_recovers_at_its_start() {
    let bench = Bench::two_pops().await;
    bench.publish(&files(2)).await.unwrap();
    bench.registry.stop(Revision(2), "worse clicks", "admin", NOW_MS + 11_000).await.unwrap();
    assert_eq!(bench.offered(), (1, 1), "a stopped revision is offered to nobody");
    let bench = bench.restart().await;
    bench.registry.settle(NOW_MS + 12_000).await.unwrap();
    assert_eq!(bench.offered(), (3, 3));
}

#[tokio::test]
async fn a_person_may_promote_and_stop_what_is_on_trial() {
    let bench = Bench::two_pops().await;
    bench.publish(&files(2)).await.unwrap();
    let view = bench.registry.promote(Revision(2), "urgent", "admin", NOW_MS + 11_000).await.unwrap();
    assert_eq!((view.stage, &view.reason[..]), (RolloutStage::Promoted, "by admin: urgent"));
    assert_eq!(bench.offered(), (2, 2));
    let audit = bench.storage.audit_recent(1).await.unwrap();
    assert_eq!((&audit[0].what[..], &audit[0].who[..]), ("rollout.promote", "admin"));
    let error = bench.registry.stop(Revision(2), "", "admin", NOW_MS).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict, "{error}");
}

#[tokio::test]
async fn with_one_pop_that_pop_is_the_canary() {
    let bench = Bench::new().await;
    bench.publish(&files(1)).await.unwrap();
    assert_eq!(bench.offered(), (0, 0), "nobody is there");
    bench.registry.arrived(&pop("a"), NOW_MS).await.unwrap();
    assert_eq!(bench.offered(), (1, 0));
    for second in 0..=10 {
        bench.says("a", &report(1, 0), NOW_MS + second * 1_000).await;
    }
    assert_eq!(bench.stage(1).await, RolloutStage::Promoted);
    bench.publish(&files(2)).await.unwrap();
    assert_eq!(bench.offered(), (2, 1), "published at once where it is tried");
}

/// After a restore, a PoP has a bundle that is not known here: what is published is numbered above it.
#[tokio::test]
async fn revisions_jump_above_what_any_pop_has() {
    let bench = Bench::two_pops().await;
    bench.says("b", &report(7, 0), NOW_MS + 11_000).await;
    let published = bench.publish(&files(2)).await.unwrap();
    assert_eq!(published.revision, Revision(8));
    // A number that cannot be uses none up.
    bench.says("b", &report(u64::MAX - 1, 0), NOW_MS + 12_000).await;
    assert_eq!(bench.publish(&files(3)).await.unwrap().revision, Revision(9));
    assert!(!bench.registry.knows(Revision(7), None).await.unwrap());
    assert!(bench.registry.knows(Revision(8), None).await.unwrap());
    assert!(
        !bench.registry.knows(Revision(8), Some(proto::Digest([1; 32]))).await.unwrap(),
        "another of its number"
    );
}

#[tokio::test]
async fn what_all_are_offered_is_nothing_to_go_back_to() {
    let bench = Bench::two_pops().await;
    let again = bench.publish(&files(1)).await.unwrap();
    let error =
        bench.registry.rollback(Revision(1), String::new(), "admin", NOW_MS + 11_000).await.unwrap_err();
    assert!(matches!(error, RegistryError::IsOffered { .. }), "on trial: {error}");
    bench.registry.promote(again.revision, "", "admin", NOW_MS + 12_000).await.unwrap();
    let error =
        bench.registry.rollback(Revision(1), String::new(), "admin", NOW_MS + 13_000).await.unwrap_err();
    assert!(matches!(error, RegistryError::IsOffered { .. }), "{error}");
}
