//! TLS on TCP, for what speaks HTTP: browsers, servers, tools. It shows what the QUIC door of the same process shows; who comes
//! in shows nothing. Which protocol is spoken is agreed on in the handshake (ALPN, RFC 7301).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::version::{TLS12, TLS13};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::error::{LinkError, LinkErrorKind};
use crate::pki::{Credentials, provider};

/// Connections that the system holds for us.
const BACKLOG: i32 = 1_024;
/// How long sent bytes may stay unacknowledged, and a silent connection unprobed.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// Hellos that are answered between two turns of all else that is ready: each takes a processor for as long as a request does, and many
/// that come together would keep who is already in waiting for all of them.
const HELLOS_A_TURN: usize = 2;

/// Limits of a [`TcpDoor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, handshakes included; more wait in the system's queue.
    pub connections_max: usize,
    /// How long a handshake may take, in milliseconds.
    pub handshake_timeout_ms: u64,
}

/// Accepts TLS connections on one TCP socket.
#[derive(Debug)]
pub struct TcpDoor {
    listener: TcpListener,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    places: Arc<Semaphore>,
    hellos: Arc<Semaphore>,
    handshake_max: Duration,
}

impl TcpDoor {
    /// Listens on `address` (port 0: any free one), and offers these protocols, the best first. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// Where the credentials cannot work, or the address is taken.
    pub fn bind(
        address: SocketAddr,
        credentials: &Credentials,
        protocols: &[&[u8]],
        limits: &Limits,
    ) -> Result<Self, LinkError> {
        let open = || {
            let config = config(credentials, protocols)?;
            let listener = listen(address).map_err(|error| LinkErrorKind::Io(Arc::new(error)))?;
            let address = listener.local_addr().map_err(|error| LinkErrorKind::Io(Arc::new(error)))?;
            Ok(Self {
                listener,
                address,
                config: Arc::new(config),
                places: Arc::new(Semaphore::new(limits.connections_max)),
                hellos: Arc::new(Semaphore::new(HELLOS_A_TURN)),
                handshake_max: Duration::from_millis(limits.handshake_timeout_ms),
            })
        };
        open().map_err(|kind: LinkErrorKind| kind.at("listen", address.to_string()))
    }

    /// Where it listens, with the port that was really taken.
    pub fn local_socket(&self) -> SocketAddr {
        self.address
    }

    /// How many more connections there may be.
    pub fn places_left(&self) -> usize {
        self.places.available_permits()
    }

    /// The next caller, once there is a place for it; its handshake is its own task's affair. Cancel safe.
    ///
    /// # Errors
    /// Where the system cannot accept now, for want of descriptors for example: wait a moment and try again.
    pub async fn accept(&self) -> io::Result<Caller> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, address) = self.listener.accept().await?;
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let (hellos, handshake_max) = (Arc::clone(&self.hellos), self.handshake_max);
        Ok(Caller { stream, address, acceptor, hellos, handshake_max, place })
    }
}

/// Somebody who connected, and has said nothing yet.
pub struct Caller {
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    hellos: Arc<Semaphore>,
    handshake_max: Duration,
    place: OwnedSemaphorePermit,
}

impl Caller {
    /// Where the caller is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// Where the caller does not speak TLS, offers none of our protocols, or takes too long.
    pub async fn shake_hands(self) -> io::Result<Connection> {
        self.stream.set_nodelay(true)?;
        // Whoever went away without a word does not keep a place.
        let keepalive = TcpKeepalive::new().with_time(DEAD_AFTER).with_interval(DEAD_AFTER / 3);
        let socket = SockRef::from(&self.stream);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
        let shaken = async {
            self.stream.readable().await?;
            let turn = self.hellos.acquire().await.map_err(io::Error::other)?;
            let mut handshake = pin!(self.acceptor.accept(self.stream));
            if let Poll::Ready(shaken) = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx))).await {
                return shaken;
            }
            // All else that is ready comes before the next.
            tokio::task::yield_now().await;
            drop(turn);
            handshake.await
        };
        let shaken = tokio::time::timeout(self.handshake_max, shaken).await;
        let stream = shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Connection { stream, place: self.place })
    }
}

/// A caller with whom keys are agreed on. Its place is free again when both parts are dropped.
pub struct Connection {
    /// What is said.
    pub stream: TlsStream<TcpStream>,
    /// Its place among the connections.
    pub place: OwnedSemaphorePermit,
}

impl Connection {
    /// What was agreed on to be spoken.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }
}

fn config(credentials: &Credentials, protocols: &[&[u8]]) -> Result<ServerConfig, LinkErrorKind> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| LinkErrorKind::Tls(error.to_string().into()))?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(credentials.clone()));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // What is sent in it can be sent again by others, and requests here change things.
    config.max_early_data_size = 0;
    Ok(config)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // Dual-stack where the system has it; without it only IPv6 is reached.
        if let Err(error) = socket.set_only_v6(false) {
            tracing::debug!(%error, "no dual-stack TCP socket");
        }
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
