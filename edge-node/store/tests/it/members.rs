//! Joining and leaving.

use std::time::Duration;

use edge_store::{Membership, Store, StoreConfig, StoreError};
use proto::command::Command;
use proto::peer::{MemberChange, PeerReply, PeerRequest, RaftCall};
use proto::{Code, NodeId, PopId};
use tokio::time::Instant;

use crate::pop::{PATIENCE, Pop, address, event, events, visitor};

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
    let follower = pop.followers(leader)[0];
    pop.store(leader).member(leave(follower)).await.unwrap();
    pop.stop(follower).await;
    let last = pop.store(leader).member(leave(leader)).await.unwrap_err();
    assert_eq!(last.code(), Code::Conflict, "{last}");
    pop.track(leader, events(0..3, 1)).await;
}

/// Whatever is typed, only a node that is there, is empty and is of this PoP gets a vote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_without_a_node_never_votes() {
    let mut pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    let nobody = pop.store(leader).member(join(8)).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unavailable, "{nobody}");
    assert!(nobody.to_string().contains("nobody answers as node 8"), "{nobody}");
    assert_eq!(voters(pop.store(leader)), [1, 2, 3]);
    // Another node's address, and one that has a log of its own.
    pop.boot(4).await;
    let other = MemberChange::Join { node: NodeId(8), address: address(4) };
    assert_eq!(pop.store(leader).member(other).await.unwrap_err().code(), Code::Unavailable);
    pop.store(4).form([(NodeId(4), address(4))].into()).await.unwrap();
    pop.leader_of(&[4]).await;
    let full = pop.store(leader).member(join(4)).await.unwrap_err();
    assert_eq!(full.code(), Code::Conflict, "{full}");
    assert!(full.to_string().contains("not empty"), "{full}");
    pop.stop(4).await;
    // One real node dies: the others write on, and what never came leaves no trace.
    pop.stop(pop.followers(leader)[0]).await;
    pop.track(leader, events(0..10, 1)).await;
    pop.boot(8).await;
    pop.store(leader).member(join(8)).await.unwrap();
    assert_eq!(voters(pop.store(leader)), [1, 2, 3, 8]);
}

/// A voter that nobody reaches any more counts until it leaves: that must work while it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_gone_leaves_and_one_that_never_was_does_not() {
    let mut pop = Pop::start(3, |_| {}).await;
    pop.boot(8).await;
    let leader = pop.leader_of(&[1, 2, 3]).await;
    pop.store(leader).member(join(8)).await.unwrap();
    pop.stop(8).await;
    pop.wipe(8);
    pop.store(leader).member(leave(8)).await.unwrap();
    assert_eq!(voters(pop.store(leader)), [1, 2, 3]);
    pop.store(leader).member(leave(8)).await.unwrap();
    let never = pop.store(leader).member(leave(77)).await.unwrap_err();
    assert_eq!(never.code(), Code::NotFound, "{never}");
    assert!(never.to_string().contains("1, 2, 3"), "{never}");
    pop.track(leader, events(0..10, 1)).await;
}

/// To leave calls off to join: a node that falls silent on the way must not stand in the way of its own removal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_falls_silent_while_it_joins_can_leave() {
    let pop = Pop::start(2, |_| {}).await;
    let leader = pop.leader().await;
    let _silent = pop.silent(7);
    let store = pop.store(leader).clone();
    let joining = tokio::spawn(async move { store.member(join(7)).await });
    pop.until("it is being added", |pop| pop.store(leader).members().len() == 3).await;
    assert_eq!(voters(pop.store(leader)), [1, 2], "it has no vote before it has caught up");
    let second = pop.store(leader).member(join(8)).await.unwrap_err();
    assert_eq!(second.code(), Code::Conflict, "one at a time: {second}");
    pop.store(leader).member(leave(7)).await.unwrap();
    let called_off = joining.await.unwrap().unwrap_err();
    assert_eq!(called_off.code(), Code::Conflict, "{called_off}");
    assert_eq!(pop.store(leader).members().len(), 2);
}

/// A node that left hears of it, takes no writes, and says that nothing it knows is fresh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_left_knows_it() {
    let pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    let gone = pop.followers(leader)[0];
    pop.track(gone, events(0..10, 1)).await;
    pop.until("it is fresh", |pop| pop.store(gone).age().is_some()).await;
    assert_eq!(pop.store(gone).membership(), Membership::Voter);
    pop.store(leader).member(leave(gone)).await.unwrap();
    pop.until("it knows", |pop| pop.store(gone).membership() == Membership::Left).await;
    assert_eq!(pop.store(gone).age(), None);
    let command = Command::Track { events: events(10..20, 1), received_at_ms: 1 };
    let refused =
        pop.store(gone).propose(command, Instant::now() + Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotReady, "{refused}");
    let changes = pop.store(gone).member(leave(leader)).await.unwrap_err();
    assert_eq!(changes.code(), Code::NotReady, "{changes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_members_address_changes() {
    let mut pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    let moves = pop.followers(leader)[0];
    let moved = MemberChange::Move { node: NodeId(moves), address: "elsewhere:peer".into() };
    let nobody = pop.store(leader).member(moved.clone()).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unavailable, "{nobody}");
    let stranger = MemberChange::Move { node: NodeId(9), address: address(1) };
    assert_eq!(pop.store(leader).member(stranger).await.unwrap_err().code(), Code::NotFound);
    let taken = MemberChange::Move { node: NodeId(moves), address: address(leader) };
    assert_eq!(pop.store(leader).member(taken).await.unwrap_err().code(), Code::Conflict);
    pop.stop(moves).await;
    pop.boot_at(moves, "elsewhere:peer").await;
    pop.store(leader).member(moved.clone()).await.unwrap();
    pop.store(leader).member(moved).await.unwrap();
    let proposed = pop.track(leader, events(0..10, 1)).await;
    assert!(pop.store(moves).wait_applied(proposed.index, PATIENCE).await, "it is reached there");
    assert_eq!(
        pop.store(moves).members().iter().find(|m| m.node.0 == moves).unwrap().address,
        "elsewhere:peer"
    );
    pop.assert_equal().await;
}

/// A folder that was put back from a copy of an earlier time: the node has promised more than is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_folder_is_noticed_at_the_start() {
    let mut pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    let copied = pop.followers(leader)[0];
    pop.track(leader, events(0..50, 1)).await;
    pop.assert_equal().await;
    pop.stop(copied).await;
    let older = pop.copy(copied);
    pop.boot(copied).await;
    pop.track(leader, events(50..100, 1)).await;
    pop.assert_equal().await;
    pop.stop(copied).await;
    let present = pop.put_back(copied, older);
    let error = pop.open(copied).await.unwrap_err();
    assert!(matches!(error, StoreError::OlderCopy { .. }), "{error}");
    assert_eq!(error.code(), Code::Corrupt);
    // Its own folder is as good as it was.
    pop.put_back(copied, present);
    pop.boot(copied).await;
    pop.track(leader, events(100..120, 1)).await;
    pop.assert_equal().await;
}

/// The same where nobody could be asked at the start: the leader does not take it for the follower that it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_that_nobody_could_be_asked_about_is_not_heard() {
    let mut pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    let copied = pop.followers(leader)[0];
    pop.track(leader, events(0..50, 1)).await;
    pop.assert_equal().await;
    pop.stop(copied).await;
    let older = pop.copy(copied);
    pop.boot(copied).await;
    pop.track(leader, events(50..100, 1)).await;
    pop.assert_equal().await;
    pop.stop(copied).await;
    pop.put_back(copied, older);
    pop.isolate(copied);
    pop.boot(copied).await;
    pop.network.heal_all();
    let proposed = pop.track(leader, events(100..120, 1)).await;
    assert!(
        !pop.store(copied).wait_applied(proposed.index, Duration::from_secs(2)).await,
        "it hears nothing"
    );
    pop.track(leader, events(120..140, 1)).await;
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
    let stranger = pop.store(1).handle(NodeId(3), PeerRequest::Propose(Vec::new())).await;
    assert_eq!(stranger, PeerReply::NoMember);
    let empty = pop.store(1).handle(NodeId(1), PeerRequest::Propose(Vec::new())).await;
    assert!(matches!(empty, PeerReply::Error(error) if error.code == Code::Invalid));
    pop.track(1, events(0..3, 1)).await;
}
