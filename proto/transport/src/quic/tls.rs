//! TLS 1.3 for QUIC: always the `ring` provider; no resumption, because a resumed session does not check the client's
//! certificate again; no early data. What is shown and who is believed is looked up in each handshake.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, EndpointConfig, ServerConfig};
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use socket2::{Domain, Protocol, Socket, Type};

use super::http3::ALPN_HTTP3;
use super::settings::HTTP3_UNI_STREAMS_MAX;
use super::{Settings, verify};
use crate::error::LinkErrorKind;
use crate::link::Door;
use crate::pki::{Credentials, Trust, provider};

fn tls(error: impl std::fmt::Display) -> LinkErrorKind {
    LinkErrorKind::Tls(error.to_string().into())
}

/// What a listener behind `door` shows and demands.
pub(super) fn server(
    door: &Door,
    credentials: &Credentials,
    trust: &Trust,
    settings: &Settings,
) -> Result<ServerConfig, LinkErrorKind> {
    let builder = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?;
    let builder = match door.is_mutual() {
        true => builder.with_client_cert_verifier(verify::dialers(trust)?),
        false => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(credentials.clone()));
    config.alpn_protocols = vec![door.alpn().to_vec()];
    if settings.http3 {
        config.alpn_protocols.push(ALPN_HTTP3.to_vec());
    }
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).map_err(tls)?));
    server
        .transport_config(settings.transport(if settings.http3 { HTTP3_UNI_STREAMS_MAX } else { 0 })?)
        .max_incoming(settings.max_incoming);
    Ok(server)
}

/// What a dialer shows, if anything, and whom it trusts.
pub(super) fn client(
    trust: &Trust,
    credentials: Option<&Credentials>,
    alpn: &[u8],
    settings: &Settings,
) -> Result<ClientConfig, LinkErrorKind> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        // Not rustls' own verifier but one that asks it, and knows the grace.
        .dangerous()
        .with_custom_certificate_verifier(verify::listeners(trust)?);
    let mut config = match credentials {
        Some(own) => builder.with_client_cert_resolver(Arc::new(own.clone())),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).map_err(tls)?));
    client.transport_config(settings.transport(1)?);
    Ok(client)
}

/// Datagrams up to this size are taken from anybody: an Ethernet frame without its headers.
const DATAGRAM_BYTES_MIN: u16 = 1_472;

/// A UDP socket with large buffers and the endpoint on it.
pub(super) fn endpoint(
    address: SocketAddr,
    server: Option<ServerConfig>,
    settings: &Settings,
) -> Result<quinn::Endpoint, LinkErrorKind> {
    let mut config = EndpointConfig::default();
    let datagram_bytes = settings.datagram_bytes_max.max(DATAGRAM_BYTES_MIN);
    config.max_udp_payload_size(datagram_bytes).map_err(|e| LinkErrorKind::Settings(e.to_string().into()))?;
    let open = || {
        let socket = socket(address, settings.socket_buffer_bytes)?;
        quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))
    };
    open().map_err(|error| LinkErrorKind::Io(Arc::new(error)))
}

fn socket(address: SocketAddr, buffer_bytes: usize) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // Dual-stack where the system has it; without it only IPv6 is reached.
        if let Err(error) = socket.set_only_v6(false) {
            tracing::debug!(%error, "no dual-stack UDP socket");
        }
    }
    // The system caps these at its own maximum and does not say so.
    socket.set_recv_buffer_size(buffer_bytes)?;
    socket.set_send_buffer_size(buffer_bytes)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
