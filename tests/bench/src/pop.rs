//! Ours: a PoP of edge nodes, as `rockpool up` makes one, to which the visitors' past was tracked. The cloud runs until the PoP has
//! its bundle, and is away then: it would not be on a PoP's machine.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use client_sdk::Client;
use proto::NodeId;
use rockpool::local::{Deployment, Launch, Options, Overrides};
use rockpool::publish;

use crate::http::{self, Server};
use crate::processes::{Memory, cpu_s};
use crate::work::Work;

const READY_WITHIN: Duration = Duration::from_secs(60);
/// Clients that track the visitors' past.
const TRACKING: usize = 8;
/// How long the PoP may take to acknowledge it.
const TRACKED_WITHIN: Duration = Duration::from_secs(60);

/// A PoP that knows the visitors.
pub struct Pop {
    /// The processes.
    pub deployment: Deployment,
}

impl Pop {
    /// Starts one of so many nodes with the defaults and what `settings` say, serving from the work's bundle.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn start(
        dir: &Path,
        nodes: u64,
        work: &Work,
        settings: Vec<(String, toml::Value)>,
    ) -> anyhow::Result<Self> {
        Self::start_through(dir, nodes, work, settings, &[]).await
    }

    /// The same, each node started through these words: `["taskset", "-c", "0"]`.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn start_through(
        dir: &Path,
        nodes: u64,
        work: &Work,
        settings: Vec<(String, toml::Value)>,
        through: &[String],
    ) -> anyhow::Result<Self> {
        let overrides = Overrides { node: settings, cloud: Vec::new() };
        let mut deployment = Deployment::prepare(Options { dir: dir.to_owned(), nodes, overrides })?;
        deployment.start_cloud().await?;
        for node in (1..=nodes).map(NodeId) {
            deployment.launch(node, Launch { through: through.to_vec(), ..Launch::default() });
            deployment.start_node(node)?;
        }
        publish::publish(&deployment.control()?, work.artifacts.clone(), "bench").await?;
        deployment.until_ready(READY_WITHIN).await?;
        deployment.kill_cloud().await?;
        Ok(Self { deployment })
    }

    /// Tracks what the visitors did, as their apps would have.
    ///
    /// # Errors
    /// Where it is not acknowledged.
    pub async fn track(&self, work: &Work) -> anyhow::Result<()> {
        let clients = self.clients(TRACKING).await?;
        for (number, visitor) in work.visitors.iter().enumerate() {
            clients[number % TRACKING].track_all(visitor.events()).await.context("cannot track")?;
        }
        for client in &clients {
            client.flush(TRACKED_WITHIN).await.context("the past is not acknowledged")?;
            client.close().await;
        }
        Ok(())
    }

    /// SDK clients with a QUIC connection each, over all nodes.
    ///
    /// # Errors
    /// Where one cannot connect.
    pub async fn clients(&self, count: usize) -> anyhow::Result<Vec<Client>> {
        let (dialer, nodes) = (self.deployment.app_dialer()?, self.deployment.running());
        let mut clients = Vec::with_capacity(count);
        for number in 0..count {
            let config = self.deployment.client_config(&[nodes[number % nodes.len()]])?;
            let client = Client::connect_with(dialer.clone(), config).await;
            clients.push(client.context("a client cannot connect")?);
        }
        Ok(clients)
    }

    /// The first node's HTTP door.
    ///
    /// # Errors
    /// Where the CA cannot be read.
    pub fn server(&self) -> anyhow::Result<Server> {
        let address = self.deployment.ports()[&NodeId(1)].clients.clone();
        Ok(Server { address, tls: Some(http::tls(&self.deployment.ca_file())?) })
    }

    /// Process ids of the nodes.
    pub fn process_ids(&self) -> Vec<u32> {
        self.deployment.running().into_iter().filter_map(|node| self.deployment.process_id(node)).collect()
    }

    /// CPU seconds of the nodes so far.
    ///
    /// # Errors
    /// Where one has ended.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        cpu_s(&self.process_ids())
    }

    /// What the nodes hold in memory.
    ///
    /// # Errors
    /// Where one has ended.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        Memory::of(&self.process_ids())
    }

    /// Ends the nodes at once: nothing of theirs is needed any more.
    ///
    /// # Errors
    /// Where one has ended before.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for node in self.deployment.running() {
            self.deployment.kill_node(node).await?;
        }
        Ok(())
    }
}
