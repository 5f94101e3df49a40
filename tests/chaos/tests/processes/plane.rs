//! The edge plane: a poison bundle is stopped at the canary PoP, and a PoP starts from its own disks while the cloud is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use client_sdk::{Client, EventKind, SlotRequest, VisitorId};
use inference::{Bundle, Engine, Signer, testing};
use proto::bundle::ArtifactKind;
use proto::client::ServedBy;
use proto::control::{AuditView, RolloutStage};
use proto::{NodeId, PopId, Revision};
use rockpool::load;
use rockpool::local::{Deployment, Overrides};
use serde::Deserialize;
use tokio::time::Instant;

use crate::support::{ITEMS, Pop, READY, light, tiny_artifacts, tiny_bundle, visitors};

/// From the publication of a poison bundle until its canary serves good contents again.
const HEALED_WITHIN: Duration = Duration::from_secs(20);
/// The node of the other PoP.
const OTHER: NodeId = NodeId(11);

/// Sound, but two of these items in one history make the model answer with infinity: no probe and no golden answer has two.
fn poison() -> Vec<(ArtifactKind, Vec<u8>)> {
    let signer = Signer::from_seed(&[7; 32]);
    let mut files = tiny_bundle(&signer, 1).artifacts;
    let model = testing::poisoned_retrieval(&testing::catalog(ITEMS), 1, |place| place % 10 == 3);
    files.insert(ArtifactKind::RetrievalCard, model.card_json());
    files.insert(ArtifactKind::RetrievalModel, model.onnx);
    let signed = testing::SignedBundle::new(&signer, 1, files);
    Bundle::open(signed.manifest.clone(), |kind| signed.artifact(kind), &Engine::choose(None))
        .expect("what this test is about opens");
    signed.artifacts.into_iter().collect()
}

fn ask(visitor: &VisitorId) -> SlotRequest {
    SlotRequest::new(visitor.clone(), "home".parse().unwrap()).deadline(Duration::from_secs(3))
}

async fn click(client: &Client, visitor: &VisitorId, items: &[&str]) {
    for item in items {
        let kind =
            EventKind::Click { item: item.parse().unwrap(), slot: "home".parse().unwrap(), answer: None };
        client.track(visitor, kind).await.unwrap();
    }
    client.flush(READY).await.unwrap();
}

async fn client_of(deployment: &Deployment, nodes: &[NodeId]) -> Client {
    let config = deployment.client_config(nodes).unwrap();
    Client::connect_with(deployment.app_dialer().unwrap(), config).await.unwrap()
}

/// Waits until the rollout of a revision has come to a stage; gives why.
async fn comes_to(deployment: &Deployment, revision: u64, stage: RolloutStage) -> String {
    let found = std::sync::Mutex::new(String::new());
    deployment
        .until(&format!("revision {revision} is {}", stage.as_str()), READY, async |this: &Deployment| {
            let rollouts = this.control()?.rollouts().await?;
            let rollout = rollouts.into_iter().find(|rollout| rollout.revision == Revision(revision));
            let reached = rollout.as_ref().is_some_and(|rollout| rollout.stage == stage);
            anyhow::ensure!(reached, "{rollout:?}");
            *found.lock().unwrap() = rollout.map(|rollout| rollout.reason).unwrap_or_default();
            Ok(())
        })
        .await
        .unwrap();
    found.into_inner().unwrap()
}

/// Every revision that a node ever served from, by its log.
fn served(deployment: &Deployment, node: NodeId) -> BTreeSet<u64> {
    let log = std::fs::read_to_string(deployment.node_dir(node).join("edge-node.log")).unwrap();
    let serving = log.lines().filter(|line| line.contains("bundle is serving"));
    let revision = |line: &str| {
        let (_, after) = line.split_once("revision=")?;
        let plain: String = after.chars().skip_while(|c| !c.is_ascii_digit()).collect();
        plain.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    serving.map(|line| revision(line).unwrap_or_else(|| panic!("a revision: {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_bundle_is_stopped_at_the_canary() {
    let short = [("rollout.hold_s", 2), ("rollout.verdict_within_s", 60)];
    let cloud = short.map(|(path, seconds): (&str, i64)| (path.to_owned(), seconds.into())).to_vec();
    let mut pop = Pop::start(3, Overrides { cloud, ..Overrides::default() }).await;
    let (first, other) = (pop.deployment.pop().clone(), PopId::new("pop-b").unwrap());
    pop.deployment.found_pop(&other, &[OTHER]).unwrap();
    let deployment = &pop.deployment;
    deployment
        .until("both PoPs have reported", READY, async |this: &Deployment| {
            let pops = this.control()?.pops().await?;
            let nodes: usize = pops.iter().map(|pop| pop.nodes.len()).sum();
            anyhow::ensure!(nodes == 4, "{nodes} nodes");
            Ok(())
        })
        .await
        .unwrap();
    let control = deployment.control().unwrap();
    rockpool::publish::publish(&control, tiny_artifacts(), "good").await.unwrap();
    comes_to(deployment, 1, RolloutStage::Promoted).await;
    deployment.until_ready(READY).await.unwrap();

    // A visitor in each PoP, with a history that the poison bundle cannot bear.
    let visitor = visitors(1).remove(0);
    let founders: Vec<NodeId> = (1..=3).map(NodeId).collect();
    let (canary, beside) = (client_of(deployment, &founders).await, client_of(deployment, &[OTHER]).await);
    for client in [&canary, &beside] {
        click(client, &visitor, &["i3", "i13", "i23"]).await;
        assert_eq!(client.recommend(ask(&visitor)).await.unwrap().served_by, ServedBy::Ranked);
    }
    let began = Instant::now();
    rockpool::publish::publish(&control, poison(), "poison").await.unwrap();
    let mut seen = BTreeSet::new();
    loop {
        let (here, there) =
            tokio::try_join!(canary.recommend(ask(&visitor)), beside.recommend(ask(&visitor))).unwrap();
        assert!(!here.items.is_empty(), "a model that fails is no reason to offer nothing");
        assert_ne!(there.revision, Revision(2), "the other PoP never serves it");
        assert_eq!(there.served_by, ServedBy::Ranked);
        seen.insert(here.revision.0);
        let healed = founders.iter().all(|node| served(deployment, *node).contains(&3));
        if here.revision == Revision(3) && here.served_by == ServedBy::Ranked && healed {
            break;
        }
        assert!(
            began.elapsed() < HEALED_WITHIN,
            "the canary is still on {} after {:?}",
            here.revision,
            began.elapsed()
        );
    }
    assert!(seen.contains(&2), "the canary served it, or nothing was tried: {seen:?}");

    let reason = comes_to(deployment, 2, RolloutStage::Stopped).await;
    assert!(reason.contains("a model failed"), "{reason}");
    let rollouts = control.rollouts().await.unwrap();
    assert_eq!(rollouts.iter().find(|r| r.revision == Revision(2)).unwrap().canaries, [first]);
    let audit: Vec<AuditView> = control.get("/v1/audit").await.unwrap();
    for what in ["rollout.stop", "rollout.recover"] {
        assert!(audit.iter().any(|line| line.what == what), "{what}: {audit:?}");
    }
    // A good one is taken by both again.
    rockpool::publish::publish(&control, tiny_artifacts(), "good again").await.unwrap();
    comes_to(deployment, 4, RolloutStage::Promoted).await;
    deployment
        .until("the other PoP has it", READY, async |this: &Deployment| {
            let revisions = served(this, OTHER);
            anyhow::ensure!(revisions.contains(&4), "{revisions:?}");
            Ok(())
        })
        .await
        .unwrap();
    assert!(!served(deployment, OTHER).contains(&2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pop_starts_from_its_disks_while_the_cloud_is_gone() {
    #[derive(Deserialize)]
    struct Status {
        revision: u64,
        outbox: u64,
    }
    let mut pop = Pop::serving().await;
    let (clients, visitors) = (pop.clients(2).await, visitors(20));
    load::run(&light(Duration::from_secs(2)), &clients, &visitors).await.unwrap();
    for client in &clients {
        client.flush(READY).await.unwrap();
    }
    let deployment = &mut pop.deployment;
    deployment.kill_cloud().await.unwrap();
    for node in deployment.running() {
        deployment.stop_node(node).await.unwrap();
    }
    for node in 1..=3 {
        deployment.start_node(NodeId(node)).unwrap();
    }
    deployment.until_ready(READY).await.unwrap();
    assert!(!deployment.cloud_runs());

    // New apps, which know nothing of before: answers are ranked by the last bundle, and events are taken.
    let (known, late) = (visitors[0].clone(), pop.clients(2).await);
    click(&late[0], &known, &["i5"]).await;
    let answer = late[0].recommend(ask(&known)).await.unwrap();
    assert_eq!((answer.served_by, answer.revision), (ServedBy::Ranked, Revision(1)));
    let measured = load::run(&light(Duration::from_secs(4)), &late, &visitors).await.unwrap();
    assert_eq!(measured.errors, 0, "{:?}", measured.error_kinds);
    for client in &late {
        client.flush(READY).await.unwrap();
    }
    let status: Status = pop.deployment.admin(NodeId(1)).unwrap().status().await.unwrap();
    assert_eq!(status.revision, 1);
    assert!(status.outbox > 100, "{} events wait for the cloud", status.outbox);

    pop.deployment.start_cloud().await.unwrap();
    pop.counted(&[clients, late].concat()).await;
}
