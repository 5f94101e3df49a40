//! The composition root: the parts of a node, and how they are joined. Siblings meet only here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use edge_cache::Cache;
use edge_store::Store;
use edge_uplink::{CloudLink, Report, Reports};
use inference::{Engine, PublicKey};
use prometheus::Registry;
use proto::control::NodeReport;
use proto::{ALPN_PEER, ALPN_UPLINK, Revision};
use serde::{Deserialize, Serialize};
use service::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use transport::pki::Credentials;
use transport::quic::{QuicDialer, QuicListener, Settings};
use transport::tcp::{Limits, TcpDoor};
use transport::{Dialer, Door, Identity, LinkError, LinkErrorKind, Listener};

use crate::admin::{self, Admin};
use crate::bundles::{ActiveBundle, Bundles, Folder, Refusal, Sources};
use crate::commits::{StoreCommits, caught_up_leader};
use crate::config::{ClientsConfig, Config};
use crate::disk;
use crate::erasures;
use crate::gateway::Gateway;
use crate::gateway::http::{self, Http, HttpMetrics};
use crate::identity::{Keeper, Own, PublicCertificate};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::prefetch;
use crate::purge::{self, Purger};
use crate::reload::{Changing, Settings as NodeSettings};
use crate::standing::{self, Standings};
use crate::workers::Workers;

/// A node whose state may be older than this is not ready: it was cut off from its PoP's majority.
const CUT_OFF_AFTER: Duration = Duration::from_secs(5);

/// How long the doors of a life before may take to close: a socket closes with the last connection that was accepted on it.
const DOORS_CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How often it is tried.
const DOORS_TRIED_EVERY: Duration = Duration::from_millis(100);
/// How often a node whose disk has failed, and fails again, tries to begin anew.
const ANEW_EVERY: Duration = Duration::from_secs(1);

/// How long a node that ends waits for another one to lead.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(1);

/// Where a node listens, as written to `addresses.json` in its folder: ports that were 0 are known here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// QUIC for apps.
    pub clients: String,
    /// HTTP for everybody else.
    pub http: String,
    /// QUIC for peers.
    pub peers: String,
    /// HTTP for admins.
    pub admin: String,
}

/// The doors, bound before anything starts, so that a taken port is an error at once.
struct Doors {
    clients: Arc<QuicListener>,
    http: TcpDoor,
    peers: Arc<dyn Listener>,
    admin: TcpListener,
    peer_dialer: Arc<dyn Dialer>,
    cloud_dialer: Arc<dyn Dialer>,
}

/// Runs a node until shutdown. One whose disk fails goes on answering from what it knows, acknowledges nothing, and begins anew
/// when the disk takes writes again.
pub async fn run(settings: NodeSettings, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut doors_within = Duration::ZERO;
    loop {
        let life = shutdown.child_token();
        let lived = live(&settings, doors_within, life.clone()).await;
        // What a life that could not begin has started ends with it.
        life.cancel();
        match lived {
            Ok(()) if shutdown.is_cancelled() => return Ok(()),
            Ok(()) => tracing::warn!("the disk takes writes again: the node begins anew"),
            // The disk may fail again while the node begins anew. At its first start the operator is there to hear of it.
            Err(error) if doors_within > Duration::ZERO && refused_by_system(&error) => {
                tracing::error!(error = format!("{error:#}"), "the node cannot begin anew yet");
                if shutdown.run_until_cancelled(tokio::time::sleep(ANEW_EVERY)).await.is_none() {
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
        doors_within = DOORS_CLOSE_WITHIN;
    }
}

/// Whether it is the operating system that refused: a disk that is full, an address in use. Damage is another thing: it stays.
fn refused_by_system(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match (cause.downcast_ref::<io::Error>(), cause.downcast_ref::<LinkError>()) {
        (Some(error), _) => error.raw_os_error().is_some() || error.kind() == io::ErrorKind::StorageFull,
        (_, Some(error)) => matches!(error.kind, LinkErrorKind::Io(_)),
        (None, None) => false,
    })
}

/// One life of a node: until shutdown, or until its disk has failed and works again.
async fn live(settings: &NodeSettings, doors_within: Duration, shutdown: Shutdown) -> anyhow::Result<()> {
    let config = settings.config();
    std::fs::create_dir_all(&config.dir).with_context(|| format!("cannot make {}", config.dir.display()))?;
    let registry = Registry::new();
    let metrics = Metrics::new(&registry)?;
    let token = admin_token(&config)?;
    let Some(own) = shutdown.run_until_cancelled(Own::open(&config)).await.transpose()? else {
        return Ok(());
    };
    let doors = bind_within(&config, &own, doors_within).await?;
    let addresses = publish_addresses(&config, &doors)?;
    let (folder, workers) = (Folder::open(config.dir.join("artifacts"))?, Workers::start(&config.serving)?);
    let engine = choose_engine(&config, &metrics);

    let store = open_store(&config, &addresses, &doors, &registry).await?;
    let cloud =
        CloudLink::new(config.uplink.clone(), doors.cloud_dialer, edge_uplink::Metrics::new(&registry)?);
    let own_shown = (own.credentials.clone(), own.identity.clone());
    let keeper = Keeper::new(own, &config.identity, cloud.clone(), &registry)?;
    let (active, refusal) = (ActiveBundle::default(), watch::Sender::new(Refusal::default()));
    let leader = caught_up_leader(store.clone(), shutdown.clone());
    let report = report(&store, &active, &engine, &metrics, refusal.subscribe(), addresses.clients.clone());

    let sources = sources(&config, &folder, &cloud, &store, doors.peer_dialer);
    let bundles = Bundles {
        engine,
        trusted: trusted_keys(&config)?,
        sources,
        store: store.clone(),
        cloud: cloud.clone(),
        active: active.clone(),
        leader: leader.clone(),
        refusal,
        metrics: metrics.clone(),
    };
    let clients = told_clients(&config, &addresses);
    let gateway = Gateway::new(&config, clients, store.clone(), workers, active.clone(), metrics)?;
    let (gateway, ready) = (Arc::new(gateway), readiness(&store, &active, shutdown.clone()));
    let standings = Standings { store: store.clone(), active: active.clone(), leader: leader.clone() };
    let cache = open_cache(&config, &store, &registry).await?;
    let purger = Purger { store: store.clone(), cache: cache.clone() };
    let http_metrics = HttpMetrics::new(&registry)?;
    let http = Http::new(gateway.clone(), purger.clone(), ready.clone(), http_metrics, shutdown.clone());
    let http_doors = http::Doors { tcp: doors.http, quic: doors.clients.clone() };
    let http = http::serve(http_doors, http, config.http.clone())?;
    let commits = StoreCommits::follow(store.clone(), shutdown.clone());
    let admin = Admin { store: store.clone(), purger, cloud: cloud.clone(), report: report.clone(), token };
    let admin = admin_routes(admin, registry, ready);
    let peers = Arc::new(Peers { store: store.clone(), folder });
    // Peers are served until the very end: the store shuts down over them.
    let peers_end = Shutdown::new();
    let peers = tokio::spawn(peers.serve(doors.peers, peers_end.clone()));
    tracing::info!(pop = %config.node.pop, node = %config.node.id, ?addresses, "node is up");

    let tasks = TaskTracker::new();
    tasks.spawn(service::admin::serve(doors.admin, admin, shutdown.clone()));
    tasks.spawn(keep_link(cloud.clone(), report, standings, shutdown.clone()));
    tasks.spawn(keeper.run(shutdown.clone()));
    tasks.spawn(erasures::follow(store.clone(), cloud.clone(), leader.clone(), shutdown.clone()));
    tasks.spawn(edge_uplink::tail(Arc::new(commits), leader, cloud, shutdown.clone()));
    tasks.spawn(bundles.run(shutdown.clone()));
    tasks.spawn(disk::end_when_it_recovers(store.clone(), config.dir.clone(), shutdown.clone()));
    tasks.spawn(http);
    tasks.spawn(settings.clone().follow(changing(&gateway, own_shown), shutdown.clone()));
    tasks.spawn(prefetch::follow(active, cache.clone(), shutdown.clone()));
    tasks.spawn(gateway.serve(doors.clients, shutdown.clone()));
    shutdown.cancelled().await;
    end(&store, &cache, &tasks).await;
    peers_end.cancel();
    peers.await.context("the peers' door panicked")
}

/// What SIGHUP changes.
fn changing(gateway: &Arc<Gateway>, (credentials, identity): (Credentials, Identity)) -> Changing {
    Changing { gateway: Arc::clone(gateway), credentials, identity }
}

fn admin_routes(admin: Admin, registry: Registry, ready: service::admin::Readiness) -> axum::Router {
    let remarks = standing::remarks(&admin.cloud);
    admin::router(admin).merge(service::admin::router(registry, ready, remarks))
}

/// Ends a life, in the order of who needs whom.
async fn end(store: &Store, cache: &Cache, tasks: &TaskTracker) {
    hand_over(store).await;
    tasks.close();
    tasks.wait().await;
    cache.close().await;
    store.shutdown().await;
}

/// A leader that goes lets another one lead first: writes then wait for some milliseconds, not for an election.
async fn hand_over(store: &Store) {
    if !store.leadership().borrow().is_leader {
        return;
    }
    match tokio::time::timeout(HAND_OVER_WITHIN, store.transfer_leadership()).await {
        Ok(Ok(())) => tracing::info!("another node leads now"),
        Ok(Err(error)) => tracing::warn!(%error, "leadership is not handed over"),
        Err(_) => tracing::warn!("no other node took over in time"),
    }
}

/// Where artifacts come from.
fn sources(
    config: &Config,
    folder: &Folder,
    cloud: &CloudLink,
    store: &Store,
    dialer: Arc<dyn Dialer>,
) -> Sources {
    Sources {
        folder: folder.clone(),
        cloud: cloud.clone(),
        store: store.clone(),
        dialer,
        pop: config.node.pop.clone(),
        node: config.node.id,
    }
}

/// The clients' settings, with an address to tell them.
fn told_clients(config: &Config, addresses: &Addresses) -> ClientsConfig {
    let mut clients = config.clients.clone();
    if clients.public.is_empty() {
        clients.public = vec![addresses.clients.clone()];
    }
    clients
}

/// Founders form the PoP, or go on in it. A node without founders waits to be joined.
async fn form(store: &Store, config: &Config) -> anyhow::Result<()> {
    let founders = config.members()?;
    if founders.is_empty() {
        return Ok(());
    }
    store.form(founders).await.context("cannot form or rejoin the PoP")
}

async fn keep_link(cloud: CloudLink, report: Report, standings: Standings, shutdown: Shutdown) {
    cloud.run(Reports { report, standing: Arc::new(move || standings.now()) }, shutdown).await;
}

async fn bind_within(config: &Config, own: &Own, within: Duration) -> anyhow::Result<Doors> {
    let until = tokio::time::Instant::now() + within;
    loop {
        match bind(config, own).await {
            Err(error) if tokio::time::Instant::now() < until => {
                tracing::debug!(%error, "a door of the life before is still open");
                tokio::time::sleep(DOORS_TRIED_EVERY).await;
            }
            bound => return bound,
        }
    }
}

async fn bind(config: &Config, own: &Own) -> anyhow::Result<Doors> {
    let Own { credentials, trust, public, .. } = own;
    let for_http = public.as_ref().map_or(credentials, PublicCertificate::credentials);
    let for_apps = credentials.with_http3(for_http);
    let clients = Settings {
        max_connections: config.clients.connections_max,
        max_bidi_streams: config.clients.streams_max,
        connection_age_max_ms: config.clients.connection_age_max_ms,
        http3: true,
        ..Settings::clients()
    };
    let inside = Settings::peers();
    let pop = config.node.pop.clone();
    let listen = |address: &str| -> anyhow::Result<SocketAddr> {
        address.parse().with_context(|| format!("{address:?} is not an address such as 127.0.0.1:7443"))
    };
    let admin = TcpListener::bind(&config.admin.listen).await;
    let clients =
        QuicListener::bind(listen(&config.clients.listen)?, Door::Clients, &for_apps, trust, &clients)?;
    let http = match config.http.listen.as_str() {
        "" => clients.local_socket(),
        address => listen(address)?,
    };
    let limits = Limits {
        connections_max: config.http.connections_max,
        handshake_timeout_ms: config.http.handshake_timeout_ms,
    };
    Ok(Doors {
        clients: Arc::new(clients),
        http: TcpDoor::bind(http, for_http, http::ALPN, &limits)?,
        peers: Arc::new(QuicListener::bind(
            listen(&config.peers.listen)?,
            Door::Peers { pop },
            credentials,
            trust,
            &inside,
        )?),
        admin: admin.with_context(|| format!("cannot listen on {} (admin.listen)", config.admin.listen))?,
        peer_dialer: Arc::new(QuicDialer::new(trust, Some(credentials), ALPN_PEER, &inside)?),
        cloud_dialer: Arc::new(QuicDialer::new(trust, Some(credentials), ALPN_UPLINK, &inside)?),
    })
}

fn publish_addresses(config: &Config, doors: &Doors) -> anyhow::Result<Addresses> {
    let peers = doors.peers.local_address();
    let addresses = Addresses {
        clients: doors.clients.local_address(),
        http: doors.http.local_socket().to_string(),
        peers: if config.peers.public.is_empty() { peers } else { config.peers.public.clone() },
        admin: doors.admin.local_addr()?.to_string(),
    };
    service::files::publish(&config.dir.join("addresses.json"), &serde_json::to_vec_pretty(&addresses)?)?;
    Ok(addresses)
}

async fn open_store(
    config: &Config,
    addresses: &Addresses,
    doors: &Doors,
    registry: &Registry,
) -> anyhow::Result<Store> {
    let set = &config.store;
    let dir = config.dir.join("store");
    let defaults =
        edge_store::StoreConfig::new(config.node.pop.clone(), config.node.id, dir, &addresses.peers);
    let store_config = edge_store::StoreConfig {
        heartbeat_ms: set.heartbeat_ms,
        election_min_ms: set.election_min_ms,
        election_max_ms: set.election_max_ms,
        group_commit_len_max: set.group_commit_len_max,
        group_commit_bytes_max: set.group_commit_bytes_max,
        queue_len_max: set.queue_len_max,
        snapshot_every: set.snapshot_every,
        outbox_len_max: set.outbox_len_max,
        cache_bytes: set.cache_bytes,
        ..defaults
    };
    let opened = Store::open(store_config, doors.peer_dialer.clone(), registry).await;
    let store = opened.context("cannot open the store")?;
    if let Err(error) = form(&store, config).await {
        store.shutdown().await;
        return Err(error);
    }
    Ok(store)
}

async fn open_cache(config: &Config, store: &Store, registry: &Registry) -> anyhow::Result<Cache> {
    let (settings, dir, ledger) = (config.cache.clone(), config.dir.join("cache"), purge::ledger(store));
    let metrics = edge_cache::Metrics::new(registry)?;
    let runtime = tokio::runtime::Handle::current();
    let opened = tokio::task::spawn_blocking(move || {
        let _entered = runtime.enter();
        Cache::open(settings, &dir, ledger, metrics)
    });
    opened.await.context("opening the cache panicked")?.map_err(anyhow::Error::msg)
}

fn choose_engine(config: &Config, metrics: &Metrics) -> Engine {
    let library = &config.serving.onnxruntime;
    let engine = Engine::choose((!library.as_os_str().is_empty()).then_some(library.as_path()));
    tracing::info!(engine = engine.kind().as_str(), "{}", engine.describe());
    metrics.engine.with_label_values(&[engine.kind().as_str()]).set(1);
    engine
}

fn trusted_keys(config: &Config) -> anyhow::Result<Vec<PublicKey>> {
    let key = |hex: &String| {
        PublicKey::from_hex(hex)
            .with_context(|| format!("bundles.trusted_keys: {hex:?} is not 64 hex digits"))
    };
    config.bundles.trusted_keys.iter().map(key).collect()
}

fn admin_token(config: &Config) -> anyhow::Result<String> {
    let path = &config.admin.token;
    if !path.exists() {
        service::secrets::write_new(path, &service::secrets::generate())?;
        tracing::info!(path = %path.display(), "made an admin token");
    }
    Ok(service::secrets::read(path)?)
}

fn report(
    store: &Store,
    active: &ActiveBundle,
    engine: &Engine,
    metrics: &Metrics,
    refusal: watch::Receiver<Refusal>,
    client_address: String,
) -> Report {
    let (store, active, metrics) = (store.clone(), active.clone(), metrics.clone());
    let engine = engine.kind().as_str().to_owned();
    Arc::new(move || {
        let (status, serving, refusal) = (store.status(), active.load(), refusal.borrow().clone());
        let bundle = serving.as_ref().map(|serving| serving.prepared.bundle());
        NodeReport {
            role: status.role,
            term: status.term,
            applied: status.applied,
            last_log: status.last_log,
            outbox: status.outbox_len,
            revision: bundle.map_or(Revision(0), |bundle| bundle.manifest.revision),
            retrieval: bundle.and_then(|b| b.retrieval.as_ref()).map(|s| s.model.version().to_string()),
            ranker: bundle.and_then(|b| b.ranker.as_ref()).map(|s| s.model.version().to_string()),
            engine: engine.clone(),
            in_flight: u64::try_from(metrics.in_flight.get()).unwrap_or(0),
            bundle_error: refusal.reason,
            client_address: client_address.clone(),
            unfit: refusal.unfit,
            answers: serving.as_ref().map(|serving| serving.tally.counts()).unwrap_or_default(),
        }
    })
}

/// Ready: there is a leader, and a bundle to serve from.
fn readiness(store: &Store, active: &ActiveBundle, leaving: Shutdown) -> service::admin::Readiness {
    let (leadership, active) = (store.leadership(), active.clone());
    let store = store.clone();
    Arc::new(move || {
        if leaving.is_cancelled() {
            return Err("this node was told to end".to_owned());
        }
        if let Some(reason) = store.failure() {
            return Err(format!("nothing is acknowledged, the store has ended: {reason}"));
        }
        if let Some(reason) = standing::outside(&store) {
            return Err(reason);
        }
        match store.age() {
            None => return Err("no leader has answered yet".to_owned()),
            Some(age) if age > CUT_OFF_AFTER => {
                return Err(format!("this node was cut off from its PoP's majority {} s ago", age.as_secs()));
            }
            Some(_) => {}
        }
        if leadership.borrow().leader.is_none() {
            return Err("no leader is known".to_owned());
        }
        if active.load().is_none() {
            return Err("no bundle was activated yet".to_owned());
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use edge_store::StoreError;

    use super::*;

    #[test]
    fn what_the_system_refuses_is_tried_again_and_damage_is_not() {
        let full = || io::Error::from_raw_os_error(28);
        let store = |error: StoreError| anyhow::Error::new(error).context("cannot open the store");
        let io = |error| StoreError::Io { operation: "create", path: "store/log".into(), source: error };
        assert!(refused_by_system(&store(io(full()))));
        assert!(refused_by_system(&store(io(io::Error::new(io::ErrorKind::StorageFull, "with more words")))));
        let taken = LinkErrorKind::Io(Arc::new(io::Error::from_raw_os_error(98)));
        assert!(refused_by_system(
            &LinkError { operation: "listen", remote: "127.0.0.1:1".into(), kind: taken }.into()
        ));
        let damaged = io::Error::new(io::ErrorKind::InvalidData, "a record that was promised cannot be read");
        assert!(!refused_by_system(&store(StoreError::LogDamaged(damaged))));
        assert!(!refused_by_system(&anyhow::anyhow!("bundles.trusted_keys: \"x\" is not 64 hex digits")));
    }
}
