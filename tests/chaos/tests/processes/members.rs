//! One node at a time joins and leaves, by an admin command.

use std::time::Duration;

use proto::NodeId;
use proto::peer::MemberChange;
use rockpool::load;
use rockpool::local::{Deployment, Overrides};
use serde::Deserialize;

use crate::support::{Pop, READY, light, visitors};

#[derive(Deserialize)]
struct Status {
    members: Vec<Member>,
    applied: u64,
}

#[derive(Deserialize)]
struct Member {
    node: NodeId,
    voter: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_by_snapshot_and_another_leaves() {
    // Short logs, so that the new node needs a snapshot.
    let short = Overrides { node: vec![("store.snapshot_every".into(), 50.into())], ..Overrides::default() };
    let mut pop = Pop::serving_with(short).await;
    let (clients, visitors) = (pop.clients(2).await, visitors(20));
    load::run(&light(Duration::from_secs(3)), &clients, &visitors).await.unwrap();

    let (new, via) = (NodeId(4), NodeId(1));
    pop.deployment.start_new_node(new).unwrap();
    let token = pop.deployment.node_token(via).unwrap();
    let join = MemberChange::Join { node: new, address: pop.deployment.ports()[&new].peers.clone() };
    let admin = pop.deployment.admin(via).unwrap();
    let refused = admin.member(&join, "wrong").await.unwrap_err();
    assert!(refused.to_string().contains("unauthenticated"), "{refused}");
    admin.member(&join, &token).await.unwrap();
    pop.deployment.until_ready(READY).await.unwrap();

    let leader = pop.deployment.leader().await.unwrap();
    let leaving = pop.deployment.running().into_iter().find(|node| *node != leader && *node != new).unwrap();
    let stays = pop.deployment.running().into_iter().find(|node| *node != leaving).unwrap();
    let (admin, token) = (pop.deployment.admin(stays).unwrap(), pop.deployment.node_token(stays).unwrap());
    admin.member(&MemberChange::Leave { node: leaving }, &token).await.unwrap();
    pop.deployment.kill_node(leaving).await.unwrap();
    let back = MemberChange::Join { node: leaving, address: "127.0.0.1:1".into() };
    let refused = admin.member(&back, &token).await.unwrap_err();
    assert!(refused.to_string().contains("conflict"), "an id is never used again: {refused}");

    pop.deployment
        .until("three voters are left", READY, async |this: &Deployment| {
            let status: Status = this.admin(new)?.status().await?;
            let voters = status.members.iter().filter(|member| member.voter).count();
            anyhow::ensure!(voters == 3, "{voters} voters");
            anyhow::ensure!(
                status.members.iter().all(|member| member.node != leaving),
                "node {leaving} is there"
            );
            anyhow::ensure!(status.applied > 0, "nothing applied");
            Ok(())
        })
        .await
        .unwrap();
    load::run(&light(Duration::from_secs(2)), &clients, &visitors).await.unwrap();
    pop.counted(&clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_end_lets_another_lead_first() {
    let mut pop = Pop::serving().await;
    let before = pop.deployment.leader().await.unwrap();
    pop.deployment.stop_node(before).await.unwrap();
    let another = async |this: &Deployment| this.leader().await.map(drop);
    pop.deployment.until("another node leads", READY, another).await.unwrap();
    let log = std::fs::read_to_string(pop.deployment.node_dir(before).join("edge-node.log")).unwrap();
    assert!(log.contains("another node leads now"), "no election, but a hand-over: {log}");
}
