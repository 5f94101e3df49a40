//! The node: what `edge_node::node` puts together of store, uplink and bundles, over the in-memory form of links.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edge_node::bundles::{ActiveBundle, Bundles, Folder, Refusal, Sources};
use edge_node::commits::caught_up_leader;
use edge_node::metrics::Metrics;
use edge_serving::{Budget, Scratch, Stage, decide};
use edge_store::{Store, StoreConfig};
use edge_uplink::{CloudLink, Reports, UplinkConfig};
use inference::{Engine, PublicKey};
use prometheus::Registry;
use proto::client::{Recommend, ServedBy};
use proto::control::{AnswerCounts, NodeReport, Role, Standing};
use proto::profile::{Interaction, Profile, Signal, View};
use proto::{NodeId, PopId, Revision, SlotId, UserId, VisitorId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;
use transport::Identity;
use transport::memory::Network;

use crate::cloud::{ADDRESS, Cloud};

const PEERS: &str = "node-1:peers";
/// How long the node may take until it leads.
const LEADS_WITHIN: Duration = Duration::from_secs(20);

pub struct Node {
    pub cloud: Cloud,
    store: Store,
    active: ActiveBundle,
    refusal: watch::Receiver<Refusal>,
    scratch: Scratch,
    dir: tempfile::TempDir,
    _stop: DropGuard,
}

/// Time for everything.
struct Always;

impl Budget for Always {
    fn allows(&self, _: Stage) -> bool {
        true
    }
}

impl Node {
    pub async fn start(trusted: Vec<PublicKey>, seed: u64) -> Self {
        let (network, registry, stop) = (Network::new(seed), Registry::new(), CancellationToken::new());
        let dir = tempfile::tempdir().unwrap();
        let (pop, id) = (PopId::new("pop-a").unwrap(), NodeId(1));
        let identity = Identity::Node { pop: pop.clone(), node: id };
        let dialer: Arc<dyn transport::Dialer> = Arc::new(network.dialer("node-1", Some(identity)));
        let cloud = Cloud::start(&network);
        let config = StoreConfig::new(pop.clone(), id, dir.path().join("store"), PEERS);
        let store = Store::open(config, dialer.clone(), &registry).await.unwrap();
        store.form(BTreeMap::from([(id, PEERS.to_owned())])).await.unwrap();

        let link = CloudLink::new(uplink(), dialer.clone(), edge_uplink::Metrics::new(&registry).unwrap());
        let (of_link, until) = (link.clone(), stop.clone());
        let reports = Reports { report: Arc::new(report), standing: Arc::new(Standing::default) };
        tokio::spawn(async move { of_link.run(reports, until).await });
        let folder = Folder::open(dir.path().join("artifacts")).unwrap();
        let (active, refusal) = (ActiveBundle::default(), watch::Sender::new(Refusal::default()));
        let heard = refusal.subscribe();
        let mut leader = caught_up_leader(store.clone(), stop.clone());
        let sources = Sources { folder, cloud: link.clone(), store: store.clone(), dialer, pop, node: id };
        let bundles = Bundles {
            engine: Engine::tract(),
            trusted,
            sources,
            store: store.clone(),
            cloud: link,
            active: active.clone(),
            leader: leader.clone(),
            refusal,
            metrics: Metrics::new(&registry).unwrap(),
        };
        tokio::time::timeout(LEADS_WITHIN, leader.wait_for(|leads| *leads)).await.unwrap().unwrap();
        tokio::spawn(bundles.run(stop.clone()));
        Self {
            cloud,
            store,
            active,
            refusal: heard,
            scratch: Scratch::default(),
            dir,
            _stop: stop.drop_guard(),
        }
    }

    /// Waits until a good bundle is active and served from.
    pub async fn serves(&mut self, revision: u64, within: Duration) {
        let serving = async {
            // A bundle is served from before the refusal of the one before it is taken back.
            let mut applied = self.store.changes();
            applied.wait_for(|applied| applied.revision == Revision(revision)).await.unwrap();
            while self.active.revision() != Revision(revision) {
                tokio::task::yield_now().await;
            }
            self.refusal.wait_for(|refusal| refusal.reason.is_none()).await.unwrap();
        };
        tokio::time::timeout(within, serving).await.unwrap_or_else(|_| {
            panic!("good bundle {revision} is not served from: {:?}", self.refusal.borrow().clone())
        });
        self.answers_from(revision);
    }

    /// Waits until the bundle that was announced as this is refused; gives why.
    pub async fn refuses(&mut self, announced: u64, within: Duration) -> String {
        let begins = format!("bundle {announced} is refused: ");
        let refused = |refusal: &Refusal| refusal.reason.as_ref().is_some_and(|why| why.starts_with(&begins));
        match tokio::time::timeout(within, self.refusal.wait_for(refused)).await {
            Ok(refusal) => refusal.unwrap().reason.clone().unwrap_or_default(),
            Err(_) => panic!("bundle {announced} was not refused: {:?}", self.active.revision()),
        }
    }

    /// The last known good is active, and its models rank an answer, now.
    pub fn answers_from(&mut self, revision: u64) {
        assert_eq!(self.store.changes().borrow().revision, Revision(revision), "what Raft made active");
        let serving = self.active.load().unwrap();
        assert_eq!(serving.prepared.bundle().manifest.revision, Revision(revision), "what is served from");
        let item = "i1".parse().unwrap();
        let met = Interaction { item, signal: Signal::Click, stars: 0.0, at_ms: 1 };
        let profile = Profile { interactions: vec![met], ..Profile::default() };
        let view = View { profile, ..self.store.view(&visitor()) };
        let ask = Recommend {
            visitor: visitor(),
            slot: SlotId::new("home").unwrap(),
            count: 5,
            context: Vec::new(),
            exclude: Vec::new(),
            token: None,
        };
        let decision = decide(&serving.prepared, &view, &ask, 20, 2, &Always, &mut self.scratch);
        assert_eq!(
            (decision.served_by, decision.items.len()),
            (Some(ServedBy::Ranked), 5),
            "{:?}",
            decision.failed
        );
    }

    /// How many files the node keeps of bundles.
    pub fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("artifacts")).unwrap().count()
    }
}

fn visitor() -> VisitorId {
    VisitorId::User(UserId::new("ada").unwrap())
}

fn uplink() -> UplinkConfig {
    UplinkConfig {
        cloud: ADDRESS.to_owned(),
        batch_len_max: 100,
        batch_bytes_max: 1 << 20,
        linger_ms: 1,
        timeout_ms: 5_000,
        backoff_ms: 10,
        backoff_max_ms: 100,
        acknowledge_every_ms: 500,
        report_every_ms: 1_000,
    }
}

fn report() -> NodeReport {
    NodeReport {
        role: Role::Leader,
        term: 1,
        applied: 0,
        last_log: 0,
        outbox: 0,
        revision: Revision(0),
        retrieval: None,
        ranker: None,
        engine: "tract".into(),
        in_flight: 0,
        bundle_error: None,
        client_address: String::new(),
        unfit: Revision(0),
        answers: AnswerCounts::default(),
    }
}
