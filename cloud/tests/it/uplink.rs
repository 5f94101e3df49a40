//! The nodes' door over real QUIC.

use proto::control::{
    AcceptLoss, Ahead, AnswerCounts, AuditView, LossAccepted, Membership, NodeReport, PopView, Role, Standing,
};
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{ALPN_UPLINK, Code, Digest, NodeId, Offset, Revision};
use transport::quic::{QuicDialer, Settings};
use transport::{Dialer, LinkErrorKind, Peer, Stream};

use crate::{Deployment, PATIENCE, event, events, files, keep_appending};

fn code(reply: UplinkReply) -> Code {
    match reply {
        UplinkReply::Error(error) => error.code,
        other => panic!("an error was due: {other:?}"),
    }
}

#[tokio::test]
async fn events_come_in_once_and_can_be_found() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let node = deployment.node(cloud.uplink(), "fra", 1).await;
    assert_eq!(node.position().await, 0);
    assert_eq!(node.acknowledged(1, events(0..500)).await, 500);
    assert_eq!(node.acknowledged(501, events(500..700)).await, 700);
    assert_eq!(node.position().await, 700);
    let counts = cloud.counts().await;
    assert_eq!((counts.total, counts.by_kind["click"], counts.by_pop["fra"]), (700, 700, 700));
    let wanted = event(123);
    let path = format!("/v1/events?trace={}", wanted.trace);
    let found: Vec<proto::control::EventView> = cloud.read(&path).await;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].id, found[0].offset, found[0].pop.as_str()), (wanted.id, Offset(124), "fra"));
    let found: Vec<proto::control::EventView> = cloud.read("/v1/events?visitor=u:23&limit=3").await;
    assert_eq!(found.iter().map(|view| view.offset.0).collect::<Vec<_>>(), [624, 524, 424]);
    let metrics = cloud.metrics().await;
    assert!(metrics.contains("rockpool_cloud_events_total{kind=\"click\"} 700"), "{metrics}");
    assert!(metrics.contains("rockpool_cloud_append_batches_total{outcome=\"stored\"} 2"), "{metrics}");
    assert!(metrics.contains("rockpool_cloud_uplink_links 1"), "{metrics}");
    cloud.stop().await;
}

#[tokio::test]
async fn two_leaders_resends_halves_and_a_restart_count_once() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let old = deployment.node(cloud.uplink(), "fra", 1).await;
    let new = deployment.node(cloud.uplink(), "fra", 2).await;
    old.acknowledged(1, events(0..100)).await;
    // The new leader asks, goes on, and the old one, which does not know yet, sends its own tail.
    assert_eq!(new.position().await, 100);
    assert_eq!(new.acknowledged(101, events(100..160)).await, 160);
    assert_eq!(old.acknowledged(101, events(100..130)).await, 160, "an old leader hears where the PoP is");
    assert_eq!(old.acknowledged(131, events(130..200)).await, 200);
    cloud.stop().await;

    let cloud = deployment.start().await;
    let new = deployment.node(cloud.uplink(), "fra", 2).await;
    assert_eq!(new.position().await, 200);
    // The acknowledgement was lost with the cloud: all of it comes again, cut elsewhere.
    assert_eq!(new.acknowledged(150, events(149..220)).await, 220);
    // Another PoP saw some of the same events.
    let other = deployment.node(cloud.uplink(), "sin", 1).await;
    assert_eq!(other.acknowledged(1, events(210..230)).await, 20);
    let counts = cloud.counts().await;
    assert_eq!((counts.total, counts.by_pop["fra"], counts.by_pop["sin"]), (230, 220, 10));
    let metrics = cloud.metrics().await;
    assert!(metrics.contains("rockpool_cloud_events_known_total 61"), "{metrics}");
    cloud.stop().await;
}

#[tokio::test]
async fn gaps_and_rewritten_logs_are_refused() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let node = deployment.node(cloud.uplink(), "fra", 1).await;
    node.acknowledged(1, events(0..10)).await;
    match node.append(12, events(11..20)).await {
        UplinkReply::Error(error) => {
            assert_eq!(error.code, Code::OutOfOrder);
            assert!(error.message.contains("11"), "it says what was due: {}", error.message);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(code(node.append(1, events(900..905)).await), Code::Conflict);
    assert_eq!(code(node.append(0, events(0..1)).await), Code::Invalid);
    assert_eq!(code(node.append(11, events(10..2_011)).await), Code::TooLarge);
    assert_eq!((node.position().await, cloud.counts().await.total), (10, 10));
    let metrics = cloud.metrics().await;
    assert!(metrics.contains("rockpool_cloud_append_batches_total{outcome=\"out_of_order\"} 1"), "{metrics}");
    cloud.stop().await;
}

#[tokio::test]
async fn a_full_storage_acknowledges_nothing() {
    let deployment = Deployment::new();
    let cloud = deployment.start_with(&[("CLOUD__STORAGE__DATABASE_BYTES_MAX", "524288")]).await;
    let node = deployment.node(cloud.uplink(), "fra", 1).await;
    let mut upto = 0;
    let refused = loop {
        match node.append(upto + 1, events(upto..upto + 300)).await {
            UplinkReply::Ack { upto: now, .. } => upto = now.0,
            refused => break refused,
        }
        assert!(upto < 100_000, "512 KiB cannot hold that many");
    };
    assert_eq!(code(refused), Code::Unavailable);
    assert_eq!((node.position().await, cloud.counts().await.total), (upto, upto));
    cloud.stop().await;
    let cloud = deployment.start().await;
    let node = deployment.node(cloud.uplink(), "fra", 1).await;
    assert_eq!(node.acknowledged(upto + 1, events(upto..upto + 300)).await, upto + 300);
    cloud.stop().await;
}

#[tokio::test]
async fn only_nodes_come_in_and_each_speaks_for_its_own_pop() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    // The cloud's own certificate is good, but names no node.
    let pki = deployment.folder.path().join("pki");
    let own = transport::pki::Credentials::read(&pki.join("cloud.pem"), &pki.join("cloud.key")).unwrap();
    for credentials in [None, Some(&own)] {
        let dialer =
            QuicDialer::new(&deployment.trust(), credentials, ALPN_UPLINK, &Settings::peers()).unwrap();
        let error = dialer.dial(cloud.uplink(), &Peer::Cloud, PATIENCE).await.unwrap_err();
        assert!(matches!(error.kind, LinkErrorKind::Tls(_) | LinkErrorKind::Forbidden(_)), "{error}");
    }
    deployment.node(cloud.uplink(), "fra", 1).await.acknowledged(1, events(0..5)).await;
    deployment.node(cloud.uplink(), "sin", 1).await.acknowledged(1, events(5..7)).await;
    let counts = cloud.counts().await;
    assert_eq!((counts.by_pop["fra"], counts.by_pop["sin"]), (5, 2));
    cloud.stop().await;
}

async fn newer(stream: &mut Stream) -> Revision {
    match tokio::time::timeout(PATIENCE, stream.recv()).await.unwrap().unwrap() {
        UplinkReply::Newer(revision) => revision,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_subscriber_hears_at_the_start_at_every_change_and_of_the_end() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let node = deployment.node(cloud.uplink(), "fra", 1).await;
    let mut talking = node.link.open().await.unwrap();
    talking.send(&UplinkRequest::Subscribe).await.unwrap();
    let mut finished = node.link.open().await.unwrap();
    finished.send(&UplinkRequest::Subscribe).await.unwrap();
    finished.finish();
    assert_eq!((newer(&mut talking).await, newer(&mut finished).await), (Revision(0), Revision(0)));
    let mut third = node.link.open().await.unwrap();
    third.send(&UplinkRequest::Subscribe).await.unwrap();
    assert_eq!(code(third.recv().await.unwrap()), Code::RateLimited);
    cloud.publish(&files(1)).await;
    assert_eq!((newer(&mut talking).await, newer(&mut finished).await), (Revision(1), Revision(1)));
    cloud.publish(&files(2)).await;
    assert_eq!((newer(&mut talking).await, newer(&mut finished).await), (Revision(2), Revision(2)));
    // An acknowledgement says it too.
    match node.append(1, events(0..1)).await {
        UplinkReply::Ack { control_revision, .. } => assert_eq!(control_revision, Revision(2)),
        other => panic!("{other:?}"),
    }
    cloud.shutdown.cancel();
    let end = tokio::time::timeout(PATIENCE, talking.recv::<UplinkReply>()).await.unwrap().unwrap_err();
    assert!(matches!(end.kind, LinkErrorKind::Finished), "an orderly end: {end}");
    drop((talking, finished, third));
    cloud.server.join().await.unwrap();
}

#[tokio::test]
async fn a_bundle_is_pulled_in_parts_and_opens() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let node = deployment.node(cloud.uplink(), "fra", 1).await;
    assert_eq!(node.call(UplinkRequest::Manifest).await, UplinkReply::Manifest(None));
    let mut files = files(1);
    // More than one part.
    let catalog = files.get_mut(&proto::bundle::ArtifactKind::Catalog).unwrap();
    catalog.resize(catalog.len() + 1_300_000, b' ');
    cloud.publish(&files).await;
    let UplinkReply::Manifest(Some(signed)) = node.call(UplinkRequest::Manifest).await else { panic!() };
    let key: proto::control::SigningKey = cloud.read("/v1/signing-key").await;
    let file = std::fs::read_to_string(deployment.dir().join("signing.pub")).unwrap();
    assert_eq!(file, key.ed25519);
    let key = inference::PublicKey::from_hex(&key.ed25519).unwrap();
    let manifest = inference::bundle::verify(&signed, &[key]).unwrap();
    let mut pulled = std::collections::HashMap::new();
    for artifact in &manifest.artifacts {
        let mut bytes: Vec<u8> = Vec::new();
        while (bytes.len() as u64) < artifact.size {
            let request = UplinkRequest::Artifact { digest: artifact.digest, offset: bytes.len() as u64 };
            let UplinkReply::Artifact { size, part } = node.call(request).await else { panic!() };
            assert_eq!(size, artifact.size);
            assert!(!part.is_empty());
            bytes.extend(part);
        }
        assert_eq!(Digest::of(&bytes), artifact.digest);
        pulled.insert(artifact.kind, bytes);
    }
    assert_eq!(pulled, files);
    let artifact = |kind| pulled.get(&kind).cloned();
    inference::Bundle::open(manifest.clone(), artifact, &inference::Engine::tract()).unwrap();
    let unknown = UplinkRequest::Artifact { digest: Digest::of(b"?"), offset: 0 };
    assert_eq!(code(node.call(unknown).await), Code::NotFound);
    let beyond = UplinkRequest::Artifact { digest: manifest.artifacts[0].digest, offset: 1 << 40 };
    assert_eq!(code(node.call(beyond).await), Code::Invalid);
    cloud.stop().await;
}

fn report(role: Role) -> NodeReport {
    NodeReport {
        role,
        term: 3,
        applied: 7,
        last_log: 8,
        outbox: 9,
        revision: Revision(1),
        retrieval: None,
        ranker: None,
        engine: "tract".into(),
        in_flight: 2,
        bundle_error: None,
        client_address: "127.0.0.1:1".into(),
        unfit: Revision(0),
        answers: AnswerCounts::default(),
    }
}

#[tokio::test]
async fn reports_are_shown_by_pop_and_node() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    for (node, role) in [(1, Role::Leader), (2, Role::Follower)] {
        let link = deployment.node(cloud.uplink(), "fra", node).await;
        assert_eq!(link.call(UplinkRequest::Report(report(role))).await, UplinkReply::Noted);
        let long = NodeReport { engine: "x".repeat(5_000), ..report(role) };
        assert_eq!(code(link.call(UplinkRequest::Report(long)).await), Code::TooLarge);
    }
    let pops: Vec<PopView> = cloud.read("/v1/pops").await;
    assert_eq!(pops.len(), 1);
    assert_eq!(
        pops[0].nodes.iter().map(|n| (n.node.0, n.report.role)).collect::<Vec<_>>(),
        [(1, Role::Leader), (2, Role::Follower)]
    );
    let one: PopView = cloud.read("/v1/pops/fra").await;
    assert_eq!(one, pops[0]);
    assert_eq!(cloud.get("/v1/pops/nowhere").await.status(), 404);
    cloud.stop().await;
}

#[tokio::test]
async fn rubbish_is_answered_or_dropped_and_harms_nobody_else() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let node = deployment.node(cloud.uplink(), "fra", 1).await;
    let mut random = 0x1234_5678_u32;
    for len in [1_usize, 4, 5, 6, 100, 5_000] {
        let mut stream = node.link.open().await.unwrap();
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 24) as u8
            })
            .collect();
        stream.send_bytes(bytes.into()).await.unwrap();
        stream.finish();
        match tokio::time::timeout(PATIENCE, stream.recv::<UplinkReply>()).await.unwrap() {
            Ok(reply) => assert!(matches!(code(reply), Code::Malformed | Code::TooLarge)),
            Err(error) => assert!(!error.is_closed(), "{error}"),
        }
    }
    // A header that promises more than its kind may have.
    let mut stream = node.link.open().await.unwrap();
    stream.send_bytes(vec![0xff, 0xff, 0xff, 0xff, 5].into()).await.unwrap();
    let reply = tokio::time::timeout(PATIENCE, stream.recv::<UplinkReply>()).await.unwrap().unwrap();
    assert_eq!(code(reply), Code::TooLarge);
    assert_eq!(node.acknowledged(1, events(0..5)).await, 5);
    cloud.stop().await;
}

#[tokio::test]
async fn what_was_acknowledged_before_a_shutdown_is_there_after_it() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let node = deployment.node(cloud.uplink(), "fra", 1).await;
    let (sender, mut seen) = keep_appending(node, 0);
    seen.wait_for(|upto| *upto >= 500).await.unwrap();
    cloud.stop().await;
    let acknowledged = sender.await.unwrap();
    let cloud = deployment.start().await;
    let counted = cloud.counts().await.total;
    assert!(counted >= acknowledged, "{counted} counted, {acknowledged} acknowledged");
    let node = deployment.node(cloud.uplink(), "fra", 1).await;
    assert_eq!(node.position().await, counted);
    cloud.stop().await;
}

/// A PoP that had been acknowledged more than this cloud holds: seen, given up by hand, and then it goes on.
#[tokio::test]
async fn a_pop_that_is_ahead_goes_on_once_its_loss_is_accepted() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let node = deployment.node(cloud.uplink(), "fra", 1).await;
    node.acknowledged(1, events(0..5)).await;
    let report = NodeReport {
        role: Role::Leader,
        term: 3,
        applied: 9,
        last_log: 9,
        outbox: 0,
        revision: Revision(4),
        retrieval: None,
        ranker: None,
        engine: "tract".into(),
        in_flight: 0,
        bundle_error: None,
        client_address: "127.0.0.1:1".into(),
        unfit: Revision(0),
        answers: AnswerCounts::default(),
    };
    assert_eq!(node.call(UplinkRequest::Report(report)).await, UplinkReply::Noted);
    let standing = Standing {
        membership: Membership::Voter,
        term: 3,
        leads: true,
        members: vec![NodeId(1)],
        serves: Some(Digest::of(b"four")),
        active: Revision(4),
        active_manifest: Some(Digest::of(b"four")),
        acknowledged: Offset(12),
        last_offset: Offset(20),
        diverged: Some("the cloud lost data".into()),
    };
    assert_eq!(node.call(UplinkRequest::Standing(standing.clone())).await, UplinkReply::Noted);
    let many = Standing { members: (1..99).map(NodeId).collect(), ..standing };
    assert_eq!(code(node.call(UplinkRequest::Standing(many)).await), Code::TooLarge);
    let view: PopView = cloud.read("/v1/pops/fra").await;
    let ahead = Ahead { upto: Offset(5), acknowledged: Offset(12), bundle: Some(Revision(4)) };
    assert_eq!((view.ahead.as_ref(), view.nodes[0].membership), (Some(&ahead), Membership::Voter));
    assert!(view.diverged.is_some());

    let accept = async |pop: &str, ahead: &Ahead| {
        let asked = AcceptLoss { ahead: ahead.clone(), reason: "a test".into() };
        cloud.post(&format!("/v1/pops/{pop}/accept-loss"), serde_json::to_string(&asked).unwrap()).await
    };
    let less = Ahead { acknowledged: Offset(11), ..ahead.clone() };
    assert_eq!(accept("fra", &less).await.status(), 409, "not what is lost");
    assert_eq!(accept("nowhere", &ahead).await.status(), 404);
    let accepted = accept("fra", &ahead).await;
    assert_eq!(accepted.status(), 200);
    let accepted: LossAccepted = accepted.json().await.unwrap();
    assert_eq!((accepted.events, accepted.first, accepted.last), (7, Some(Offset(6)), Some(Offset(12))));
    assert_eq!(accepted.published, None, "nothing was published here yet");
    assert_eq!(node.acknowledged(13, events(12..15)).await, 15);
    assert_eq!(cloud.counts().await.total, 8);
    let view: PopView = cloud.read("/v1/pops/fra").await;
    assert_eq!((view.upto, view.lost), (Offset(15), 7));
    let lines: Vec<AuditView> = cloud.read("/v1/audit").await;
    let line = lines.iter().find(|line| !line.detail.starts_with("refused")).unwrap();
    assert!(
        line.what == "cloud.accept_loss" && line.detail.contains("7 events are lost, offsets 6 to 12"),
        "{line:?}"
    );
    // And the first bundle is numbered above what the PoP has.
    assert_eq!(cloud.publish(&files(1)).await.revision, Revision(5));
    let nobody = cloud.post("/v1/nodes/nowhere/1/revoke", "{}").await;
    assert_eq!(nobody.status(), 404);
    assert_eq!(cloud.post("/v1/nodes/fra/9/revoke", "{}").await.status(), 404);
    assert_eq!(cloud.post("/v1/nodes/fra/9/revoke", r#"{"unheard": true}"#).await.status(), 200);
    cloud.stop().await;
}
