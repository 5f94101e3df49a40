//! What the tests share: a deployment with small models, clients, and conditions to wait for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use client_sdk::{Client, UserId, VisitorId};
use inference::Signer;
use inference::testing::{self, SignedBundle};
use proto::NodeId;
use proto::bundle::ArtifactKind;
use rockpool::load::Plan;
use rockpool::local::{Deployment, Options, Overrides};
use tokio::sync::{Mutex, MutexGuard};

pub const READY: Duration = Duration::from_secs(60);
pub const ITEMS: usize = 400;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Deployments are for 2 cores and more: one at a time.
pub async fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().await
}

/// A deployment that serves, in a folder that goes with it.
pub struct Pop {
    pub deployment: Deployment,
    _folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Pop {
    /// Three nodes that serve the tiny models.
    pub async fn serving() -> Self {
        Self::serving_with(Overrides::default()).await
    }

    pub async fn serving_with(overrides: Overrides) -> Self {
        let pop = Self::start(3, overrides).await;
        let control = pop.deployment.control().unwrap();
        rockpool::publish::publish(&control, tiny_artifacts(), "test").await.unwrap();
        pop.deployment.until_ready(READY).await.unwrap();
        pop
    }

    pub async fn start(nodes: u64, mut overrides: Overrides) -> Self {
        // Other tests keep the machine busy; a node that leaves its models out for that looks like a bundle that fails. Tests of
        // shedding set their own.
        overrides.node.insert(0, ("clients.delay_max_ms".into(), 10_000.into()));
        let turn = turn().await;
        let folder = tempfile::tempdir().unwrap();
        let options = Options { dir: folder.path().to_owned(), nodes, overrides };
        let deployment = Deployment::start(options).await.unwrap();
        Self { deployment, _folder: folder, _turn: turn }
    }

    pub async fn client(&self) -> Client {
        self.client_with_queue(None).await
    }

    /// A client that knows all nodes, and keeps its events in `queue`.
    pub async fn client_with_queue(&self, queue: Option<&Path>) -> Client {
        let nodes: Vec<NodeId> = self.deployment.ports().keys().copied().collect();
        let mut config = self.deployment.client_config(&nodes).unwrap();
        config.queue_dir = queue.map(PathBuf::from);
        Client::connect_with(self.deployment.app_dialer().unwrap(), config).await.unwrap()
    }

    pub async fn clients(&self, count: usize) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(self.client().await);
        }
        clients
    }

    /// Waits until the cloud has counted exactly the events that were acknowledged to these clients.
    pub async fn counted(&self, clients: &[Client]) {
        for client in clients {
            client.flush(Duration::from_secs(60)).await.unwrap();
        }
        let acknowledged: u64 = clients.iter().map(Client::stats).map(|s| s.accepted + s.duplicates).sum();
        let tracked: u64 = clients.iter().map(Client::stats).map(|s| s.tracked).sum();
        assert_eq!(acknowledged, tracked, "every event was acknowledged once");
        self.deployment
            .until("the cloud holds every event", Duration::from_secs(60), async |this: &Deployment| {
                let total = this.control()?.event_counts().await?.total;
                anyhow::ensure!(total >= acknowledged, "{total} of {acknowledged}");
                Ok(())
            })
            .await
            .unwrap();
        let total = self.deployment.control().unwrap().event_counts().await.unwrap().total;
        assert_eq!(total, acknowledged, "nothing is counted twice");
    }
}

/// Catalog, rules and two tiny models.
pub fn tiny_artifacts() -> Vec<(ArtifactKind, Vec<u8>)> {
    let bundle = tiny_bundle(&Signer::from_seed(&[7; 32]), 1);
    ArtifactKind::ALL.into_iter().filter_map(|kind| Some((kind, bundle.artifact(kind)?))).collect()
}

pub fn tiny_bundle(signer: &Signer, revision: u64) -> SignedBundle {
    testing::bundle(signer, revision, ITEMS, 1)
}

pub fn visitors(count: usize) -> Vec<VisitorId> {
    (0..count).map(|n| VisitorId::User(UserId::new(format!("visitor-{n}")).unwrap())).collect()
}

/// A light load with events: every second answer is clicked.
pub fn light(length: Duration) -> Plan {
    Plan {
        rate: 100.0,
        length,
        count: 5,
        deadline: Duration::from_secs(3),
        click_every: 2,
        impressions: true,
    }
}
