//! Sessions, choosing the nearest node, learning others, ageing connections, closing.

use std::sync::Arc;
use std::time::Duration;

use client_sdk::{Code, SdkError};
use transport::memory::Settings;

use crate::pop::{APP_KEY, Manner, MemoryPop, PATIENCE, address, custom, home, preferred, until, visitor};

#[tokio::test]
async fn a_session_is_the_first_thing_said_on_every_connection() {
    let memory = MemoryPop::new(3);
    let client = memory.client(&[1, 2, 3]).await;
    let visitor = visitor("ada");
    for _ in 0..2 {
        client.recommend(home(&visitor)).await.unwrap();
        memory.network.kill(&format!("node-{}", preferred(&client)));
    }
    client.recommend(home(&visitor)).await.unwrap();
    assert_eq!(memory.pop.unannounced(), 0);
    assert!(memory.pop.sessions().len() >= 3, "{:?}", memory.pop.sessions());
}

#[tokio::test]
async fn the_nearest_of_several_nodes_is_chosen() {
    let settings = [25, 1, 60].map(|latency_ms| Settings { latency_ms, jitter_ms: 0, ..Settings::default() });
    let memory = MemoryPop::with(&settings);
    let mut config = memory.config(&[1, 2, 3]);
    config.timing.connect_grace_ms = 2_000;
    let client = memory.client_with(config).await;
    assert_eq!(preferred(&client), 2);
    client.recommend(home(&visitor("ada"))).await.unwrap();
    assert_eq!(memory.pop.asked()[0].node, 2);
}

#[tokio::test]
async fn after_a_failover_the_client_returns_to_the_nearest_node_when_it_is_back() {
    let settings = [1, 30].map(|latency_ms| Settings { latency_ms, jitter_ms: 0, ..Settings::default() });
    let mut memory = MemoryPop::with(&settings);
    let mut config = memory.config(&[1, 2]);
    config.timing.connect_grace_ms = 2_000;
    config.timing.remeasure_soon_ms = 50;
    config.timing.connect_timeout_ms = 1_000;
    let client = memory.client_with(config).await;
    assert_eq!(preferred(&client), 1);
    memory.network.kill("node-1");
    client.recommend(home(&visitor("ada"))).await.unwrap();
    assert_eq!(preferred(&client), 2);
    memory.start(1, settings[0].clone());
    // The far node answers all the while; only measuring again finds out that the near one is back.
    let returned = async {
        while preferred(&client) != 1 {
            client.recommend(home(&visitor("ada"))).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, returned).await.expect("it returns");
}

#[tokio::test]
async fn a_wrong_key_is_said_at_once_and_is_not_an_outage() {
    let memory = MemoryPop::new(1);
    let mut config = memory.config(&[1]);
    config.app_key = "another".into();
    let error = memory.try_client(config).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    assert!(!error.to_string().contains("another") && !format!("{error:?}").contains(APP_KEY));
}

#[tokio::test]
async fn without_a_node_connecting_fails_unless_the_app_may_start_offline() {
    let mut memory = MemoryPop::new(0);
    let mut config = memory.config(&[1]);
    config.timing.connect_timeout_ms = 50;
    let error = memory.try_client(config.clone()).await.unwrap_err();
    assert!(matches!(error, SdkError::Link { .. }), "{error}");
    config.start_offline = true;
    let client = memory.client_with(config).await;
    client.track(&visitor("ada"), custom("offline")).await.unwrap();
    let error =
        client.recommend(home(&visitor("ada")).deadline(Duration::from_millis(80))).await.unwrap_err();
    assert!(matches!(error, SdkError::Deadline { .. } | SdkError::Unavailable { .. }), "{error}");
    memory.start(1, Settings::default());
    client.flush(PATIENCE).await.unwrap();
    client.recommend(home(&visitor("ada"))).await.unwrap();
}

#[tokio::test]
async fn nodes_are_learned_from_a_session() {
    let memory = MemoryPop::new(3);
    memory.pop.announce((1..=3).map(address).collect());
    let client = memory.client(&[1]).await;
    memory.network.kill("node-1");
    client.recommend(home(&visitor("ada"))).await.unwrap();
    assert_ne!(memory.pop.asked()[0].node, 1);
}

#[tokio::test]
async fn connections_that_reach_their_maximum_age_are_replaced_unnoticed() {
    let settings = Settings { connection_age_max_ms: 40, drain_ms: 200, ..Settings::default() };
    let memory = MemoryPop::with(&[settings.clone(), settings]);
    let client = memory.client(&[1, 2]).await;
    let mut answered = 0;
    while memory.pop.sessions().len() < 8 {
        client.recommend(home(&visitor("ada"))).await.unwrap();
        client.track(&visitor("ada"), custom("again")).await.unwrap();
        answered += 1;
    }
    client.flush(PATIENCE).await.unwrap();
    let stats = client.stats();
    assert_eq!((stats.answers, stats.failures), (answered, 0));
    assert_eq!(memory.pop.events().len() as u64, answered);
    assert_eq!(memory.pop.unannounced(), 0);
}

#[tokio::test]
async fn closing_ends_what_waits_and_frees_the_queue() {
    let memory = MemoryPop::new(1);
    let folder = tempfile::tempdir().unwrap();
    let mut config = memory.config(&[1]);
    config.queue_dir = Some(folder.path().to_owned());
    let client = memory.client_with(config.clone()).await;
    let locked = memory.try_client(config.clone()).await.unwrap_err();
    assert!(matches!(locked, SdkError::QueueLocked { .. }), "{locked}");
    memory.pop.set(1, Manner::Silent);
    client.track(&visitor("ada"), custom("waits")).await.unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.recommend(home(&visitor("ada"))).await }
    });
    let flushing = tokio::spawn({
        let client = client.clone();
        async move { client.flush(PATIENCE).await }
    });
    tokio::task::yield_now().await;
    client.close().await;
    assert!(matches!(waiting.await.unwrap(), Err(SdkError::Closed)));
    assert!(matches!(flushing.await.unwrap(), Err(SdkError::Closed)));
    assert!(matches!(client.track(&visitor("ada"), custom("late")).await, Err(SdkError::Closed)));
    memory.pop.set(1, Manner::Serve);
    let again = memory.client_with(config).await;
    again.flush(PATIENCE).await.unwrap();
    assert_eq!(memory.pop.events().len(), 1);
}

#[tokio::test]
async fn a_dropped_client_stops_by_itself() {
    let memory = MemoryPop::new(1);
    let folder = tempfile::tempdir().unwrap();
    let mut config = memory.config(&[1]);
    config.queue_dir = Some(folder.path().to_owned());
    let client = memory.client_with(config.clone()).await;
    drop(client.clone());
    client.recommend(home(&visitor("ada"))).await.unwrap();
    drop(client);
    // Its tasks end, and with them the last hold on the queue's folder.
    let again = async {
        loop {
            match memory.try_client(config.clone()).await {
                Ok(client) => break client,
                Err(SdkError::QueueLocked { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("the folder is free again");
}

#[tokio::test]
async fn many_clients_share_a_dialer() {
    let memory = MemoryPop::new(3);
    let dialer: Arc<dyn transport::Dialer> = Arc::new(memory.network.dialer("app", None));
    let mut clients = Vec::new();
    for _ in 0..50 {
        let config = memory.config(&[1, 2, 3]);
        clients.push(client_sdk::Client::connect_with(Arc::clone(&dialer), config).await.unwrap());
    }
    let mut per_node = [0; 4];
    for (n, client) in clients.iter().enumerate() {
        client.recommend(home(&visitor(&format!("visitor-{n}")))).await.unwrap();
        per_node[usize::try_from(preferred(client)).unwrap()] += 1;
    }
    assert!(
        per_node[1..].iter().all(|clients| *clients >= 3),
        "equally near nodes share the clients: {per_node:?}"
    );
    until("every session is counted", || memory.pop.sessions().len() >= 50).await;
}
