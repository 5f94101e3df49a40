//! Dials QUIC connections, all from one UDP socket: thousands of links cost a task and some kilobytes each.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quinn::{ClientConfig, ConnectError, Connection, Endpoint, RecvStream, VarInt};
use rustls_pki_types::CertificateDer;

use super::link::{QuicLink, Shared, connection_kind};
use super::{CONTROL_ADMITTED, CONTROL_DRAIN, CloseCode, Settings, tls};
use crate::error::{LinkError, LinkErrorKind};
use crate::identity::Identity;
use crate::link::{Dialer, Link, Peer, Remote};
use crate::pki::{Credentials, Revoked, Trust};
use crate::stream::FrameBudget;

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Makes QUIC links. Cheap to share, not to make: it owns a UDP socket.
#[derive(Debug)]
pub struct QuicDialer {
    endpoint: Endpoint,
    config: ClientConfig,
    /// The listener checks our certificate: wait until it has.
    mutual: bool,
    budget: Arc<FrameBudget>,
    revoked: Revoked,
}

impl QuicDialer {
    /// Opens a UDP socket on any free port. Must be called within a tokio runtime.
    ///
    /// `alpn` is the conversation, for example [`proto::ALPN_CLIENT`]; `credentials` are shown where the listener asks.
    ///
    /// # Errors
    /// Where the settings or credentials cannot work, or no socket is to be had.
    pub fn new(
        trust: &Trust,
        credentials: Option<&Credentials>,
        alpn: &[u8],
        settings: &Settings,
    ) -> Result<Self, LinkError> {
        Self::open(trust, credentials, alpn, settings)
            .map_err(|kind| kind.at("open a dialer", "this process"))
    }

    fn open(
        trust: &Trust,
        credentials: Option<&Credentials>,
        alpn: &[u8],
        settings: &Settings,
    ) -> Result<Self, LinkErrorKind> {
        settings.check()?;
        let config = tls::client(trust, credentials, alpn, settings)?;
        // IPv6 sockets reach IPv4 too; some containers have no IPv6 at all.
        let endpoint = tls::endpoint((Ipv6Addr::UNSPECIFIED, 0).into(), None, settings)
            .or_else(|_| tls::endpoint((Ipv4Addr::UNSPECIFIED, 0).into(), None, settings))?;
        Ok(Self {
            endpoint,
            config,
            mutual: ![proto::ALPN_CLIENT, proto::ALPN_ENROL].contains(&alpn),
            budget: FrameBudget::new(settings.frame_bytes_max),
            revoked: trust.revoked().clone(),
        })
    }

    /// Closes every link at once and waits, at most `timeout`, until the other sides were told.
    pub async fn shutdown(&self, reason: &str, timeout: Duration) {
        self.endpoint.close(VarInt::from_u32(CloseCode::Normal as u32), reason.as_bytes());
        // Elapsed: who does not answer will find out by its idle timeout.
        let _ = tokio::time::timeout(timeout, self.endpoint.wait_idle()).await;
    }

    /// Tries the addresses of one name in turn.
    async fn connect(&self, address: &str, expect: &Peer) -> Result<Arc<dyn Link>, LinkErrorKind> {
        let name = expect.server_name().map_err(|e| LinkErrorKind::Address(e.to_string().into()))?;
        let addresses = tokio::net::lookup_host(address)
            .await
            .map_err(|e| LinkErrorKind::Address(e.to_string().into()))?;
        let mut last = LinkErrorKind::Address("the name has no address".into());
        for socket_address in addresses.take(ADDRESSES_MAX) {
            match self.connect_to(socket_address, address, &name).await {
                Ok(link) => return Ok(link),
                Err(kind) => last = kind,
            }
        }
        Err(last)
    }

    async fn connect_to(
        &self,
        socket_address: SocketAddr,
        address: &str,
        name: &str,
    ) -> Result<Arc<dyn Link>, LinkErrorKind> {
        let connecting = self.endpoint.connect_with(self.config.clone(), socket_address, name);
        let connection = connecting.map_err(connect_kind)?.await.map_err(|error| connection_kind(&error))?;
        // Verified by rustls before the handshake was done; a public certificate names nobody of ours.
        let identity = peer_certificate(&connection).and_then(|der| Identity::of_certificate(&der).ok());
        let remote = Remote { address: address.to_owned(), identity, public_names: Vec::new() };
        let shared = Shared::new(connection, remote, Arc::clone(&self.budget));
        // From here on, giving up closes the connection.
        let link = QuicLink(Arc::clone(&shared));
        if let Some(identity) = link.remote().identity.as_ref().filter(|them| self.revoked.contains(them)) {
            let reason = format!("{identity} was revoked");
            shared.close(CloseCode::Forbidden, &reason);
            return Err(LinkErrorKind::Forbidden(reason.into()));
        }
        let mut control = None;
        if self.mutual {
            control = Some(admitted(&shared.connection).await?);
        }
        tokio::spawn(watch(shared, control, self.revoked.clone()));
        Ok(Arc::new(link))
    }
}

#[async_trait]
impl Dialer for QuicDialer {
    async fn dial(
        &self,
        address: &str,
        expect: &Peer,
        timeout: Duration,
    ) -> Result<Arc<dyn Link>, LinkError> {
        match tokio::time::timeout(timeout, self.connect(address, expect)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(kind)) => Err(kind.at("dial", address)),
            Err(_) => Err(LinkErrorKind::Timeout.at("dial", address)),
        }
    }
}

/// The certificate that the other side showed and rustls verified.
pub(super) fn peer_certificate(connection: &Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}

fn connect_kind(error: ConnectError) -> LinkErrorKind {
    match error {
        ConnectError::InvalidServerName(name) => {
            LinkErrorKind::Address(format!("{name:?} is not a name a certificate can carry").into())
        }
        ConnectError::InvalidRemoteAddress(address) => {
            LinkErrorKind::Address(format!("{address} cannot be reached from this socket").into())
        }
        other => LinkErrorKind::Closed(other.to_string().into()),
    }
}

/// Waits until the listener says that our certificate was accepted.
async fn admitted(connection: &Connection) -> Result<RecvStream, LinkErrorKind> {
    let mut control = connection.accept_uni().await.map_err(|error| connection_kind(&error))?;
    match next_control(&mut control).await {
        Some(CONTROL_ADMITTED) => Ok(control),
        _ => match connection.close_reason() {
            Some(error) => Err(connection_kind(&error)),
            None => Err(LinkErrorKind::Closed("the other side did not admit this one".into())),
        },
    }
}

async fn next_control(control: &mut RecvStream) -> Option<u8> {
    let mut byte = [0; 1];
    control.read_exact(&mut byte).await.ok().map(|()| byte[0])
}

/// Watches over a dialed connection until it ends: closes it when the program lets go of it, or when the listener asked to
/// wind down and the last stream is done; at once when who is there was revoked.
async fn watch(shared: Arc<Shared>, control: Option<RecvStream>, revoked: Revoked) {
    tokio::select! {
        () = live(&shared, control) => {}
        () = revoked.until(shared.remote.identity.as_ref()) => {
            shared.close(CloseCode::Forbidden, "this identity was revoked");
        }
    }
}

async fn live(shared: &Shared, control: Option<RecvStream>) {
    let reason = tokio::select! {
        _ = shared.connection.closed() => return,
        () = drain_requested(&shared.connection, control) => CloseCode::Drained,
        () = shared.released.cancelled() => CloseCode::Normal,
    };
    shared.draining.cancel();
    tokio::select! {
        _ = shared.connection.closed() => {}
        () = shared.idle() => shared.close(reason, "done"),
    }
}

/// Waits for [`CONTROL_DRAIN`]; for ever, if it never comes. Other bytes are for later versions.
async fn drain_requested(connection: &Connection, control: Option<RecvStream>) {
    let mut control = match control {
        Some(control) => control,
        None => match connection.accept_uni().await {
            Ok(control) => control,
            Err(_) => return std::future::pending().await,
        },
    };
    loop {
        match next_control(&mut control).await {
            Some(CONTROL_DRAIN) => return,
            Some(_) => {}
            None => return std::future::pending().await,
        }
    }
}
