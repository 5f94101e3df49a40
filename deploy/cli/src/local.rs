//! A whole deployment on this machine: a cloud and a PoP of edge nodes (or more PoPs), each a child process, in one folder.
//!
//! ```text
//! DIR/pki/        the deployment's CA and what it issued
//! DIR/app.key     the app's secret key (mode 0600)
//! DIR/ports.json  where the processes listen: at a second start, there again
//! DIR/cloud/      the cloud's folder: cloud.toml, database, artifacts, log
//! DIR/node-1/ …   a node's folder: edge-node.toml, store, artifacts, log
//! ```
//! Used by `rockpool up`, the benchmarks and the process tests.

mod ports;
mod process;
mod settings;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use proto::control::{EnrolNode, EnrolmentToken};
use proto::{NodeId, PopId};
use tokio::time::Instant;
use transport::pki::{Authority, Trust, Validity};
use transport::quic::{QuicDialer, Settings};

use crate::control::{Control, NodeAdmin};
use ports::{CloudPorts, Ports, again_or_free};
pub use ports::{NodePorts, free_port};
pub use process::Launch;
use process::Process;
pub use settings::Overrides;

/// How long the CA of a local deployment holds.
const CA_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long what it issues holds, unless the cloud's `identity.lifetime_s` is set; nodes renew theirs at half of it.
const LIFETIME_S: u64 = 24 * 3600;
/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(25);

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything lies; made if it is missing.
    pub dir: PathBuf,
    /// Nodes of the PoP.
    pub nodes: u64,
    /// Settings that differ from the defaults, for every node.
    pub overrides: Overrides,
}

/// On which addresses processes listen: on loopback, where none is named.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    /// Where nodes reach the cloud.
    pub cloud: Option<IpAddr>,
    /// The nodes', those that come later too.
    pub nodes: BTreeMap<NodeId, IpAddr>,
}

/// A deployment whose processes this process owns: they end with it.
pub struct Deployment {
    options: Options,
    pop: PopId,
    cloud_ports: CloudPorts,
    ports: BTreeMap<NodeId, NodePorts>,
    cloud: Option<Process>,
    nodes: BTreeMap<NodeId, Process>,
    /// Founders of further PoPs. A node's id is its own in the whole deployment.
    elsewhere: BTreeMap<NodeId, PopId>,
    /// Settings of single nodes.
    own: BTreeMap<NodeId, Vec<(String, toml::Value)>>,
    /// Where peers are told to reach a node, if not where it listens.
    announced: BTreeMap<NodeId, String>,
    /// How nodes are started, if not as their binary beside ours.
    launches: BTreeMap<NodeId, Launch>,
    /// Addresses of processes that are not on loopback.
    hosts: Hosts,
    app_key: String,
    trust: Trust,
}

impl Deployment {
    /// Prepares the folder (keys, certificates, settings) and starts the cloud and all nodes.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let mut deployment = Self::prepare(options)?;
        deployment.start_cloud().await?;
        for node in deployment.ports.keys().copied().collect::<Vec<_>>() {
            deployment.start_node(node)?;
        }
        Ok(deployment)
    }

    /// Prepares the folder and chooses ports, and starts nothing: what stands between processes can be put up first.
    pub fn prepare(options: Options) -> anyhow::Result<Self> {
        Self::prepare_on(options, Hosts::default())
    }

    /// The same, on other addresses than loopback: each must be one of the machine or network namespace in which the process
    /// is started, with all its ports free.
    pub fn prepare_on(mut options: Options, hosts: Hosts) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&options.dir)
            .with_context(|| format!("cannot make {}", options.dir.display()))?;
        options.dir = options.dir.canonicalize()?;
        let pop = PopId::new("pop-a")?;
        let authority =
            Authority::open_or_create(&options.dir.join("pki"), Validity::starting_now(CA_LIFETIME))?;
        authority.issue_cloud(&["127.0.0.1".into()], Validity::starting_now(CA_LIFETIME))?;
        let app_key = secret(&options.dir.join("app.key"))?;
        let before = Ports::of(&options.dir)?;
        let (old, host) = (before.cloud.as_ref(), hosts.cloud);
        let cloud_ports = CloudPorts {
            uplink: again_or_free(old.map(|ports| &ports.uplink), host)?,
            enrol: again_or_free(old.map(|ports| &ports.enrol), host)?,
            // Its API has no TLS: it stays on loopback.
            api: again_or_free(old.map(|ports| &ports.api), None)?,
            admin: again_or_free(old.map(|ports| &ports.admin), None)?,
        };
        let mut deployment = Self {
            pop,
            cloud_ports,
            ports: BTreeMap::new(),
            cloud: None,
            nodes: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            own: BTreeMap::new(),
            announced: BTreeMap::new(),
            launches: BTreeMap::new(),
            hosts,
            app_key,
            trust: authority.trust()?,
            options,
        };
        for id in 1..=deployment.options.nodes {
            deployment.add_ports(NodeId(id))?;
        }
        Ok(deployment)
    }

    fn add_ports(&mut self, node: NodeId) -> anyhow::Result<()> {
        let authority = Authority::open(&self.dir().join("pki"))?;
        authority.issue_node(self.pop_of(node), node, &names(), Validity::starting_now(self.lifetime()))?;
        self.choose_ports(node)
    }

    /// The ports that a node had before, where they are free, else others: what Raft says of it is then old, and the others find it
    /// by their settings.
    fn choose_ports(&mut self, node: NodeId) -> anyhow::Result<()> {
        let before = Ports::of(self.dir())?;
        let (old, host) = (before.nodes.get(&node), self.hosts.nodes.get(&node).copied());
        let ports = NodePorts {
            clients: again_or_free(old.map(|ports| &ports.clients), host)?,
            peers: again_or_free(old.map(|ports| &ports.peers), host)?,
            admin: again_or_free(old.map(|ports| &ports.admin), host)?,
        };
        self.ports.insert(node, ports);
        let mut nodes = before.nodes;
        nodes.extend(self.ports.clone());
        let now = Ports { cloud: Some(self.cloud_ports.clone()), nodes };
        now.write(self.dir())
    }

    /// How long certificates hold.
    fn lifetime(&self) -> Duration {
        let set = self.options.overrides.cloud.iter().rev().find(|(path, _)| path == "identity.lifetime_s");
        let seconds = set.and_then(|(_, value)| u64::try_from(value.as_integer()?).ok());
        Duration::from_secs(seconds.unwrap_or(LIFETIME_S))
    }

    /// Starts the cloud and waits until it is ready.
    pub async fn start_cloud(&mut self) -> anyhow::Result<()> {
        let dir = self.dir().join("cloud");
        settings::write(&dir.join("cloud.toml"), &settings::cloud(self))?;
        self.cloud = Some(Process::spawn("cloud", &dir, "cloud.toml", &Launch::default())?);
        self.until("the cloud is ready", Duration::from_secs(30), async |this: &Self| {
            NodeAdmin::new(&this.cloud_ports.admin)?.ready().await
        })
        .await
    }

    /// Starts (or starts again) one node; does not wait for it.
    pub fn start_node(&mut self, node: NodeId) -> anyhow::Result<()> {
        let dir = self.node_dir(node);
        settings::write(&dir.join("edge-node.toml"), &settings::node(self, node)?)?;
        let launch = self.launches.get(&node).cloned().unwrap_or_default();
        self.nodes.insert(node, Process::spawn("edge-node", &dir, "edge-node.toml", &launch)?);
        Ok(())
    }

    /// From its next start on, a node is started so.
    pub fn launch(&mut self, node: NodeId, launch: Launch) {
        self.launches.insert(node, launch);
    }

    /// Sets a setting for every node that is started from now on.
    pub fn override_node(&mut self, path: &str, value: toml::Value) {
        self.options.overrides.node.push((path.to_owned(), value));
    }

    /// Sets a setting for one node, from its next start on. It goes over those for every node.
    pub fn override_one(&mut self, node: NodeId, path: &str, value: toml::Value) {
        self.own.entry(node).or_default().push((path.to_owned(), value));
    }

    /// From their next start on, peers are told to reach a node here and not where it listens: a relay stands between them.
    pub fn announce_peers_at(&mut self, node: NodeId, address: &str) {
        self.announced.insert(node, address.to_owned());
    }

    /// Where peers are told to reach a node.
    pub fn peer_address(&self, node: NodeId) -> Option<&str> {
        let listens = || self.ports.get(&node).map(|ports| ports.peers.as_str());
        self.announced.get(&node).map(String::as_str).or_else(listens)
    }

    /// Starts the next founder of a PoP that was started with fewer nodes than it is to have.
    pub fn found_node(&mut self, node: NodeId) -> anyhow::Result<()> {
        self.options.nodes = self.options.nodes.max(node.0);
        self.add_ports(node)?;
        self.start_node(node)
    }

    /// Starts another PoP, of these founders; their ids are new in the whole deployment.
    pub fn found_pop(&mut self, pop: &PopId, founders: &[NodeId]) -> anyhow::Result<()> {
        for node in founders {
            anyhow::ensure!(!self.ports.contains_key(node), "node {node} is there already");
            self.elsewhere.insert(*node, pop.clone());
            self.add_ports(*node)?;
        }
        founders.iter().try_for_each(|node| self.start_node(*node))
    }

    /// Starts a node that is not a founder: it waits to be joined.
    pub fn start_new_node(&mut self, node: NodeId) -> anyhow::Result<()> {
        self.add_node(node)?;
        self.start_node(node)
    }

    /// Gives a node that is not a founder a certificate and ports; does not start it.
    pub fn add_node(&mut self, node: NodeId) -> anyhow::Result<()> {
        anyhow::ensure!(!self.ports.contains_key(&node), "node {node} is there already");
        self.add_ports(node)
    }

    /// Starts a node that has no certificate but a one-time token, made by the control API; it waits to be joined.
    pub async fn start_enrolling_node(&mut self, node: NodeId) -> anyhow::Result<EnrolmentToken> {
        anyhow::ensure!(!self.ports.contains_key(&node), "node {node} is there already");
        let asked = EnrolNode { pop: self.pop.clone(), node, names: names(), lifetime_s: None };
        let made = self.control()?.enrolment_token(&asked).await?;
        let dir = self.node_dir(node);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        service::secrets::write_new(&dir.join("identity.token"), &made.token)?;
        self.choose_ports(node)?;
        self.start_node(node)?;
        Ok(made)
    }

    /// Kills a node as a power switch would: SIGKILL, no goodbye.
    pub async fn kill_node(&mut self, node: NodeId) -> anyhow::Result<()> {
        self.nodes.remove(&node).with_context(|| format!("node {node} does not run"))?.kill().await
    }

    /// Stops a node where it stands: SIGSTOP.
    pub async fn pause_node(&self, node: NodeId) -> anyhow::Result<()> {
        self.nodes.get(&node).with_context(|| format!("node {node} does not run"))?.signal("STOP").await
    }

    /// Lets a node go on that was paused: SIGCONT.
    pub async fn resume_node(&self, node: NodeId) -> anyhow::Result<()> {
        self.nodes.get(&node).with_context(|| format!("node {node} does not run"))?.signal("CONT").await
    }

    /// Kills the cloud: SIGKILL.
    pub async fn kill_cloud(&mut self) -> anyhow::Result<()> {
        self.cloud.take().context("the cloud does not run")?.kill().await
    }

    /// Asks a node to stop, and waits.
    pub async fn stop_node(&mut self, node: NodeId) -> anyhow::Result<()> {
        self.nodes.remove(&node).with_context(|| format!("node {node} does not run"))?.stop().await
    }

    /// Asks every process to stop, and waits.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for process in std::mem::take(&mut self.nodes).into_values().chain(self.cloud.take()) {
            process.stop().await?;
        }
        Ok(())
    }

    /// Waits until every running node is ready: it knows a leader and serves from a bundle.
    pub async fn until_ready(&self, within: Duration) -> anyhow::Result<()> {
        self.until("all nodes are ready", within, async |this: &Self| {
            for node in this.nodes.keys() {
                this.admin(*node)?.ready().await.with_context(|| format!("node {node}"))?;
            }
            Ok(())
        })
        .await
    }

    /// Sees that every process that was started, and not ended, runs.
    ///
    /// # Errors
    /// Where one has ended by itself, with the end of its log.
    pub fn check(&self) -> anyhow::Result<()> {
        self.nodes.values().chain(&self.cloud).try_for_each(Process::check)
    }

    /// Waits until `condition` holds; the error says what was waited for and why it did not hold at last. A process that
    /// has ended is an error at once.
    pub async fn until<F>(&self, what: &str, within: Duration, condition: F) -> anyhow::Result<()>
    where
        F: AsyncFn(&Self) -> anyhow::Result<()>,
    {
        let until = Instant::now() + within;
        loop {
            let Err(error) = condition(self).await else { return Ok(()) };
            self.check()?;
            if Instant::now() >= until {
                return Err(error.context(format!("waited {} s until {what}", within.as_secs())));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The node that leads, as most running nodes say.
    pub async fn leader(&self) -> anyhow::Result<NodeId> {
        #[derive(serde::Deserialize)]
        struct Says {
            leader: Option<NodeId>,
        }
        for node in self.nodes.keys() {
            if let Ok(Says { leader: Some(leader) }) = self.admin(*node)?.status::<Says>().await
                && self.nodes.contains_key(&leader)
            {
                return Ok(leader);
            }
        }
        anyhow::bail!("no running node knows a running leader")
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// One node's folder.
    pub fn node_dir(&self, node: NodeId) -> PathBuf {
        self.dir().join(format!("node-{node}"))
    }

    /// The PoP; the first, if there are more.
    pub fn pop(&self) -> &PopId {
        &self.pop
    }

    /// The PoP of a node.
    pub fn pop_of(&self, node: NodeId) -> &PopId {
        self.elsewhere.get(&node).unwrap_or(&self.pop)
    }

    /// Where the nodes listen, running or not.
    pub fn ports(&self) -> &BTreeMap<NodeId, NodePorts> {
        &self.ports
    }

    /// Nodes that run.
    pub fn running(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// Process id of a running node.
    pub fn process_id(&self, node: NodeId) -> Option<u32> {
        self.nodes.get(&node)?.id()
    }

    /// A client of a node's admin port.
    pub fn admin(&self, node: NodeId) -> anyhow::Result<NodeAdmin> {
        NodeAdmin::new(&self.ports.get(&node).with_context(|| format!("there is no node {node}"))?.admin)
    }

    /// A node's admin token.
    pub fn node_token(&self, node: NodeId) -> anyhow::Result<String> {
        Ok(service::secrets::read(&self.node_dir(node).join("admin.token"))?)
    }

    /// A client of the control API.
    pub fn control(&self) -> anyhow::Result<Control> {
        let token = service::secrets::read(&self.dir().join("cloud/admin.token"))?;
        Control::new(&self.api(), token)
    }

    /// Where the control API is.
    pub fn api(&self) -> String {
        format!("http://{}", self.cloud_ports.api)
    }

    /// The app's key.
    pub fn app_key(&self) -> &str {
        &self.app_key
    }

    /// The name that the first PoP's certificates carry.
    pub fn server_name(&self) -> anyhow::Result<String> {
        Ok(transport::edge_name(&self.pop)?)
    }

    /// Whether the cloud was started and not killed.
    pub fn cloud_runs(&self) -> bool {
        self.cloud.is_some()
    }

    /// Where nodes reach the cloud.
    pub fn uplink_address(&self) -> &str {
        &self.cloud_ports.uplink
    }

    /// Where nodes enrol.
    pub fn enrol_address(&self) -> &str {
        &self.cloud_ports.enrol
    }

    /// The CA's file.
    pub fn ca_file(&self) -> PathBuf {
        self.dir().join("pki/ca.pem")
    }

    /// A dialer for apps; many clients may share it.
    pub fn app_dialer(&self) -> anyhow::Result<Arc<QuicDialer>> {
        // As the SDK's own.
        let trust = self.trust.clone().with_grace(Duration::from_millis(client_sdk::CERTIFICATE_GRACE_MS));
        Ok(Arc::new(QuicDialer::new(&trust, None, proto::ALPN_CLIENT, &Settings::clients())?))
    }

    /// An SDK configuration that knows these nodes of one PoP, in this order.
    pub fn client_config(&self, nodes: &[NodeId]) -> anyhow::Result<client_sdk::Config> {
        let address = |node: &NodeId| Some(self.ports.get(node)?.clients.clone());
        let pop = nodes.first().map_or(&self.pop, |node| self.pop_of(*node));
        let name = transport::edge_name(pop)?;
        let nodes = nodes.iter().filter_map(address).collect();
        Ok(client_sdk::Config::new(nodes, name, client_sdk::Trust::OfDialer, self.app_key.clone()))
    }
}

/// Reads a secret, or makes it.
fn secret(path: &Path) -> anyhow::Result<String> {
    if !path.exists() {
        service::secrets::write_new(path, &service::secrets::generate())?;
    }
    Ok(service::secrets::read(path)?)
}

/// What apps may call a node of this machine.
fn names() -> Vec<String> {
    vec!["127.0.0.1".to_owned(), "localhost".to_owned()]
}
