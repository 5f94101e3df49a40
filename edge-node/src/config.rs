//! Settings of an edge node, parsed and checked before anything starts. The commented defaults are in
//! `edge-node.default.toml`, which is compiled in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use edge_cache::CacheConfig;
use edge_uplink::UplinkConfig;
use proto::codec::FrameKind;
use proto::limits::APPEND_EVENTS_MAX;
use proto::{NodeId, PopId};
use serde::Deserialize;
use service::settings::{Table, TlsConfig, path_in};
use service::telemetry::LogConfig;

use crate::gateway::apps::AppConfig;
use crate::identity::IdentityConfig;

/// The commented defaults.
pub const DEFAULTS: &str = include_str!("../edge-node.default.toml");

/// Largest batch of events; a frame of the uplink holds it with room to spare.
const BATCH_BYTES_MAX: usize = FrameKind::UplinkRequest.body_bytes_max() / 2;

/// Longest time between two questions for who was revoked.
const REVOKED_EVERY_MS_MAX: u64 = 20_000;
/// Longest pause between two reports: a trial of a bundle needs several in its time.
const REPORT_EVERY_MS_MAX: u64 = 20_000;

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// State folder; relative paths in other settings start here.
    pub dir: PathBuf,
    /// Who this node is.
    pub node: NodeConfig,
    /// Founding members: id → peer address.
    pub members: BTreeMap<String, String>,
    /// Certificates.
    pub tls: TlsConfig,
    /// The node's own key and certificate.
    pub identity: IdentityConfig,
    /// The clients' door.
    pub clients: ClientsConfig,
    /// The HTTP door.
    pub http: HttpConfig,
    /// The content cache.
    pub cache: CacheConfig,
    /// The peers' door.
    pub peers: PeersConfig,
    /// The admin port.
    pub admin: AdminConfig,
    /// The replicated store.
    pub store: StoreConfig,
    /// The way up.
    pub uplink: UplinkConfig,
    /// Bundles.
    pub bundles: BundlesConfig,
    /// Recommendations.
    pub serving: ServingConfig,
    /// Logs.
    pub log: LogConfig,
}

/// Who this node is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The PoP.
    pub pop: PopId,
    /// The node.
    pub id: NodeId,
    /// Threads that do IO; 0: half of the cores.
    pub io_threads: usize,
}

impl NodeConfig {
    /// Threads that do IO: one at least.
    pub fn io_threads(&self) -> usize {
        let half = || std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
        if self.io_threads == 0 { half() } else { self.io_threads }
    }
}

/// The clients' door.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientsConfig {
    /// UDP address.
    pub listen: String,
    /// Addresses told to clients.
    pub public: Vec<String>,
    /// Who may ask.
    pub apps: Vec<AppConfig>,
    /// How often one address may ask; 0: as often as it likes.
    pub address_requests_per_s: u32,
    /// Most connections.
    pub connections_max: usize,
    /// Most requests at once.
    pub in_flight_max: usize,
    /// How long what is ready may wait for an IO thread: where it waits longer, and it lasts, requests are refused.
    pub delay_max_ms: u64,
    /// Most requests at once on one connection.
    pub streams_max: u32,
    /// Age at which a connection is closed.
    pub connection_age_max_ms: u64,
    /// Deadline of a request that states none.
    pub deadline_ms: u64,
    /// Longest deadline.
    pub deadline_max_ms: u64,
}

/// The HTTP door.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// TCP address; empty: that of the clients' door.
    pub listen: String,
    /// PEM chain that browsers believe; empty: the node's own certificate is shown.
    pub certificate: PathBuf,
    /// Its key, PEM, mode 0600.
    pub key: PathBuf,
    /// UDP port at which HTTP/3 is said to be served; 0: that of the clients' door.
    pub http3_port: u16,
    /// Most connections of HTTP/3, which share the clients' door with the SDK's.
    pub http3_connections_max: usize,
    /// Pages of these origins may ask; `*`: of any.
    pub cors_origins: Vec<String>,
    /// Most connections.
    pub connections_max: usize,
    /// Most requests at once on one connection of HTTP/2.
    pub streams_max: u32,
    /// How long a handshake may take.
    pub handshake_timeout_ms: u64,
    /// Age at which a connection is closed.
    pub connection_age_max_ms: u64,
    /// For how long the door stays open when the node was told to end.
    pub notice_ms: u64,
}

impl HttpConfig {
    fn check(&self) -> anyhow::Result<()> {
        let (certificate, key) = (&self.certificate, &self.key);
        anyhow::ensure!(
            certificate.as_os_str().is_empty() == key.as_os_str().is_empty(),
            "http.certificate ({certificate:?}) and http.key ({key:?}) belong together: set both, or neither"
        );
        Ok(())
    }
}

/// The peers' door.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeersConfig {
    /// UDP address.
    pub listen: String,
    /// Address told to peers; empty: as bound.
    pub public: String,
}

/// The admin port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// TCP address.
    pub listen: String,
    /// Token file.
    pub token: PathBuf,
}

/// The replicated store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// Raft heartbeat.
    pub heartbeat_ms: u64,
    /// Shortest election timeout.
    pub election_min_ms: u64,
    /// Longest election timeout.
    pub election_max_ms: u64,
    /// Most commands in an entry.
    pub group_commit_len_max: usize,
    /// Most bytes in an entry.
    pub group_commit_bytes_max: usize,
    /// Most commands waiting.
    pub queue_len_max: usize,
    /// Entries between snapshots.
    pub snapshot_every: u64,
    /// Most events waiting for the cloud.
    pub outbox_len_max: u64,
    /// Page cache of the state machine.
    pub cache_bytes: u64,
}

/// Bundles.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundlesConfig {
    /// Ed25519 public keys, hex.
    pub trusted_keys: Vec<String>,
}

/// Recommendations.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServingConfig {
    /// Candidates handed to ranking.
    pub candidates: usize,
    /// Most recommendations that models are run for at once; 0: 64 a core.
    pub in_flight_max: usize,
    /// Share of the deadline after which waiting for a session token ends.
    pub token_share: f64,
    /// Share of the deadline after which retrieval is not begun.
    pub retrieve_share: f64,
    /// Share of the deadline after which ranking is not begun.
    pub rank_share: f64,
    /// Model threads; 0: one a core.
    pub threads: usize,
    /// Requests waiting for a model thread.
    pub queue_len_max: usize,
    /// Longest wait for a model thread; then the fallback without a model serves.
    pub queue_wait_max_ms: u64,
    /// Oldest view of a visitor that is used.
    pub view_age_max_ms: u64,
    /// Path of ONNX Runtime; empty: look for it.
    pub onnxruntime: PathBuf,
}

impl ServingConfig {
    /// Recommendations that models are run for at once.
    pub fn in_flight_max(&self) -> usize {
        let of_cores = || std::thread::available_parallelism().map_or(1, usize::from) * 64;
        if self.in_flight_max == 0 { of_cores() } else { self.in_flight_max }
    }
}

impl Config {
    /// Reads defaults, file and environment, and checks what types cannot.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        Self::read(file).map(|(_, config)| config)
    }

    /// The same, with the table that it was parsed from.
    pub fn read(file: Option<&Path>) -> anyhow::Result<(Table, Self)> {
        let table = service::settings::table(DEFAULTS, file, "EDGE_NODE", std::env::vars())?;
        let mut config: Config = service::settings::parsed(table.clone())?;
        config.check()?;
        let dir = config.dir.clone();
        let (tls, identity) = (&mut config.tls, &mut config.identity);
        let paths = [
            &mut tls.ca,
            &mut tls.certificate,
            &mut tls.key,
            &mut config.admin.token,
            &mut identity.file,
            &mut identity.token,
        ];
        let public = [&mut config.http.certificate, &mut config.http.key];
        let origins = config.cache.origins.iter_mut().map(|origin| &mut origin.ca);
        for path in paths.into_iter().chain(public).chain(origins) {
            *path = path_in(&dir, path);
        }
        Ok((table, config))
    }

    /// The founding members, by id.
    pub fn members(&self) -> anyhow::Result<BTreeMap<NodeId, String>> {
        let member = |(id, address): (&String, &String)| {
            let id = id
                .parse()
                .map_err(|_| anyhow::anyhow!("members: {id:?} is not a node id (a number from 1)"))?;
            Ok((NodeId(id), address.clone()))
        };
        self.members.iter().map(member).collect()
    }

    /// Files that a node cannot be without. Its certificate and key may be empty: it enrols then.
    fn check_files(&self) -> anyhow::Result<()> {
        let (tls, identity) = (&self.tls, &self.identity);
        let needed = [
            ("tls.ca", &tls.ca),
            ("admin.token", &self.admin.token),
            ("identity.file", &identity.file),
            ("identity.token", &identity.token),
        ];
        for (name, path) in needed {
            anyhow::ensure!(!path.as_os_str().is_empty(), "{name} is empty: name a file");
        }
        let given = [&tls.certificate, &tls.key].map(|path| path.as_os_str().is_empty());
        anyhow::ensure!(given[0] == given[1], "tls.certificate and tls.key go together: set both or none");
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        self.check_files()?;
        let shares = [
            ("token_share", self.serving.token_share),
            ("retrieve_share", self.serving.retrieve_share),
            ("rank_share", self.serving.rank_share),
        ];
        for (name, share) in shares {
            anyhow::ensure!(
                (0.0..=1.0).contains(&share),
                "serving.{name} is {share}: it must be from 0 to 1"
            );
        }
        let positive = [
            ("node.id", self.node.id.0),
            ("clients.connections_max", self.clients.connections_max as u64),
            ("clients.in_flight_max", self.clients.in_flight_max as u64),
            ("clients.delay_max_ms", self.clients.delay_max_ms),
            ("clients.deadline_ms", self.clients.deadline_ms),
            ("http.connections_max", self.http.connections_max as u64),
            ("http.http3_connections_max", self.http.http3_connections_max as u64),
            ("http.streams_max", u64::from(self.http.streams_max)),
            ("http.handshake_timeout_ms", self.http.handshake_timeout_ms),
            ("serving.candidates", self.serving.candidates as u64),
            ("serving.queue_len_max", self.serving.queue_len_max as u64),
            ("serving.queue_wait_max_ms", self.serving.queue_wait_max_ms),
            ("serving.view_age_max_ms", self.serving.view_age_max_ms),
            ("store.heartbeat_ms", self.store.heartbeat_ms),
            ("uplink.batch_len_max", self.uplink.batch_len_max as u64),
            ("uplink.batch_bytes_max", self.uplink.batch_bytes_max as u64),
            ("uplink.timeout_ms", self.uplink.timeout_ms),
            ("uplink.report_every_ms", self.uplink.report_every_ms),
            ("identity.revoked_every_ms", self.identity.revoked_every_ms),
        ];
        for (name, value) in positive {
            anyhow::ensure!(value > 0, "{name} must be at least 1");
        }
        anyhow::ensure!(
            self.identity.revoked_every_ms <= REVOKED_EVERY_MS_MAX,
            "identity.revoked_every_ms ({}) is at most {REVOKED_EVERY_MS_MAX}: a revoked node is cut off within a minute",
            self.identity.revoked_every_ms
        );
        anyhow::ensure!(
            self.uplink.report_every_ms <= REPORT_EVERY_MS_MAX,
            "uplink.report_every_ms ({}) is at most {REPORT_EVERY_MS_MAX}: the cloud takes a node that says nothing for longer for lost",
            self.uplink.report_every_ms
        );
        let (batch, bytes) = (self.uplink.batch_len_max, self.uplink.batch_bytes_max);
        anyhow::ensure!(
            batch <= APPEND_EVENTS_MAX && bytes <= BATCH_BYTES_MAX,
            "uplink: batch_len_max ({batch}) is at most {APPEND_EVENTS_MAX}, batch_bytes_max ({bytes}) at most \
             {BATCH_BYTES_MAX}: the cloud takes no more"
        );
        let (heartbeat, least) = (self.store.heartbeat_ms, self.store.election_min_ms);
        anyhow::ensure!(
            least >= 2 * heartbeat && self.store.election_max_ms > least,
            "store: election_min_ms ({least}) must be at least twice heartbeat_ms ({heartbeat}), election_max_ms more"
        );
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        anyhow::ensure!(
            self.node.pop.as_str().chars().all(letters) && self.node.pop.as_str().len() <= 63,
            "node.pop {:?}: at most 63 lower-case letters, digits and `-`, as it becomes part of a DNS name",
            self.node.pop.as_str()
        );
        self.http.check()?;
        self.members()?;
        self.cache.check().map_err(anyhow::Error::msg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        let config = Config::load(None).unwrap();
        assert_eq!(config.node.id, NodeId(1));
        assert!(config.tls.key.starts_with(&config.dir));
    }

    #[test]
    fn what_the_cloud_would_not_take_is_named() {
        for change in [
            |c: &mut Config| c.uplink.batch_len_max = 0,
            |c: &mut Config| c.uplink.batch_bytes_max = 64 << 20,
            |c: &mut Config| c.uplink.report_every_ms = 60_000,
        ] {
            let mut config = Config::load(None).unwrap();
            change(&mut config);
            assert!(config.check().unwrap_err().to_string().contains("uplink"));
        }
    }

    #[test]
    fn an_empty_path_is_no_folder() {
        let given = |change: fn(&mut Config)| {
            let mut config = Config::load(None).unwrap();
            change(&mut config);
            config.check().map_err(|error| error.to_string())
        };
        let none = |config: &mut Config| (config.tls.certificate, config.tls.key) = Default::default();
        given(none).unwrap();
        assert!(given(|config| config.tls.key = PathBuf::new()).unwrap_err().contains("go together"));
        assert!(given(|config| config.tls.ca = PathBuf::new()).unwrap_err().contains("tls.ca is empty"));
        assert!(given(|config| config.admin.token = PathBuf::new()).unwrap_err().contains("admin.token"));
        assert_eq!(path_in(Path::new("a"), Path::new("")), PathBuf::new());
        assert_eq!(path_in(Path::new("a"), Path::new("b")), Path::new("a/b"));
    }

    #[test]
    fn a_wrong_share_is_named() {
        let mut config = Config::load(None).unwrap();
        config.serving.rank_share = 1.5;
        assert!(config.check().unwrap_err().to_string().contains("serving.rank_share"));
    }
}
