//! Three nodes: writing, reading, losing the leader, catching up.

use std::time::Duration;

use edge_store::{Store, StoreError};
use proto::bundle::{Manifest, SignedManifest};
use proto::command::{Command, Effect};
use proto::{Code, ItemId, Offset, Revision, codec};
use tokio::time::Instant;

use crate::pop::{PATIENCE, Pop, event, events, is_unavailable, visitor};

const SOON: Duration = Duration::from_secs(10);

fn manifest(revision: u64) -> SignedManifest {
    let manifest = Manifest {
        revision: Revision(revision),
        published_at_ms: 1,
        expires_at_ms: 2,
        artifacts: Vec::new(),
    };
    SignedManifest { manifest: codec::encode(&manifest), signature: vec![0; 64] }
}

async fn propose(store: &Store, command: Command) -> Result<Effect, StoreError> {
    store.propose(command, Instant::now() + SOON).await.map(|proposed| proposed.effect)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_writes_and_all_agree() {
    let pop = Pop::start(3, |_| {}).await;
    for node in 1..=3 {
        let ids = u128::from(node) * 100;
        let proposed = pop.track(node, events(ids..ids + 10, node)).await;
        assert_eq!(proposed.effect, Effect::Tracked { accepted: 10, duplicates: 0 });
        for reader in 1..=3 {
            assert!(pop.store(reader).wait_applied(proposed.index, SOON).await, "node {reader}");
            let view = pop.store(reader).view(&visitor(node));
            assert_eq!(view.profile.events, 10, "what node {node} wrote, read at {reader}");
            assert!(view.applied >= proposed.index);
        }
    }
    let status = pop.store(2).status();
    assert_eq!((status.members.len(), status.last_offset, status.outbox_len), (3, Offset(30), 30));
    assert!(status.members.iter().all(|member| member.voter));
    pop.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_entries() {
    let pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    let before = pop.store(leader).status().last_log;
    let calls = (0..600_u128).map(|id| pop.track(1 + (id % 3) as u64, vec![event(id, (id % 7) as u64)]));
    let proposed = futures::future::join_all(calls).await;
    assert!(proposed.iter().all(|p| p.effect == Effect::Tracked { accepted: 1, duplicates: 0 }));
    let entries = pop.store(leader).status().last_log - before;
    assert!(entries < 200, "600 commands took {entries} entries");
    pop.assert_equal().await;
}

/// The commit index travels by itself, not with the next heartbeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_at_one_node_is_soon_seen_at_another() {
    let pop = Pop::start(3, |config| {
        config.heartbeat_ms = 2_000;
        config.election_min_ms = 6_000;
        config.election_max_ms = 8_000;
    })
    .await;
    let leader = pop.leader().await;
    let followers = pop.followers(leader);
    let mut times = Vec::new();
    for id in 0..30 {
        let since = Instant::now();
        let proposed = pop.track(followers[0], vec![event(id, 1)]).await;
        assert!(pop.store(followers[1]).wait_applied(proposed.index, SOON).await);
        times.push(since.elapsed());
        assert_eq!(u128::from(pop.store(followers[1]).view(&visitor(1)).profile.events), id + 1);
    }
    times.sort();
    println!("written at a follower, seen at another: p50 {:?}, max {:?}", times[15], times[29]);
    assert!(times[15] < Duration::from_millis(500), "a heartbeat takes 2 s: {times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_what_does_not_come_ends() {
    let pop = Pop::start(1, |_| {}).await;
    assert!(!pop.store(1).wait_applied(1 << 40, Duration::from_millis(20)).await);
    let index = pop.track(1, vec![event(1, 1)]).await.index;
    assert!(pop.store(1).wait_applied(index, Duration::ZERO).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_dies_and_nothing_is_lost_or_doubled() {
    let mut pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    let survivors = pop.followers(leader);
    pop.track(survivors[0], events(0..50, 1)).await;
    // Still on their way when the leader dies.
    let (store, ids) = (pop.store(survivors[0]).clone(), 50..250_u128);
    let writing = tokio::spawn(async move {
        let mut acknowledged = 0;
        for id in ids {
            let since = Instant::now();
            loop {
                let command = Command::Track { events: vec![event(id, 1)], received_at_ms: 1 };
                match store.propose(command, Instant::now() + SOON).await {
                    Ok(_) => break,
                    Err(error) => assert!(is_unavailable(&error) && since.elapsed() < PATIENCE, "{error}"),
                }
            }
            acknowledged += 1;
        }
        acknowledged
    });
    pop.until("some of them are written", |pop| pop.store(survivors[0]).status().last_offset.0 > 70).await;
    pop.crash(leader).await;
    assert_eq!(writing.await.unwrap(), 200);
    let again = pop.track(survivors[1], events(0..250, 1)).await;
    assert_eq!(again.effect, Effect::Tracked { accepted: 0, duplicates: 250 }, "each was counted, and once");
    assert!(pop.store(survivors[0]).wait_applied(again.index, SOON).await);
    assert_eq!(pop.store(survivors[0]).view(&visitor(1)).profile.events, 250);
    pop.boot(leader).await;
    pop.assert_equal().await;
    assert_eq!(pop.store(leader).view(&visitor(1)).profile.events, 250);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_long_catches_up_by_snapshot() {
    let mut pop = Pop::start(3, |config| {
        config.snapshot_every = 40;
        config.log_keep = 5;
    })
    .await;
    let leader = pop.leader().await;
    let away = pop.followers(leader)[0];
    pop.track(leader, events(0..5, 1)).await;
    pop.stop(away).await;
    for id in 5..205 {
        pop.track(leader, vec![event(id, (id % 9) as u64)]).await;
    }
    pop.until("the leader made a snapshot and let the log go", |pop| {
        pop.store(leader).status().snapshot > 100 && pop.nodes[&leader].counter("snapshots_total") > 0.0
    })
    .await;
    pop.boot(away).await;
    pop.assert_equal().await;
    assert!(pop.nodes[&away].counter("snapshots_installed_total") >= 1.0);
    let again = pop.track(away, events(0..205, 1)).await;
    assert_eq!(again.effect, Effect::Tracked { accepted: 0, duplicates: 205 });
    // And it goes on by log after that, across a restart.
    pop.stop(away).await;
    pop.track(leader, events(205..210, 2)).await;
    pop.boot(away).await;
    pop.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_majority_acknowledges_nothing() {
    let pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    pop.track(leader, events(0..5, 1)).await;
    pop.isolate(leader);
    let alone = Command::Track { events: vec![event(99, 1)], received_at_ms: 1 };
    let late = pop.store(leader).propose(alone, Instant::now() + Duration::from_millis(300)).await;
    assert!(late.is_err_and(|error| is_unavailable(&error)));
    let soon = Instant::now() + Duration::from_millis(300);
    assert!(pop.store(leader).read_index(soon).await.is_err(), "nor does it answer a linearizable read");
    let other = pop.followers(leader)[0];
    pop.track(other, events(10..20, 2)).await;
    assert_eq!(
        pop.store(leader).view(&visitor(2)).profile.events,
        0,
        "a local read goes on, from what it has"
    );
    pop.network.heal_all();
    pop.leader().await;
    pop.assert_equal().await;
    let again = pop.track(leader, vec![event(99, 1)]).await.effect;
    let Effect::Tracked { accepted, duplicates } = again else { panic!("{again:?}") };
    assert_eq!(accepted + duplicates, 1, "unknown was the truth: it is there now, once");
    pop.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_sees_what_was_acknowledged_before() {
    let pop = Pop::start(3, |_| {}).await;
    for round in 0..9 {
        let writer = 1 + round % 3;
        let index = pop.track(writer, vec![event(u128::from(round), 1)]).await.index;
        for reader in 1..=3 {
            let read = pop.store(reader).read_index(Instant::now() + SOON).await.unwrap();
            assert!(read >= index, "read index {read} of what was written at {index}");
            assert!(pop.store(reader).wait_applied(read, SOON).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outbox_hands_out_in_order_and_forgets_what_the_cloud_holds() {
    let pop = Pop::start(3, |_| {}).await;
    for first in (0..100).step_by(10) {
        pop.track(1 + first as u64 / 10 % 3, events(first..first + 10, 1)).await;
    }
    pop.assert_equal().await;
    for node in 1..=3 {
        let out = pop.store(node).outbox(Offset(0), 1_000, usize::MAX).await.unwrap();
        let offsets: Vec<_> = out.iter().map(|(offset, _)| offset.0).collect();
        assert_eq!(offsets, (1..=100).collect::<Vec<_>>());
        let ids: Vec<_> = out.iter().map(|(_, event)| event.id.0.as_u128()).collect();
        assert_eq!(ids, (0..100).collect::<Vec<_>>(), "one visitor's events keep their order");
        assert_eq!(pop.store(node).outbox(Offset(90), 3, usize::MAX).await.unwrap(), out[90..93]);
    }
    let mut changes = pop.store(3).changes();
    assert_eq!(propose(pop.store(2), Command::Acknowledge { upto: Offset(60) }).await.unwrap(), Effect::Done);
    let waited =
        tokio::time::timeout(SOON, changes.wait_for(|applied| applied.acknowledged == Offset(60))).await;
    assert_eq!(waited.unwrap().unwrap().last_offset, Offset(100));
    assert_eq!(pop.store(3).acknowledged(), Offset(60));
    let rest = pop.store(3).outbox(Offset(0), 1_000, usize::MAX).await.unwrap();
    assert_eq!((rest.len(), rest[0].0), (40, Offset(61)));
    let beyond = propose(pop.store(1), Command::Acknowledge { upto: Offset(101) }).await.unwrap();
    assert!(matches!(beyond, Effect::Refused(error) if error.code == Code::OutOfOrder));
    pop.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_becomes_active_on_all_nodes() {
    let pop = Pop::start(3, |_| {}).await;
    assert_eq!(pop.store(1).active_manifest(), None);
    let activate = |revision| Command::Activate { manifest: manifest(revision) };
    assert_eq!(
        propose(pop.store(2), activate(4)).await.unwrap(),
        Effect::Activated { revision: Revision(4) }
    );
    assert_eq!(
        propose(pop.store(3), activate(5)).await.unwrap(),
        Effect::Activated { revision: Revision(5) }
    );
    let older = propose(pop.store(1), activate(5)).await.unwrap();
    assert!(matches!(older, Effect::Refused(error) if error.code == Code::Conflict));
    for node in 1..=3 {
        let mut changes = pop.store(node).changes();
        tokio::time::timeout(SOON, changes.wait_for(|applied| applied.revision == Revision(5)))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(pop.store(node).active_manifest(), Some(manifest(5)));
        assert_eq!(pop.store(node).previous_manifest(), Some(manifest(4)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_ride_along_or_go_alone() {
    let pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    for node in 1..=3 {
        let served =
            Command::Served { visitor: visitor(node), items: vec![ItemId::new("a").unwrap()], at_ms: 1 };
        assert!(pop.store(node).try_note(served));
    }
    let seen =
        |pop: &Pop, node| pop.store(leader).view(&visitor(node)).profile.seen("a").map(|seen| seen.served);
    pop.until("notes of all nodes are applied", |pop| (1..=3).all(|node| seen(pop, node) == Some(1))).await;
    pop.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_at_once() {
    let pop = Pop::start(3, |config| {
        config.queue_len_max = 4;
        config.note_queue_len_max = 4;
        config.groups_in_flight_max = 1;
    })
    .await;
    let leader = pop.leader().await;
    pop.isolate(leader);
    let store = pop.store(leader);
    let track = |id| {
        let (store, until) = (store.clone(), Instant::now() + Duration::from_secs(3));
        async move { store.propose(Command::Track { events: vec![event(id, 1)], received_at_ms: 1 }, until).await }
    };
    // The first goes on its way and stays there; four wait.
    let groups = pop.nodes[&leader].counter("group_len");
    let first = tokio::spawn(track(0));
    pop.until("it is on its way", |pop| pop.nodes[&leader].counter("group_len") > groups).await;
    let mut results = futures::future::join_all((1..40).map(track)).await;
    results.push(first.await.unwrap());
    let refused =
        results.iter().filter(|result| matches!(result, Err(StoreError::Overloaded { .. }))).count();
    let unknown = results.iter().filter(|result| result.as_ref().is_err_and(is_unavailable)).count();
    assert_eq!((refused, unknown), (35, 5));
    let served = || Command::Served { visitor: visitor(1), items: Vec::new(), at_ms: 1 };
    pop.until("the queue of notes is full", |_| !store.try_note(served())).await;
    assert!(pop.nodes[&leader].counter("notes_dropped_total") >= 1.0);
}

/// It sends, and hears nobody: its heartbeats must not keep the others from electing another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_deaf_and_not_dumb_is_replaced() {
    let pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    let others = pop.followers(leader);
    for other in &others {
        pop.network.partition(&format!("node-{other}"), &format!("node-{leader}"));
    }
    let began = Instant::now();
    let mut id = 0;
    loop {
        id += 1;
        let track = Command::Track { events: vec![event(id, 1)], received_at_ms: 1 };
        if let Ok(proposed) = pop.store(others[0]).propose(track, Instant::now() + SOON).await {
            assert!(pop.store(others[1]).wait_applied(proposed.index, SOON).await);
            break;
        }
        assert!(began.elapsed() < PATIENCE, "nobody replaced a deaf leader");
    }
}

/// Its links are given up after 5 s of silence only: what was on its way to it goes to the next leader long before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_does_not_wait_for_a_leader_that_fell_silent() {
    let pop = Pop::start(3, |_| {}).await;
    let leader = pop.leader().await;
    let follower = pop.followers(leader)[0];
    pop.track(follower, vec![event(1, 1)]).await;
    pop.isolate(leader);
    let track = Command::Track { events: vec![event(2, 1)], received_at_ms: 1 };
    let deadline = Instant::now() + Duration::from_secs(4);
    let effect = pop.store(follower).propose(track, deadline).await.unwrap().effect;
    assert_eq!(effect, Effect::Tracked { accepted: 1, duplicates: 0 });
}

/// Nothing that it takes commits, and nothing is purged: its log must not grow with every client that tries again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_does_not_fill_its_disk() {
    let pop = Pop::start(3, |config| {
        config.groups_in_flight_max = 64;
        config.group_commit_len_max = 1;
    })
    .await;
    let leader = pop.leader().await;
    pop.isolate(leader);
    let store = pop.store(leader);
    let track = |id| {
        let (store, until) = (store.clone(), Instant::now() + Duration::from_millis(20));
        async move { store.propose(Command::Track { events: vec![event(id, 1)], received_at_ms: 1 }, until).await }
    };
    for round in 0..40 {
        let results = futures::future::join_all((0..50).map(|n| track(round * 50 + n))).await;
        assert!(results.iter().all(Result::is_err));
    }
    let waiting = store.status().last_log - store.status().applied;
    assert!(waiting < 512 + 64, "{waiting} entries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_or_too_much_is_refused_before_raft() {
    let pop = Pop::start(1, |config| config.outbox_len_max = 10).await;
    let many = Command::Track { events: events(0..501, 1), received_at_ms: 1 };
    assert_eq!(propose(pop.store(1), many).await.unwrap_err().code(), Code::Invalid);
    let large = SignedManifest { manifest: vec![0; 4 << 20], signature: Vec::new() };
    let large = propose(pop.store(1), Command::Activate { manifest: large }).await;
    assert_eq!(large.unwrap_err().code(), Code::TooLarge);
    pop.track(1, events(0..10, 1)).await;
    let full = propose(pop.store(1), Command::Track { events: vec![event(11, 1)], received_at_ms: 1 }).await;
    let full = full.unwrap_err();
    assert!(matches!(full, StoreError::Overloaded { retry_after_ms, .. } if retry_after_ms > 0), "{full}");
    propose(pop.store(1), Command::Acknowledge { upto: Offset(5) }).await.unwrap();
    pop.track(1, vec![event(11, 1)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over() {
    let pop = Pop::start(3, |_| {}).await;
    let first = pop.leader().await;
    let follower = pop.followers(first)[0];
    assert!(matches!(pop.store(follower).transfer_leadership().await, Err(StoreError::NotLeader(_))));
    pop.store(first).transfer_leadership().await.unwrap();
    let second = pop.leader().await;
    assert_ne!(first, second);
    pop.track(first, events(0..5, 1)).await;
    pop.assert_equal().await;
}
