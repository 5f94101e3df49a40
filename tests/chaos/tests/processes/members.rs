//! One node at a time joins and leaves, by an admin command.

use std::time::Duration;

use proto::control::{Membership, RevokeNode, RolloutStage};
use proto::peer::MemberChange;
use proto::{NodeId, PopId};
use rockpool::commands::status;
use rockpool::load;
use rockpool::local::{Deployment, Overrides, free_port};
use serde::Deserialize;

use crate::restore;
use crate::support::{Pop, READY, light, tiny_artifacts, visitors};

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

/// The input that took a PoP's majority away: a name without a node, and then one real node dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_a_node_never_votes_and_leaves_no_trace() {
    let mut pop = Pop::serving().await;
    let (clients, visitors) = (pop.clients(2).await, visitors(10));
    let via = pop.deployment.leader().await.unwrap();
    let (admin, token) = (pop.deployment.admin(via).unwrap(), pop.deployment.node_token(via).unwrap());
    let nobody = MemberChange::Join { node: NodeId(8), address: free_port().unwrap() };
    let refused = admin.member(&nobody, &token).await.unwrap_err().to_string();
    assert!(refused.contains("nobody answers as node 8 of pop-a"), "{refused}");
    // Another member's address, one that never was, and a PoP that is none.
    let taken = pop.deployment.ports()[&via].peers.clone();
    assert!(admin.member(&MemberChange::Join { node: NodeId(8), address: taken }, &token).await.is_err());
    let never =
        admin.member(&MemberChange::Leave { node: NodeId(77) }, &token).await.unwrap_err().to_string();
    assert!(never.contains("not_found") && never.contains("1, 2, 3"), "{never}");
    let control = pop.deployment.control().unwrap();
    let asked = RevokeNode { reason: "typo".into(), unheard: false };
    for (name, node) in [("nowhere", 1), ("pop-a", 77)] {
        let refused =
            control.revoke(&PopId::new(name).unwrap(), NodeId(node), &asked).await.unwrap_err().to_string();
        assert!(refused.contains("not_found"), "{refused}");
    }
    let dies = pop.deployment.running().into_iter().find(|node| *node != via).unwrap();
    pop.deployment.kill_node(dies).await.unwrap();
    load::run(&light(Duration::from_secs(2)), &clients, &visitors).await.unwrap();
    pop.counted(&clients).await;
}

/// A node that left but runs: told apart, not ready, not fresh, and no judge of a bundle.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_left_but_runs_is_no_member_for_anybody() {
    let quick = [("rollout.hold_s", 2), ("rollout.verdict_within_s", 40)];
    let cloud = quick.map(|(path, seconds): (&str, i64)| (path.to_owned(), seconds.into())).to_vec();
    let pop = Pop::serving_with(Overrides { cloud, ..Overrides::default() }).await;
    let deployment = &pop.deployment;
    let via = deployment.leader().await.unwrap();
    let gone = deployment.running().into_iter().find(|node| *node != via).unwrap();
    let (admin, token) = (deployment.admin(via).unwrap(), deployment.node_token(via).unwrap());
    admin.member(&MemberChange::Leave { node: gone }, &token).await.unwrap();
    deployment
        .until("it is told apart", READY, async |this: &Deployment| {
            let not_ready =
                this.admin(gone)?.ready().await.err().map(|error| error.to_string()).unwrap_or_default();
            anyhow::ensure!(not_ready.contains("no member"), "{not_ready:?}");
            let pops = this.control()?.pops().await?;
            let node = pops[0].nodes.iter().find(|node| node.node == gone);
            let membership = node.map(|node| node.membership);
            anyhow::ensure!(membership == Some(Membership::Left), "{membership:?}");
            let screen = status::screen(&pops, status::now_ms());
            anyhow::ensure!(screen.contains("no member"), "{screen}");
            Ok(())
        })
        .await
        .unwrap();
    let config = deployment.client_config(&[gone]).unwrap();
    let client = client_sdk::Client::connect_with(deployment.app_dialer().unwrap(), config).await.unwrap();
    let ask = client_sdk::SlotRequest::new(visitors(1).remove(0), "home".parse().unwrap());
    let answer = client.recommend(ask.deadline(Duration::from_secs(3))).await.unwrap();
    assert!(
        !answer.fresh && !answer.items.is_empty(),
        "it answers, and says that it knows nothing: {answer:?}"
    );
    // It never gets the next bundle, and does not stop it.
    let control = deployment.control().unwrap();
    let published = rockpool::publish::publish(&control, tiny_artifacts(), "good").await.unwrap().revision;
    deployment
        .until("the bundle is promoted", READY, async |this: &Deployment| {
            let rollouts = this.control()?.rollouts().await?;
            let rollout = rollouts.into_iter().find(|rollout| rollout.revision == published);
            anyhow::ensure!(
                rollout.as_ref().is_some_and(|r| r.stage == RolloutStage::Promoted),
                "{rollout:?}"
            );
            Ok(())
        })
        .await
        .unwrap();
}

/// A folder put back from an older copy is noticed at the start; the node comes back under a new id.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_nodes_folder_does_not_start() {
    let mut pop = Pop::serving().await;
    let (clients, visitors) = (pop.clients(2).await, visitors(10));
    let via = pop.deployment.leader().await.unwrap();
    let copied = pop.deployment.running().into_iter().find(|node| *node != via).unwrap();
    load::run(&light(Duration::from_secs(1)), &clients, &visitors).await.unwrap();
    pop.deployment.stop_node(copied).await.unwrap();
    let (folder, older) = (pop.deployment.node_dir(copied), pop.deployment.dir().join("older"));
    restore::copy(&folder, &older);
    pop.deployment.start_node(copied).unwrap();
    pop.deployment.until_ready(READY).await.unwrap();
    load::run(&light(Duration::from_secs(2)), &clients, &visitors).await.unwrap();
    pop.deployment.stop_node(copied).await.unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    restore::copy(&older, &folder);
    pop.deployment.start_node(copied).unwrap();
    let log = folder.join("edge-node.log");
    let until = tokio::time::Instant::now() + READY;
    while !std::fs::read_to_string(&log).unwrap().contains("is an older copy") {
        assert!(tokio::time::Instant::now() < until, "{}", std::fs::read_to_string(&log).unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Its process has ended: it is forgotten here, and leaves.
    let _ = pop.deployment.kill_node(copied).await;
    let (admin, token) = (pop.deployment.admin(via).unwrap(), pop.deployment.node_token(via).unwrap());
    admin.member(&MemberChange::Leave { node: copied }, &token).await.unwrap();
    let new = NodeId(9);
    pop.deployment.start_new_node(new).unwrap();
    let address = pop.deployment.ports()[&new].peers.clone();
    let join = MemberChange::Join { node: new, address };
    let joined = async |this: &Deployment| this.admin(via)?.member(&join, &token).await;
    pop.deployment.until("the new node has joined", READY, joined).await.unwrap();
    pop.deployment.until_ready(READY).await.unwrap();
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
