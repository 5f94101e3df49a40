//! Joining and leaving.

use std::time::Duration;

use edge_store::{Store, StoreConfig, StoreError};
use proto::peer::{MemberChange, PeerReply, PeerRequest, RaftCall};
use proto::{Code, NodeId, PopId};

use crate::pop::{Pop, address, event, events, visitor};

fn join(node: u64) -> MemberChange {
    MemberChange::Join { node: NodeId(node), address: address(node) }
}

fn leave(node: u64) -> MemberChange {
    MemberChange::Leave { node: NodeId(node) }
}

fn voters(store: &Store) -> Vec<u64> {
    store.members().iter().filter(|member| member.voter).map(|member| member.node.0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_and_another_leaves() {
    let mut pop = Pop::start(3, |_| {}).await;
    pop.track(1, events(0..30, 1)).await;
    pop.boot(4).await;
    let leader = pop.leader_of(&[1, 2, 3]).await;
    let follower = pop.followers(leader)[0];
    pop.store(follower).member(join(4)).await.unwrap();
    assert_eq!(voters(pop.store(leader)), [1, 2, 3, 4]);
    pop.store(follower).member(join(4)).await.unwrap();
    pop.assert_equal().await;
    assert_eq!(pop.store(4).view(&visitor(1)).profile.events, 30);
    pop.store(4).member(leave(follower)).await.unwrap();
    pop.until("the new node knows", |pop| !voters(pop.store(4)).contains(&follower)).await;
    pop.stop(follower).await;
    pop.track(4, events(30..40, 1)).await;
    pop.assert_equal().await;
    // An id is never given twice.
    let again = pop.store(leader).member(join(follower)).await.unwrap_err();
    assert_eq!(again.code(), Code::Conflict, "{again}");
    pop.store(leader).member(leave(follower)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_itself_leaves() {
    let mut pop = Pop::start(3, |_| {}).await;
    pop.track(1, events(0..10, 1)).await;
    let leader = pop.leader().await;
    let others = pop.followers(leader);
    pop.store(leader).member(leave(leader)).await.unwrap();
    pop.until("it is no member", |pop| others.iter().all(|node| voters(pop.store(*node)) == others)).await;
    pop.stop(leader).await;
    pop.leader().await;
    pop.track(others[0], events(10..20, 1)).await;
    pop.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joining_node_catches_up_by_snapshot() {
    let mut pop = Pop::start(3, |config| {
        config.snapshot_every = 30;
        config.log_keep = 5;
    })
    .await;
    for id in 0..120 {
        pop.track(1, vec![event(id, 1)]).await;
    }
    let leader = pop.leader().await;
    pop.until("the log's beginning is gone", |pop| pop.store(leader).status().snapshot > 60).await;
    pop.boot(4).await;
    pop.store(leader).member(join(4)).await.unwrap();
    pop.assert_equal().await;
    assert!(pop.nodes[&4].counter("snapshots_installed_total") >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_contradicts_the_members_is_refused() {
    let mut pop = Pop::start(2, |_| {}).await;
    let leader = pop.leader().await;
    let moved = MemberChange::Join { node: NodeId(1), address: "elsewhere:1".into() };
    assert_eq!(pop.store(leader).member(moved).await.unwrap_err().code(), Code::Conflict);
    let taken = MemberChange::Join { node: NodeId(9), address: address(1) };
    assert_eq!(pop.store(leader).member(taken).await.unwrap_err().code(), Code::Conflict);
    // One at a time: this one never catches up, because it does not run.
    let store = pop.store(leader).clone();
    let waiting = tokio::spawn(async move { store.member(join(7)).await });
    pop.until("it is being added", |pop| pop.store(leader).members().len() == 3).await;
    let second = pop.store(leader).member(join(8)).await.unwrap_err();
    assert_eq!(second.code(), Code::Conflict, "{second}");
    waiting.abort();
    assert!(waiting.await.is_err());
    pop.store(leader).member(leave(7)).await.unwrap();
    let follower = pop.followers(leader)[0];
    pop.store(leader).member(leave(follower)).await.unwrap();
    pop.stop(follower).await;
    let last = pop.store(leader).member(leave(leader)).await.unwrap_err();
    assert_eq!(last.code(), Code::Conflict, "{last}");
    pop.track(leader, events(0..3, 1)).await;
}

/// A node that lost its data must not come back as who it was: it could vote a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_not_heard_under_its_old_id() {
    let mut pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    let wiped = pop.followers(leader)[0];
    pop.track(leader, events(0..20, 1)).await;
    pop.stop(wiped).await;
    pop.wipe(wiped);
    pop.boot(wiped).await;
    let proposed = pop.track(leader, events(20..40, 1)).await;
    assert!(!pop.store(wiped).wait_applied(proposed.index, Duration::from_secs(2)).await, "it hears nothing");
    let other = pop.followers(leader).into_iter().find(|node| *node != wiped).unwrap();
    assert!(pop.store(other).wait_applied(proposed.index, Duration::from_secs(10)).await, "the others go on");
    // The way back is a new id.
    pop.stop(wiped).await;
    pop.store(leader).member(leave(wiped)).await.unwrap();
    pop.boot(9).await;
    pop.store(leader).member(join(9)).await.unwrap();
    pop.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_one_nodes_own() {
    let mut pop = Pop::start(1, |_| {}).await;
    let dir = pop.dir(1);
    pop.stop(1).await;
    let dialer = || std::sync::Arc::new(pop.network.dialer("node-2", None));
    for (name, node) in [("pop", 2), ("other", 1)] {
        let config = StoreConfig::new(PopId::new(name).unwrap(), NodeId(node), &dir, address(node));
        let opened = Store::open(config, dialer(), &prometheus::Registry::new()).await;
        assert!(matches!(opened, Err(StoreError::Identity { .. })), "node {node} of {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_from_a_peer_is_answered_with_an_error() {
    let pop = Pop::start(1, |_| {}).await;
    let garbage: Vec<u8> = (0..500_u32).map(|n| (n * 167 % 251) as u8).collect();
    for call in [RaftCall::Append, RaftCall::Vote, RaftCall::Snapshot, RaftCall::Transfer] {
        for len in [0, 5, 16, 40, 500] {
            let request = PeerRequest::Raft { call, body: garbage[..len].to_vec() };
            let reply = pop.store(1).handle(NodeId(3), request).await;
            assert!(matches!(reply, PeerReply::Error(_)), "{call:?} of {len} bytes: {reply:?}");
        }
    }
    let empty = pop.store(1).handle(NodeId(3), PeerRequest::Propose(Vec::new())).await;
    assert!(matches!(empty, PeerReply::Error(error) if error.code == Code::Invalid));
    pop.track(1, events(0..3, 1)).await;
}
