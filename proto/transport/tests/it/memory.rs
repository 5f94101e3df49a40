//! The in-memory form: the suite, and what only it can do: repeat, part, die.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use proto::peer::{PeerReply, PeerRequest, RaftCall};
use tokio::time::Instant;
use transport::conformance::{self, Form, Limits};
use transport::memory::{Network, Settings};
use transport::{Dialer, Door, Identity, Link, LinkErrorKind, Listener, Peer, call};

use crate::setup::{node, pop};

const PATIENCE: Duration = Duration::from_secs(20);

struct Memory {
    network: Network,
    made: AtomicUsize,
}

impl Memory {
    fn next(&self) -> usize {
        self.made.fetch_add(1, Ordering::Relaxed)
    }
}

#[async_trait]
impl Form for Memory {
    async fn listener(
        &self,
        identity: &Identity,
        door: &Door,
        limits: &Limits,
    ) -> (Arc<dyn Listener>, String) {
        let settings = Settings {
            idle_timeout_ms: limits.idle_timeout_ms,
            max_bidi_streams: limits.max_bidi_streams as usize,
            stream_window_bytes: limits.stream_window_bytes as usize,
            max_connections: limits.max_connections,
            connection_age_max_ms: limits.connection_age_max_ms,
            drain_ms: limits.drain_ms,
            ..Settings::default()
        };
        let address = format!("listener-{}:door", self.next());
        let listener =
            self.network.listener_with(&address, identity.clone(), door.clone(), settings).unwrap();
        let address = listener.local_address();
        (Arc::new(listener), address)
    }

    async fn dialer(&self, identity: Option<&Identity>, _: &Door, _: &Limits) -> Arc<dyn Dialer> {
        Arc::new(self.network.dialer(&format!("dialer-{}", self.next()), identity.cloned()))
    }

    async fn cut(&self, address: &str) {
        let host = address.split(':').next().unwrap();
        for other in 0..self.made.load(Ordering::Relaxed) {
            self.network.isolate(host, &[&format!("dialer-{other}")]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn passes_the_suite() {
    for seed in 0..20 {
        println!("seed {seed}");
        conformance::run(&Memory { network: Network::new(seed), made: AtomicUsize::new(0) }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_on_threads_and_a_real_clock() {
    conformance::run(&Memory { network: Network::new(1), made: AtomicUsize::new(0) }).await;
}

/// Two hosts, `a` and `b`, and a link that `a` dialed.
struct Two {
    network: Network,
    near: Arc<dyn Link>,
    far: Arc<dyn Link>,
    dialer: Arc<dyn Dialer>,
    listener: Arc<dyn Listener>,
}

impl Two {
    async fn new(seed: u64) -> Self {
        let network = Network::new(seed);
        let door = Door::Peers { pop: pop("pop-a") };
        let settings = Settings { latency_ms: 5, jitter_ms: 20, ..Settings::default() };
        let listener: Arc<dyn Listener> =
            Arc::new(network.listener_with("b:peer", node("pop-a", 2), door, settings).unwrap());
        let dialer: Arc<dyn Dialer> = Arc::new(network.dialer("a", Some(node("pop-a", 1))));
        let (near, far) = join(&*dialer, &*listener).await;
        Self { network, near, far, dialer, listener }
    }

    fn serve(&self) {
        let link = Arc::clone(&self.far);
        tokio::spawn(async move {
            while let Ok(mut stream) = link.accept().await {
                if let Ok(PeerRequest::Raft { body, .. }) = stream.recv().await {
                    // Who is gone wants no answer.
                    let _ = stream.send(&PeerReply::Raft(body)).await;
                }
            }
        });
    }
}

async fn join(dialer: &dyn Dialer, listener: &dyn Listener) -> (Arc<dyn Link>, Arc<dyn Link>) {
    let expect = expect();
    let (near, far) = tokio::join!(dialer.dial("b:peer", &expect, PATIENCE), listener.accept());
    (near.unwrap(), far.unwrap())
}

fn expect() -> Peer {
    Peer::AnyNodeOf(pop("pop-a"))
}

fn request(body: &[u8]) -> PeerRequest {
    PeerRequest::Raft { call: RaftCall::Vote, body: body.to_vec() }
}

async fn ask(link: &dyn Link, timeout: Duration) -> Result<PeerReply, LinkErrorKind> {
    call(link, &request(b"?"), timeout).await.map_err(|e| e.kind)
}

/// When each of some concurrent requests was answered.
async fn answer_times(seed: u64) -> Vec<(u8, Duration)> {
    let two = Two::new(seed).await;
    two.serve();
    let start = Instant::now();
    let mut asked = tokio::task::JoinSet::new();
    for i in 0..50u8 {
        let link = Arc::clone(&two.near);
        asked.spawn(async move {
            let reply: PeerReply = call(&*link, &request(&[i]), PATIENCE).await.unwrap();
            assert_eq!(reply, PeerReply::Raft(vec![i]));
            (i, start.elapsed())
        });
    }
    asked.join_all().await
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    let first = answer_times(7).await;
    assert_eq!(first, answer_times(7).await);
    assert_ne!(first, answer_times(8).await, "jitter comes from the seed");
}

#[tokio::test(start_paused = true)]
async fn a_short_partition_only_delays() {
    let two = Two::new(1).await;
    two.serve();
    two.network.partition("a", "b");
    let start = Instant::now();
    let (near, network) = (Arc::clone(&two.near), two.network.clone());
    let asking = tokio::spawn(async move { ask(&*near, PATIENCE).await });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!asking.is_finished());
    network.heal("a", "b");
    assert_eq!(asking.await.unwrap().unwrap(), PeerReply::Raft(b"?".to_vec()));
    assert!(start.elapsed() >= Duration::from_secs(3) && start.elapsed() < Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn a_partition_may_go_one_way() {
    let two = Two::new(2).await;
    two.network.partition("b", "a");
    let asking = {
        let near = Arc::clone(&two.near);
        tokio::spawn(async move { ask(&*near, Duration::from_secs(2)).await })
    };
    // Requests arrive, replies do not.
    let mut stream = two.far.accept().await.unwrap();
    stream.recv::<PeerRequest>().await.unwrap();
    stream.send(&PeerReply::Done).await.unwrap();
    assert!(matches!(asking.await.unwrap(), Err(LinkErrorKind::Timeout)));
}

#[tokio::test(start_paused = true)]
async fn a_long_partition_loses_the_link() {
    let two = Two::new(3).await;
    let start = Instant::now();
    two.network.isolate("a", &["b"]);
    two.near.closed().await;
    two.far.closed().await;
    assert_eq!(start.elapsed(), Duration::from_millis(Settings::default().idle_timeout_ms));
    let dialed = two.dialer.dial("b:peer", &expect(), Duration::from_secs(1)).await;
    assert!(matches!(dialed.unwrap_err().kind, LinkErrorKind::Timeout));
    two.network.heal_all();
    join(&*two.dialer, &*two.listener).await;
}

#[tokio::test(start_paused = true)]
async fn dropped_links_end_on_both_sides_and_can_be_made_anew() {
    let two = Two::new(4).await;
    two.network.drop_links("b", "a");
    assert!(two.near.is_closed() && two.far.is_closed());
    let (near, far) = join(&*two.dialer, &*two.listener).await;
    assert!(!near.is_closed() && !far.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_killed_host_is_silent_and_has_a_next_life() {
    let two = Two::new(5).await;
    let start = Instant::now();
    two.network.kill("b");
    assert!(two.far.is_closed(), "its own ends are gone at once");
    assert!(two.listener.accept().await.is_none());
    assert!(!two.near.is_closed(), "nobody was told");
    two.near.closed().await;
    assert_eq!(start.elapsed(), Duration::from_millis(Settings::default().idle_timeout_ms));

    let door = Door::Peers { pop: pop("pop-a") };
    let again = two.network.listener("b:peer", node("pop-a", 2), door).unwrap();
    join(&*two.dialer, &again).await;
    two.network.kill("a");
    let dialed = two.dialer.dial("b:peer", &expect(), PATIENCE).await;
    assert!(matches!(dialed.unwrap_err().kind, LinkErrorKind::Closed(_)), "a dialer of a former life");
}

#[tokio::test(start_paused = true)]
async fn an_address_is_taken_once() {
    let network = Network::new(6);
    let door = Door::Clients;
    let first = network.listener("a:client", node("pop-a", 1), door.clone()).unwrap();
    let second = network.listener("a:client", node("pop-a", 1), door.clone()).unwrap_err();
    assert!(matches!(second.kind, LinkErrorKind::Io(_)));
    drop(first);
    network.listener("a:client", node("pop-a", 1), door).unwrap();
}
