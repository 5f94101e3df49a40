//! Everybody crashes, and what was acknowledged is there.

use proto::command::Effect;

use crate::pop::{Pop, event, events, visitor};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_crash_and_nothing_is_lost() {
    let mut pop = Pop::start(3, |config| {
        config.snapshot_every = 60;
        config.log_keep = 10;
    })
    .await;
    let mut acknowledged = 0;
    for round in 0..4 {
        for _ in 0..40 {
            pop.track(1 + round % 3, vec![event(acknowledged, (acknowledged % 5) as u64)]).await;
            acknowledged += 1;
        }
        for node in 1..=3 {
            pop.crash(node).await;
        }
        for node in 1..=3 {
            pop.boot(node).await;
        }
        let again = pop.track(2, events(0..acknowledged, 0)).await;
        let duplicates = u32::try_from(acknowledged).unwrap();
        assert_eq!(again.effect, Effect::Tracked { accepted: 0, duplicates }, "round {round}");
        pop.assert_equal().await;
    }
    let counted: u64 = (0..5).map(|who| pop.store(3).view(&visitor(who)).profile.events).sum();
    assert_eq!(u128::from(counted), acknowledged);
}

/// Each node in turn loses its state machine (another boot), and has it back from snapshot and log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_comes_back_from_snapshot_and_log() {
    let mut pop = Pop::start(3, |config| {
        config.snapshot_every = 50;
        config.log_keep = 10;
    })
    .await;
    for id in 0..130 {
        pop.track(1, vec![event(id, (id % 5) as u64)]).await;
    }
    for node in 1..=3 {
        pop.stop(node).await;
        let mark = pop.dir(node).join("state.mark");
        std::fs::write(&mark, "boot of-another-time\ntree 0\n").unwrap();
        pop.boot(node).await;
        pop.leader().await;
        pop.assert_equal().await;
    }
    let again = pop.track(1, events(0..130, 0)).await;
    assert_eq!(again.effect, Effect::Tracked { accepted: 0, duplicates: 130 });
}
