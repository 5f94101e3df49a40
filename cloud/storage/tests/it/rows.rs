//! PoPs, recent events, bundles and the audit log.

use cloud_storage::{Change, Draft, Filter};
use proto::bundle::{ArtifactKind, ArtifactRef, Manifest, SignedManifest};
use proto::control::{AnswerCounts, NodeReport, Role, RolloutStage, RolloutView};
use proto::{Digest, NodeId, Offset, Revision, TraceId};

use crate::{NOW_MS, event, events, open, pop};

fn report(role: Role, term: u64) -> NodeReport {
    NodeReport {
        role,
        term,
        applied: 7,
        last_log: 8,
        outbox: 9,
        revision: Revision(1),
        retrieval: Some("retrieval-1".into()),
        ranker: None,
        engine: "tract".into(),
        in_flight: 0,
        bundle_error: None,
        client_address: "127.0.0.1:1".into(),
        unfit: Revision(0),
        answers: AnswerCounts::default(),
    }
}

#[tokio::test]
async fn a_pop_shows_its_offset_and_its_nodes_latest_reports() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    assert!(storage.pops().await.unwrap().is_empty());
    storage.report(&pop("sin"), NodeId(2), &report(Role::Follower, 1), NOW_MS).await.unwrap();
    storage.report(&pop("sin"), NodeId(1), &report(Role::Leader, 1), NOW_MS + 1).await.unwrap();
    storage.report(&pop("sin"), NodeId(1), &report(Role::Follower, 2), NOW_MS + 2).await.unwrap();
    storage.append(&pop("fra"), Offset(1), &events(0..3), NOW_MS).await.unwrap();
    let pops = storage.pops().await.unwrap();
    let names: Vec<_> = pops.iter().map(|view| view.pop.as_str()).collect();
    assert_eq!(names, ["fra", "sin"]);
    assert_eq!((pops[0].upto, pops[0].nodes.len()), (Offset(3), 0));
    assert_eq!(pops[1].nodes[0].node, NodeId(1));
    assert_eq!(pops[1].nodes[0].report, report(Role::Follower, 2));
    assert_eq!(pops[1].nodes[0].seen_at_ms, NOW_MS + 2);
    assert_eq!(storage.pop(&pop("sin")).await.unwrap().as_ref(), Some(&pops[1]));
    assert_eq!(storage.pop(&pop("nowhere")).await.unwrap(), None);
}

#[tokio::test]
async fn events_are_found_by_visitor_and_by_trace() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    storage.append(&pop("fra"), Offset(1), &events(0..1_000), NOW_MS).await.unwrap();
    let all = storage.events_recent(&Filter::default(), 10).await.unwrap();
    assert_eq!(
        all.iter().map(|view| view.offset.0).collect::<Vec<_>>(),
        (991..=1_000).rev().collect::<Vec<_>>()
    );
    let wanted = event(951);
    let of_visitor = Filter { visitor: Some(wanted.visitor.to_string()), trace: None };
    let found = storage.events_recent(&of_visitor, 10).await.unwrap();
    assert_eq!(found.iter().map(|view| view.offset.0).collect::<Vec<_>>(), [952, 9]);
    let of_trace = Filter { visitor: None, trace: Some(wanted.trace) };
    let found = storage.events_recent(&of_trace, 10).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].id, found[0].at_ms, &found[0].kind[..]),
        (wanted.id, wanted.at_ms, wanted.kind.name())
    );
    assert_eq!(found[0].trace, wanted.trace.to_string());
    let of_both = Filter { visitor: Some("u:nobody".into()), trace: Some(wanted.trace) };
    assert!(storage.events_recent(&of_both, 10).await.unwrap().is_empty());
    let of_none = Filter { visitor: None, trace: Some(TraceId(0)) };
    assert!(storage.events_recent(&of_none, 10).await.unwrap().is_empty(), "no trace is not a trace");
}

fn signed(revision: Revision) -> SignedManifest {
    let bytes = b"catalog";
    let manifest = Manifest {
        revision,
        published_at_ms: NOW_MS,
        expires_at_ms: NOW_MS + 1,
        artifacts: vec![ArtifactRef { kind: ArtifactKind::Catalog, digest: Digest::of(bytes), size: 7 }],
    };
    SignedManifest { manifest: proto::codec::encode(&manifest), signature: vec![revision.0 as u8; 64] }
}

fn promoted(revision: Revision) -> Vec<RolloutView> {
    vec![RolloutView {
        revision,
        stage: RolloutStage::Promoted,
        canaries: vec![pop("fra")],
        began_at_ms: NOW_MS,
        ended_at_ms: Some(NOW_MS),
        reason: "a test".into(),
        before: AnswerCounts::default(),
        during: AnswerCounts { answers: 3, failed: 2, fell_back: 1, took_us: 4 },
        new_catalog: false,
    }]
}

fn change(what: &str) -> Change {
    Change { at_ms: NOW_MS, who: "admin".into(), what: what.into(), detail: "because".into() }
}

#[tokio::test]
async fn revisions_only_grow_also_for_publishers_at_once_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    assert_eq!(storage.newest_bundle().await.unwrap(), None);
    let mut publishers = tokio::task::JoinSet::new();
    for n in 0..8_u64 {
        let storage = storage.clone();
        publishers.spawn(async move {
            let draft = Draft { note: format!("{n}"), rollback_of: None, published_at_ms: NOW_MS };
            storage
                .publish_bundle(&draft, &change("bundle.publish"), Revision(0), signed, promoted)
                .await
                .unwrap()
                .revision
                .0
        });
    }
    let mut revisions = publishers.join_all().await;
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=8).collect::<Vec<_>>());
    storage.close().await;
    let storage = open(&folder).await;
    let draft = Draft { note: "back".into(), rollback_of: Some(Revision(3)), published_at_ms: NOW_MS + 5 };
    let stored = storage
        .publish_bundle(&draft, &change("bundle.rollback"), Revision(0), signed, promoted)
        .await
        .unwrap();
    assert_eq!(stored.revision, Revision(9));
    assert_eq!(storage.newest_bundle().await.unwrap().as_ref(), Some(&stored));
    assert_eq!(storage.bundle(Revision(9)).await.unwrap().as_ref(), Some(&stored));
    assert_eq!(stored.view().rollback_of, Some(Revision(3)));
    assert_eq!(stored.signed, signed(Revision(9)));
    assert_eq!(storage.bundle(Revision(10)).await.unwrap(), None);
    let list = storage.bundles(3).await.unwrap();
    assert_eq!(list.iter().map(|b| b.revision.0).collect::<Vec<_>>(), [9, 8, 7]);
    let audit = storage.audit_recent(100).await.unwrap();
    assert_eq!(audit.len(), 9);
    assert_eq!((&audit[0].what[..], &audit[0].detail[..]), ("bundle.rollback", "revision 9: because"));
}

#[tokio::test]
async fn a_rollback_names_a_revision_that_exists() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let draft = Draft { note: String::new(), rollback_of: Some(Revision(3)), published_at_ms: NOW_MS };
    assert!(
        storage
            .publish_bundle(&draft, &change("bundle.rollback"), Revision(0), signed, promoted)
            .await
            .is_err()
    );
    assert!(storage.audit_recent(100).await.unwrap().is_empty(), "the audit line goes with the change");
}

#[tokio::test]
async fn a_rollout_goes_with_its_bundle_and_its_changes_with_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    assert_eq!(storage.last_rollouts().await.unwrap(), []);
    let draft = Draft { note: String::new(), rollback_of: None, published_at_ms: NOW_MS };
    for _ in 0..3 {
        storage
            .publish_bundle(&draft, &change("bundle.publish"), Revision(0), signed, promoted)
            .await
            .unwrap();
    }
    let stopped = RolloutView { stage: RolloutStage::Stopped, ..promoted(Revision(3)).remove(0) };
    storage.set_rollout(&stopped, &change("rollout.stop")).await.unwrap();
    storage.close().await;
    let storage = open(&folder).await;
    let second = promoted(Revision(2)).remove(0);
    assert_eq!(storage.last_rollouts().await.unwrap(), [second.clone(), stopped.clone()]);
    assert_eq!(storage.rollouts(2).await.unwrap(), [stopped.clone(), second]);
    assert_eq!(storage.rollout(Revision(3)).await.unwrap(), Some(stopped));
    assert_eq!(storage.rollout(Revision(4)).await.unwrap(), None);
    assert_eq!(storage.audit_recent(1).await.unwrap()[0].what, "rollout.stop");
    let unknown = promoted(Revision(9)).remove(0);
    assert!(storage.set_rollout(&unknown, &change("rollout.stop")).await.is_err(), "there is no such bundle");
    assert_eq!(storage.audit_recent(10).await.unwrap().len(), 4, "the audit line goes with the change");
}

/// A database of before there were rollouts: what it published goes on to be offered.
#[tokio::test]
async fn bundles_of_an_older_database_are_promoted() {
    use sqlx::Executor as _;
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let draft = Draft { note: String::new(), rollback_of: None, published_at_ms: NOW_MS };
    storage.publish_bundle(&draft, &change("bundle.publish"), Revision(0), signed, promoted).await.unwrap();
    storage.close().await;
    let url = format!("sqlite://{}", folder.path().join(cloud_storage::DATABASE_FILE).display());
    let mut older = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    older.execute("DROP TABLE rollouts; DELETE FROM _sqlx_migrations WHERE version = 3").await.unwrap();
    drop(older);
    let storage = open(&folder).await;
    let last = storage.last_rollouts().await.unwrap();
    assert_eq!(last.len(), 1);
    assert_eq!((last[0].revision, last[0].stage), (Revision(1), RolloutStage::Promoted));
}

#[tokio::test]
async fn audit_lines_come_newest_first() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    for what in ["a", "b", "c"] {
        storage.audit(&change(what)).await.unwrap();
    }
    let lines = storage.audit_recent(2).await.unwrap();
    assert_eq!(lines.iter().map(|l| &l.what[..]).collect::<Vec<_>>(), ["c", "b"]);
    assert!(lines[0].seq > lines[1].seq);
}

#[tokio::test]
async fn an_export_has_every_event_once_in_order_whatever_comes_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    storage.append(&pop("fra"), Offset(1), &events(0..1_500), NOW_MS).await.unwrap();
    let (mut after, mut seqs, mut pages) = (0, Vec::new(), 0);
    let target = loop {
        let page = storage.events_page(after, None, 400).await.unwrap();
        assert!(page.events.len() <= 400 && page.next >= after);
        seqs.extend(page.events.iter().map(|event| event.seq));
        (after, pages) = (page.next, pages + 1);
        if pages == 2 {
            storage.append(&pop("sin"), Offset(1), &events(2_000..2_100), NOW_MS).await.unwrap();
        }
        if page.next >= page.last {
            break page.last;
        }
    };
    assert_eq!(seqs, (1..=1_600).collect::<Vec<_>>());
    assert_eq!((target, pages), (1_600, 4));
    // What comes later is behind the cursor, and nothing else is.
    storage.append(&pop("sin"), Offset(101), &events(2_100..2_103), NOW_MS).await.unwrap();
    let later = storage.events_page(after, None, 1_000).await.unwrap();
    assert_eq!(later.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1_601, 1_602, 1_603]);
    assert_eq!((later.next, later.last), (1_603, 1_603));
    let end = storage.events_page(later.next, None, 1_000).await.unwrap();
    assert_eq!((end.events.len(), end.next), (0, 1_603));
    // Of one visitor; and a limit of 0 is no endless loop.
    let wanted = event(7).visitor.to_string();
    let of_visitor = storage.events_page(0, Some(&wanted), 1_000).await.unwrap();
    assert!(!of_visitor.events.is_empty() && of_visitor.events.iter().all(|event| event.visitor == wanted));
    assert_eq!(of_visitor.next, 1_603);
    assert_eq!(storage.events_page(0, None, 0).await.unwrap().events.len(), 1);
}

#[tokio::test]
async fn a_page_of_large_events_ends_early_and_keeps_all_that_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder).await;
    let attributes: Vec<_> = (0..32).map(|n| (format!("name-{n}"), "x".repeat(500))).collect();
    let large: Vec<_> = (0..200)
        .map(|n| {
            let kind = proto::EventKind::Custom { name: "large".into(), attributes: attributes.clone() };
            proto::Event { kind, ..event(n) }
        })
        .collect();
    storage.append(&pop("fra"), Offset(1), &large, NOW_MS).await.unwrap();
    let page = storage.events_page(0, None, 1_000).await.unwrap();
    assert!(page.events.len() < 100, "{} events", page.events.len());
    assert_eq!(page.next, page.events.last().unwrap().seq);
    assert_eq!(page.events[0].attributes.as_ref(), Some(&attributes));
    assert_eq!(page.events[0].name.as_deref(), Some("large"));
}
