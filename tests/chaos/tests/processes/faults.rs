//! Kill the leader, the cloud, everything: answers go on, and no acknowledged event is lost or doubled.

use std::time::Duration;

use client_sdk::{Client, EventKind, ItemId, SlotId, SlotRequest, VisitorId};
use proto::NodeId;
use rockpool::load;
use rockpool::local::{Deployment, Overrides};
use serde::Deserialize;

use crate::support::{Pop, READY, light, visitors};

#[tokio::test(flavor = "multi_thread")]
async fn leader_killed_under_load_loses_nothing() {
    let mut pop = Pop::serving().await;
    let (clients, visitors) = (pop.clients(6).await, visitors(50));
    let plan = light(Duration::from_secs(9));
    let loading = load::run(&plan, &clients, &visitors);
    let deployment = &mut pop.deployment;
    let killing = async {
        // Each click brings six events: a third of the load is over, then two thirds.
        events_arrive(deployment, 900).await?;
        let leader = deployment.leader().await?;
        deployment.kill_node(leader).await?;
        events_arrive(deployment, 1_800).await?;
        deployment.start_node(leader)?;
        Ok(leader)
    };
    let (measured, killed) = tokio::try_join!(loading, killing).unwrap();
    assert_eq!(measured.errors, 0, "answers go on: {:?}", measured.error_kinds);
    pop.counted(&clients).await;
    pop.deployment.until_ready(READY).await.unwrap();
    same_digest(&pop.deployment).await;
    let leader = pop.deployment.leader().await.unwrap();
    assert!(pop.deployment.running().contains(&leader), "node {killed} was killed, {leader} leads");
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_away_for_30_s_then_every_event_arrives_once() {
    let mut pop = Pop::serving().await;
    let (clients, visitors) = (pop.clients(4).await, visitors(50));
    load::run(&light(Duration::from_secs(1)), &clients, &visitors).await.unwrap();
    pop.deployment.kill_cloud().await.unwrap();
    let measured = load::run(&light(Duration::from_secs(30)), &clients, &visitors).await.unwrap();
    assert_eq!(measured.errors, 0, "answers go on without the cloud: {:?}", measured.error_kinds);
    let served_by = &measured.served_by;
    assert!(served_by.iter().any(|(by, n)| by == "ranked" && *n > 100), "models go on too: {served_by:?}");
    pop.deployment.start_cloud().await.unwrap();
    pop.counted(&clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_then_acknowledged_state_is_there() {
    let mut pop = Pop::serving().await;
    let (client, visitor) = (pop.client().await, visitors(1).remove(0));
    let clicked: Vec<ItemId> = (0..20).map(|n| format!("i{n}").parse().unwrap()).collect();
    click(&client, &visitor, &clicked).await;
    // The cloud is away as well: the PoP starts from its own disks.
    pop.deployment.kill_cloud().await.unwrap();
    for node in pop.deployment.running() {
        pop.deployment.kill_node(node).await.unwrap();
    }
    for node in 1..=3 {
        pop.deployment.start_node(NodeId(node)).unwrap();
    }
    pop.deployment.until_ready(READY).await.unwrap();
    let again = pop.client().await;
    let answer = again.recommend(ask(&visitor).count(100)).await.unwrap();
    assert!(answer.items.len() > 50, "{} items", answer.items.len());
    assert!(
        answer.items.iter().all(|ranked| !clicked.contains(&ranked.item)),
        "what was clicked is remembered"
    );
    same_digest(&pop.deployment).await;
    pop.deployment.start_cloud().await.unwrap();
    pop.counted(&[client]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_read_on_every_node() {
    let pop = Pop::serving().await;
    let (client, visitor) = (pop.client().await, visitors(1).remove(0));
    let item: ItemId = "i3".parse().unwrap();
    click(&client, &visitor, std::slice::from_ref(&item)).await;
    for node in pop.deployment.running() {
        let config = pop.deployment.client_config(&[node]).unwrap();
        let reader = Client::connect_with(pop.deployment.app_dialer().unwrap(), config).await.unwrap();
        pop.deployment
            .until("the node has caught up", READY, async |_: &Deployment| {
                let answer = reader.recommend(ask(&visitor).count(100)).await?;
                anyhow::ensure!(answer.items.iter().all(|ranked| ranked.item != item), "still offered");
                Ok(())
            })
            .await
            .unwrap();
    }
}

/// From the question that offered an item to the click on it in the cloud's storage.
#[tokio::test(flavor = "multi_thread")]
async fn one_trace_id_runs_from_the_app_to_the_clouds_storage() {
    #[derive(Deserialize)]
    struct Row {
        trace: String,
    }
    let filter = |names: &str| ("log.filter".to_owned(), names.into());
    let verbose = Overrides {
        node: vec![filter("info,openraft=warn,edge_node=debug")],
        cloud: vec![filter("info,cloud=debug")],
    };
    let pop = Pop::serving_with(verbose).await;
    let (client, visitor) = (pop.client().await, visitors(1).remove(0));
    let answer = client.recommend(ask(&visitor)).await.unwrap();
    let (item, slot) = (answer.items[0].item.clone(), "home".parse().unwrap());
    let kind = EventKind::Click { item, slot, answer: Some(answer.id) };
    client.track(&visitor, kind).await.unwrap();
    pop.counted(&[client]).await;

    let control = pop.deployment.control().unwrap();
    let rows: Vec<Row> = control.get("/v1/events?visitor=u:visitor-0&limit=10").await.unwrap();
    assert_eq!(rows.len(), 1);
    let trace = &rows[0].trace;
    assert!(trace.len() == 32 && trace.chars().any(|c| c != '0'), "a trace id: {trace}");
    let found: Vec<Row> = control.get(&format!("/v1/events?trace={trace}&limit=10")).await.unwrap();
    assert_eq!(found.len(), 1, "the trace finds the event");

    let lines = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().filter(|line| line.contains(trace.as_str())).map(str::to_owned).collect::<Vec<_>>()
    };
    let nodes = pop.deployment.running().into_iter().map(|node| pop.deployment.node_dir(node));
    let on_nodes: Vec<_> = nodes.flat_map(|dir| lines(dir.join("edge-node.log"))).collect();
    let in_cloud = lines(pop.deployment.dir().join("cloud/cloud.log"));
    for (lines, what) in [(&on_nodes, "answered"), (&on_nodes, "click"), (&in_cloud, "event is durable")] {
        assert!(lines.iter().any(|line| line.contains(what)), "{what} with {trace}: {lines:#?}");
    }
}

/// Waits until the cloud has counted so many events.
async fn events_arrive(deployment: &Deployment, count: u64) -> anyhow::Result<()> {
    deployment
        .until("events arrive", READY, async |this: &Deployment| {
            let total = this.control()?.event_counts().await?.total;
            anyhow::ensure!(total >= count, "{total} of {count}");
            Ok(())
        })
        .await
}

fn ask(visitor: &VisitorId) -> SlotRequest {
    SlotRequest::new(visitor.clone(), "home".parse().unwrap()).deadline(Duration::from_secs(3))
}

async fn click(client: &Client, visitor: &VisitorId, items: &[ItemId]) {
    let slot: SlotId = "home".parse().unwrap();
    for item in items {
        let kind = EventKind::Click { item: item.clone(), slot: slot.clone(), answer: None };
        client.track(visitor, kind).await.unwrap();
    }
    client.flush(Duration::from_secs(10)).await.unwrap();
}

/// All running nodes come to the same state. Notes of what was served still trickle, so indexes must meet first.
async fn same_digest(deployment: &Deployment) {
    #[derive(Debug, Deserialize, PartialEq)]
    struct State {
        index: u64,
        digest: String,
    }
    deployment
        .until("all nodes have the same state", READY, async |this: &Deployment| {
            let mut states = Vec::new();
            for node in this.running() {
                states.push(this.admin(node)?.get::<State>("/v1/digest").await?);
            }
            let same_index = states.windows(2).all(|pair| pair[0].index == pair[1].index);
            anyhow::ensure!(same_index, "not at the same index: {states:?}");
            assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "replicas differ: {states:?}");
            Ok(())
        })
        .await
        .unwrap();
}
