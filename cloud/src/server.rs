//! The composition root: what the cloud is made of, in the order in which it starts, and the other way round at its end.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cloud_registry::Registry;
use cloud_storage::Storage;
use inference::{Engine, EngineKind};
use serde::{Deserialize, Serialize};
use service::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use transport::pki::{Credentials, Issuer, Trust};
use transport::quic::{QuicListener, Settings};
use transport::{Door, Identity, Listener};

use crate::api::{self, Api};
use crate::clock::now_ms;
use crate::config::Config;
use crate::enrol::{self, EnrolDoor};
use crate::health::Health;
use crate::identities::{Identities, Issuing};
use crate::metrics::{ApiMetrics, IdentityMetrics, UplinkMetrics};
use crate::pops::Pops;
use crate::reload;
use crate::uplink::UplinkDoor;

/// How often the newest bundle is looked at for renewal.
const RENEW_EVERY_MS: u64 = 60 * 60 * 1000;
/// How often rollouts are looked at.
const SETTLE_EVERY: Duration = Duration::from_secs(1);
/// Pause after a rollout's verdict could not be carried out.
const SETTLE_PAUSE: Duration = Duration::from_secs(10);
/// Certificates that hold for less are for tests, in seconds.
const LIFETIME_S_USUAL: u64 = 60 * 60;
/// How much longer than `uplink.drain_ms` the whole shutdown may take.
const SHUTDOWN_GRACE_MS: u64 = 10_000;

/// Where the cloud listens, as written to `addresses.json` in its folder: ports that were 0 are known here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// QUIC for nodes.
    pub uplink: String,
    /// QUIC for nodes that enrol, if this cloud issues certificates.
    #[serde(default)]
    pub enrol: Option<String>,
    /// HTTP for people's tools.
    pub api: String,
    /// HTTP for metrics, liveness, readiness.
    pub admin: String,
}

/// A running cloud.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub addresses: Addresses,
    /// What it shows.
    credentials: Credentials,
    shutdown: Shutdown,
    tasks: JoinSet<anyhow::Result<()>>,
    deadline: Duration,
    storage: Storage,
    /// Held for as long as the process lives: two clouds in one folder would not know of each other's bundles.
    _lock: File,
}

/// Runs the cloud until shutdown. `token` is the admin token, if the environment gives one.
pub async fn run(
    settings: reload::Settings,
    token: Option<String>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut server = Server::start(settings.config().clone(), token, shutdown.clone()).await?;
    server.tasks.spawn(settings.follow(server.credentials.clone(), shutdown));
    server.join().await
}

impl Server {
    /// Starts everything; returns once all doors are open.
    pub async fn start(config: Config, token: Option<String>, shutdown: Shutdown) -> anyhow::Result<Self> {
        let lock = claim(&config.dir)?;
        let metrics = prometheus::Registry::new();
        let uplink_metrics = UplinkMetrics::new(&metrics)?;
        let api_metrics = ApiMetrics::new(&metrics)?;
        let health = Health::default();

        let storage = Storage::open(&config.dir, &config.storage).await?;
        let engines = engines(&config);
        let key = &config.models.signing_key;
        let registry =
            Registry::open(storage.clone(), key, engines, config.registry, config.rollout.clone(), now_ms())
                .await?;
        publish_key(&config, &registry)?;

        let identities =
            Identities::open(storage.clone(), issuing(&config)?, IdentityMetrics::new(&metrics)?).await?;
        let credentials = credentials(&config, &identities)?;
        let NodeDoors { uplink: listener, enrol: enrol_listener } =
            bind_nodes(&config, &identities, &credentials)?;
        let (api_listener, api_address) = bind(config.api.listen).await?;
        let (admin_listener, admin_address) = bind(config.admin.listen).await?;
        let addresses = Addresses {
            uplink: listener.local_address(),
            enrol: enrol_listener.as_ref().map(|listener| listener.local_address()),
            api: api_address.to_string(),
            admin: admin_address.to_string(),
        };

        let pops = Pops::new(storage.clone(), registry.clone(), identities.revoked().clone());
        let door = UplinkDoor::new(
            &config.uplink,
            storage.clone(),
            registry.clone(),
            identities.clone(),
            pops.clone(),
            uplink_metrics,
        );
        let token = api::token(token, &config.api.token)?;
        let api = Api::new(
            &config.api,
            token,
            storage.clone(),
            registry.clone(),
            identities.clone(),
            pops.clone(),
            health.clone(),
            api_metrics,
            metrics.clone(),
        );
        let admin = service::admin::router(metrics, readiness(&health), remarks(&health));

        let mut tasks = JoinSet::new();
        tasks.spawn(door.run(listener, shutdown.clone()));
        if let Some(listener) = enrol_listener {
            tasks.spawn(EnrolDoor::new(identities.clone()).run(listener, shutdown.clone()));
        }
        if config.tls.certificate.as_os_str().is_empty() {
            tasks.spawn(keep_issued(credentials.clone(), identities, shutdown.clone()));
        }
        tasks.spawn(api::serve(api, api_listener, config.api.connections_max, shutdown.clone()));
        tasks.spawn(serve_admin(admin_listener, admin, shutdown.clone()));
        tasks.spawn(renew(registry.clone(), shutdown.clone()));
        tasks.spawn(settle(registry, shutdown.clone()));
        tasks.spawn(watch(health, storage.clone(), pops, shutdown.clone()));

        service::files::publish(&config.dir.join("addresses.json"), &serde_json::to_vec_pretty(&addresses)?)?;
        tracing::info!(?addresses, dir = %config.dir.display(), "cloud is up");
        let deadline = Duration::from_millis(config.uplink.drain_ms + SHUTDOWN_GRACE_MS);
        Ok(Self { addresses, credentials, shutdown, tasks, deadline, storage, _lock: lock })
    }

    /// Waits for the shutdown, or for a part that fails, which ends the others too. Requests in flight are finished, then
    /// the storage is closed.
    pub async fn join(mut self) -> anyhow::Result<()> {
        let first = tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            Some(ended) = self.tasks.join_next() => flatten(ended).and_then(|()| {
                if self.shutdown.is_cancelled() { Ok(()) } else { Err(anyhow::anyhow!("a part ended by itself")) }
            }),
        };
        self.shutdown.cancel();
        let rest = async {
            let mut outcome = Ok(());
            while let Some(ended) = self.tasks.join_next().await {
                outcome = outcome.and(flatten(ended));
            }
            outcome
        };
        let rest = tokio::time::timeout(self.deadline, rest).await;
        self.tasks.shutdown().await;
        self.storage.close().await;
        tracing::info!("cloud is down");
        first.and(
            rest.unwrap_or_else(|_| Err(anyhow::anyhow!("the shutdown took too long and was cut short"))),
        )
    }
}

fn flatten(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    ended.context("a part of the cloud panicked")?
}

/// Writes the public half of the signing key where nodes' settings are made from.
fn publish_key(config: &Config, registry: &Registry) -> std::io::Result<()> {
    let key = registry.public_key().to_string();
    service::files::publish(&config.dir.join("signing.pub"), key.as_bytes())
}

/// Makes the folder, and takes it for this process.
fn claim(dir: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join("lock");
    let lock = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    lock.try_lock().with_context(|| format!("another cloud runs in {}", dir.display()))?;
    Ok(lock)
}

/// What is published must load in every runtime that an edge may have: ONNX Runtime where it is found, and tract.
fn engines(config: &Config) -> Vec<Engine> {
    let library = &config.models.onnxruntime;
    let chosen = Engine::choose((!library.as_os_str().is_empty()).then_some(library.as_path()));
    tracing::info!("bundles are validated in: {}", chosen.describe());
    match chosen.kind() {
        EngineKind::Tract => vec![chosen],
        EngineKind::Ort => vec![chosen, Engine::tract()],
    }
}

/// What issues certificates, if this cloud does.
fn issuing(config: &Config) -> anyhow::Result<Option<Issuing>> {
    let identity = &config.identity;
    if identity.issuer.as_os_str().is_empty() {
        tracing::info!("identity.issuer is empty: this cloud enrols no nodes and renews no certificates");
        return Ok(None);
    }
    if identity.lifetime_s < LIFETIME_S_USUAL {
        tracing::warn!(identity.lifetime_s, "certificates hold for less than an hour, which is for tests");
    }
    let issuer = Issuer::read(&identity.issuer, &identity.issuer_key)?;
    Ok(Some(Issuing { issuer, lifetime: Duration::from_secs(identity.lifetime_s) }))
}

/// What the cloud shows: its files', or what it issues to itself.
fn credentials(config: &Config, identities: &Identities) -> anyhow::Result<Credentials> {
    match identities.issuing() {
        Some(issuing) if config.tls.certificate.as_os_str().is_empty() => issue_own(issuing),
        _ => Ok(Credentials::read(&config.tls.certificate, &config.tls.key)?),
    }
}

fn issue_own(issuing: &Issuing) -> anyhow::Result<Credentials> {
    Ok(issuing.issuer.issue(&Identity::Cloud, &[], issuing.lifetime)?)
}

/// Replaces what the cloud issued to itself at half of its life. Nobody has to be asked, so nothing fails but by a bug.
async fn keep_issued(own: Credentials, identities: Identities, shutdown: Shutdown) -> anyhow::Result<()> {
    let Some(issuing) = identities.issuing() else { return Ok(()) };
    let mut ticks = tokio::time::interval(issuing.lifetime / 2);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => own.replace(&issue_own(issuing)?),
        }
    }
}

/// The doors for nodes.
struct NodeDoors {
    uplink: Arc<dyn Listener>,
    enrol: Option<Arc<dyn Listener>>,
}

/// The nodes' door, and where this cloud issues certificates the one of those that have none.
fn bind_nodes(
    config: &Config,
    identities: &Identities,
    credentials: &Credentials,
) -> anyhow::Result<NodeDoors> {
    let trust = Trust::read(&config.tls.ca)?
        .with_grace(Duration::from_secs(config.identity.grace_s))
        .with_revoked(identities.revoked().clone());
    let settings = Settings {
        max_connections: config.uplink.connections_max,
        max_bidi_streams: config.uplink.streams_max,
        connection_age_max_ms: config.uplink.connection_age_max_ms,
        drain_ms: config.uplink.drain_ms,
        ..Settings::peers()
    };
    let uplink = QuicListener::bind(config.uplink.listen, Door::Uplink, credentials, &trust, &settings)?;
    let enrol: Option<Arc<dyn Listener>> = match identities.issuing() {
        Some(_) => {
            let (address, settings) = (config.identity.listen, enrol::settings());
            Some(Arc::new(QuicListener::bind(address, Door::Enrol, credentials, &trust, &settings)?))
        }
        None => None,
    };
    Ok(NodeDoors { uplink: Arc::new(uplink), enrol })
}

async fn bind(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn readiness(health: &Health) -> service::admin::Readiness {
    let health = health.clone();
    Arc::new(move || health.check())
}

fn remarks(health: &Health) -> service::admin::Remarks {
    let health = health.clone();
    Arc::new(move || health.remarks())
}

async fn serve_admin(listener: TcpListener, router: axum::Router, shutdown: Shutdown) -> anyhow::Result<()> {
    service::admin::serve(listener, router, shutdown).await.context("the admin port failed")
}

async fn watch(health: Health, storage: Storage, pops: Pops, shutdown: Shutdown) -> anyhow::Result<()> {
    health.watch(storage, pops, shutdown).await;
    Ok(())
}

/// Publishes the newest contents again before their manifest expires.
async fn renew(registry: Registry, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(RENEW_EVERY_MS));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => match registry.renew_if_due(now_ms()).await {
                Ok(None) => {}
                Ok(Some(view)) => tracing::info!(revision = %view.revision, "renewed the newest bundle"),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot renew the newest bundle: edges refuse it once it has expired"
                ),
            }
        }
    }
}

/// Ends trials of bundles, and leads canaries back from what was stopped.
async fn settle(registry: Registry, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut pause = SETTLE_EVERY;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = match registry.settle(now_ms()).await {
            Ok(()) => SETTLE_EVERY,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "a rollout's verdict cannot be carried out; it is tried again");
                SETTLE_PAUSE
            }
        };
    }
}
