//! Accepts QUIC connections, admits who may come in, and winds old ones down.

use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use quinn::{Connection, Endpoint, Incoming, SendStream, VarInt};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dialer::peer_certificate;
use super::http3::{self, Http3Caller};
use super::link::{QuicLink, Shared, connection_kind};
use super::{CONTROL_ADMITTED, CONTROL_DRAIN, CloseCode, Settings, tls};
use crate::error::{LinkError, LinkErrorKind};
use crate::identity::Identity;
use crate::link::{Door, Link, Listener, Remote};
use crate::pki::{self, Credentials, Revoked, Trust};
use crate::stream::FrameBudget;

/// Admitted links that may wait for [`Listener::accept`].
const READY_LINKS_MAX: usize = 64;
/// How long the endpoint may take to tell everybody that it is gone.
const FAREWELL_MS: u64 = 500;

/// Accepts QUIC links on one UDP socket.
#[derive(Debug)]
pub struct QuicListener {
    endpoint: Endpoint,
    address: SocketAddr,
    ready: Mutex<mpsc::Receiver<Arc<dyn Link>>>,
    http3: Mutex<mpsc::Receiver<Http3Caller>>,
    doorman: Arc<Doorman>,
}

/// What a listener counted. All but `connections` only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections now, handshakes included.
    pub connections: u64,
    /// Links admitted.
    pub admitted_total: u64,
    /// Callers sent away unheard: too many connections or handshakes.
    pub refused_total: u64,
    /// Callers that first had to prove their address.
    pub retried_total: u64,
    /// Handshakes that failed, and certificates that may not come in.
    pub failed_total: u64,
}

/// What every connection's task needs.
#[derive(Debug)]
struct Doorman {
    door: Door,
    settings: Settings,
    budget: Arc<FrameBudget>,
    revoked: Revoked,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    admitted: AtomicU64,
    refused: AtomicU64,
    retried: AtomicU64,
    failed: AtomicU64,
}

impl QuicListener {
    /// Listens on `address` (port 0: any free one). Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the settings or credentials cannot work, or the address is taken.
    pub fn bind(
        address: SocketAddr,
        door: Door,
        credentials: &Credentials,
        trust: &Trust,
        settings: &Settings,
    ) -> Result<Self, LinkError> {
        Self::open(address, door, credentials, trust, settings)
            .map_err(|kind| kind.at("listen", address.to_string()))
    }

    fn open(
        address: SocketAddr,
        door: Door,
        credentials: &Credentials,
        trust: &Trust,
        settings: &Settings,
    ) -> Result<Self, LinkErrorKind> {
        settings.check()?;
        let server = tls::server(&door, credentials, trust, settings)?;
        let endpoint = tls::endpoint(address, Some(server), settings)?;
        let address = endpoint.local_addr().map_err(|e| LinkErrorKind::Io(Arc::new(e)))?;
        let (links, ready) = mpsc::channel(READY_LINKS_MAX);
        let (http3_callers, http3) = mpsc::channel(READY_LINKS_MAX);
        let doorman = Arc::new(Doorman {
            door,
            budget: FrameBudget::new(settings.frame_bytes_max),
            revoked: trust.revoked().clone(),
            connections: Arc::new(Semaphore::new(settings.max_connections)),
            handshakes: Arc::new(Semaphore::new(settings.max_incoming)),
            settings: settings.clone(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            admitted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let hall = Hall { links, http3: http3_callers };
        tokio::spawn(receive(endpoint.clone(), Arc::clone(&doorman), hall));
        Ok(Self { endpoint, address, ready: Mutex::new(ready), http3: Mutex::new(http3), doorman })
    }

    /// The socket's address.
    pub fn local_socket(&self) -> SocketAddr {
        self.address
    }

    /// The next caller who speaks HTTP/3, where [`Settings::http3`] lets them in; `None` once the listener ends.
    pub async fn accept_http3(&self) -> Option<Http3Caller> {
        self.http3.lock().await.recv().await
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        let doorman = &self.doorman;
        Stats {
            connections: doorman.tasks.len() as u64,
            admitted_total: doorman.admitted.load(Ordering::Relaxed),
            refused_total: doorman.refused.load(Ordering::Relaxed),
            retried_total: doorman.retried.load(Ordering::Relaxed),
            failed_total: doorman.failed.load(Ordering::Relaxed),
        }
    }
}

#[async_trait]
impl Listener for QuicListener {
    async fn accept(&self) -> Option<Arc<dyn Link>> {
        self.ready.lock().await.recv().await
    }

    fn local_address(&self) -> String {
        self.address.to_string()
    }

    async fn shutdown(&self) {
        self.endpoint.set_server_config(None);
        self.doorman.shutdown.cancel();
        self.doorman.tasks.close();
        // Every task ends by itself within `drain_ms`.
        self.doorman.tasks.wait().await;
        self.endpoint.close(VarInt::from_u32(CloseCode::Normal as u32), b"shut down");
        let farewell =
            tokio::time::timeout(Duration::from_millis(FAREWELL_MS), self.endpoint.wait_idle()).await;
        // Who does not answer will find out by its idle timeout.
        if farewell.is_err()
            && let Err(error) = self.leave_socket().await
        {
            tracing::debug!(%error, "the socket is kept until the last connection is forgotten");
        }
    }
}

impl QuicListener {
    /// Frees the address. quinn keeps the socket until each closed connection's last timer has run out, which after a time of great
    /// delays is many seconds, and whoever holds a stream longer yet. Twice, since it also keeps the one before.
    async fn leave_socket(&self) -> std::io::Result<()> {
        for _ in 0..2 {
            self.endpoint.rebind(UdpSocket::bind((self.address.ip(), 0))?)?;
            // Each connection's own task lets go of the socket.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

impl Drop for QuicListener {
    fn drop(&mut self) {
        self.doorman.shutdown.cancel();
        self.endpoint.close(VarInt::from_u32(CloseCode::Normal as u32), b"the listener is gone");
    }
}

/// Takes connection attempts until shutdown; each gets a task of its own, so that a slow one delays nobody.
async fn receive(endpoint: Endpoint, doorman: Arc<Doorman>, hall: Hall) {
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = doorman.shutdown.cancelled() => None,
        };
        let Some(incoming) = incoming else { return };
        let Some((incoming, permits)) = doorman.screen(incoming) else { continue };
        let serving = serve(Arc::clone(&doorman), incoming, permits, hall.clone());
        doorman.tasks.spawn(serving);
    }
}

/// Where those who were admitted wait to be accepted.
#[derive(Debug, Clone)]
struct Hall {
    links: mpsc::Sender<Arc<dyn Link>>,
    http3: mpsc::Sender<Http3Caller>,
}

impl Hall {
    /// False: nobody accepts any more.
    async fn enter(self, shared: &Arc<Shared>, http3: Option<&CancellationToken>) -> bool {
        match http3 {
            Some(ending) => self.http3.send(Http3Caller::new(shared, ending)).await.is_ok(),
            None => {
                let link: Arc<dyn Link> = Arc::new(QuicLink(Arc::clone(shared)));
                self.links.send(link).await.is_ok()
            }
        }
    }
}

/// What a connection holds: a place among all, and during its handshake one among those.
struct Permits {
    connection: OwnedSemaphorePermit,
    handshake: OwnedSemaphorePermit,
}

impl Doorman {
    /// Decides about a caller that has sent one packet, before anything is spent on it.
    fn screen(&self, incoming: Incoming) -> Option<(Incoming, Permits)> {
        let crowded = self.handshakes.available_permits() * 2 < self.settings.max_incoming;
        if crowded && !incoming.remote_address_validated() {
            self.retried.fetch_add(1, Ordering::Relaxed);
            // Cannot fail: an address that is not validated may always be asked to retry.
            let _ = incoming.retry();
            return None;
        }
        let connection = Arc::clone(&self.connections).try_acquire_owned();
        let handshake = Arc::clone(&self.handshakes).try_acquire_owned();
        if let (Ok(connection), Ok(handshake)) = (connection, handshake) {
            return Some((incoming, Permits { connection, handshake }));
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        incoming.refuse();
        None
    }

    /// Shakes hands and checks the identity.
    async fn admit(&self, incoming: Incoming) -> Result<(Arc<Shared>, Option<SendStream>), LinkErrorKind> {
        let connection = incoming.await.map_err(|error| connection_kind(&error))?;
        let certificate = peer_certificate(&connection);
        let identity =
            certificate.as_ref().map(|der| Identity::of_certificate(der).map_err(|e| e.to_string()));
        let admitted =
            identity.transpose().and_then(|identity| self.admits(identity.as_ref()).map(|()| identity));
        let address = connection.remote_address().to_string();
        match admitted {
            Ok(identity) => {
                let control = self.greet(&connection).await?;
                let public_names = certificate.as_ref().map(pki::public_names).unwrap_or_default();
                let remote = Remote { address, identity, public_names };
                Ok((Shared::new(connection, remote, Arc::clone(&self.budget)), control))
            }
            Err(reason) => {
                connection.close(VarInt::from_u32(CloseCode::Forbidden as u32), reason.as_bytes());
                Err(LinkErrorKind::Forbidden(reason.into()))
            }
        }
    }

    /// Who comes in: asked after every handshake, whatever it rested on.
    fn admits(&self, identity: Option<&Identity>) -> Result<(), String> {
        match identity.filter(|identity| self.revoked.contains(identity)) {
            Some(identity) => Err(format!("{identity} was revoked")),
            None => self.door.admits(identity),
        }
    }

    /// Tells a dialer whose certificate was checked that it is in. Clients do not wait for that.
    async fn greet(&self, connection: &Connection) -> Result<Option<SendStream>, LinkErrorKind> {
        if !self.door.is_mutual() {
            return Ok(None);
        }
        let mut control = connection.open_uni().await.map_err(|error| connection_kind(&error))?;
        let written = control.write_all(&[CONTROL_ADMITTED]).await;
        written.map_err(|error| LinkErrorKind::Closed(error.to_string().into()))?;
        Ok(Some(control))
    }

    fn drain_max(&self) -> Duration {
        Duration::from_millis(self.settings.drain_ms)
    }

    /// The maximum age, less up to a tenth.
    fn age_max(&self) -> Duration {
        let age_ms = self.settings.connection_age_max_ms;
        // A fresh RandomState is seeded by the process: enough to spread, and no need of a generator.
        let spread_ms = RandomState::new().hash_one(0) % (age_ms / 10).max(1);
        Duration::from_millis(age_ms - spread_ms)
    }
}

/// The life of one connection.
async fn serve(doorman: Arc<Doorman>, incoming: Incoming, permits: Permits, hall: Hall) {
    let address = incoming.remote_address();
    let handshake_max = Duration::from_millis(doorman.settings.handshake_timeout_ms);
    let admitted = tokio::time::timeout(handshake_max, doorman.admit(incoming)).await;
    let (shared, control) = match admitted.unwrap_or(Err(LinkErrorKind::Timeout)) {
        Ok(admitted) => admitted,
        Err(error) => {
            doorman.failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%address, %error, "connection not admitted");
            return;
        }
    };
    let Permits { connection: _connection, handshake } = permits;
    drop(handshake);
    tokio::select! {
        () = live(&doorman, &shared, control, hall) => {}
        () = doorman.revoked.until(shared.remote.identity.as_ref()) => {
            tracing::warn!(%address, identity = ?shared.remote.identity, "revoked: the connection is closed");
            shared.close(CloseCode::Forbidden, "this identity was revoked");
        }
    }
}

/// From the admission on: hands the link over, and winds it down at its time.
async fn live(doorman: &Doorman, shared: &Arc<Shared>, control: Option<SendStream>, hall: Hall) {
    let http3 = http3::spoken(&shared.connection).then(CancellationToken::new);
    tokio::select! {
        // While anybody holds a hall, `accept` waits for more: entering ends this one.
        entered = hall.enter(shared, http3.as_ref()) => if !entered {
            return shared.close(CloseCode::Normal, "nobody accepts links any more");
        },
        () = doorman.shutdown.cancelled() => {
            return shared.close(CloseCode::Normal, "shutting down");
        }
    }
    doorman.admitted.fetch_add(1, Ordering::Relaxed);
    let reason = tokio::select! {
        _ = shared.connection.closed() => return,
        () = tokio::time::sleep(doorman.age_max()) => "reached its maximum age",
        () = doorman.shutdown.cancelled() => "shutting down",
        () = shared.released.cancelled() => "let go",
    };
    match http3 {
        None => wind_down(doorman, shared, control, reason).await,
        Some(ending) => {
            // Whoever serves it sends GOAWAY, and lets go.
            ending.cancel();
            let drained = tokio::time::timeout(doorman.drain_max(), shared.connection.closed()).await;
            if drained.is_err() {
                shared.close(CloseCode::Http3NoError, reason);
            }
        }
    }
}

/// Asks the dialer to open no more streams, and gives those in flight their time.
async fn wind_down(doorman: &Doorman, shared: &Shared, control: Option<SendStream>, reason: &str) {
    let orderly = async {
        let asked = async {
            let mut control = match control {
                Some(control) => control,
                None => shared.connection.open_uni().await.ok()?,
            };
            control.write_all(&[CONTROL_DRAIN]).await.ok()?;
            Some(control)
        };
        // Kept until the end: dropping it would finish it, which says nothing.
        let _control = asked.await;
        shared.connection.closed().await;
    };
    if tokio::time::timeout(doorman.drain_max(), orderly).await.is_err() {
        shared.close(CloseCode::DrainTimeout, reason);
    }
}
