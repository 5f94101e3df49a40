//! QUIC handshakes that are begun and abandoned: first packets of connections that quinn made for nobody, sent as they are. What
//! protects them follows from the packet itself (RFC 9001, 5.2), so any server takes them for a caller's.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bench::http::HOST;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use rustls::RootCertStore;
use rustls::version::TLS13;
use tokio::net::UdpSocket;

use super::{ADDRESSES, Plan, address};

/// Handshakes that are begun at a time while packets are gathered: no more than the system's buffer holds.
const AT_A_TIME: usize = 32;
/// Length of a first packet (RFC 9000, 14.1); quinn's has just that.
const FIRST_BYTES: usize = 1_200;
/// How long a packet may be on its way to ourselves.
const WITHIN: Duration = Duration::from_millis(500);
/// They are sent in bunches, so often.
const EVERY: Duration = Duration::from_millis(20);

/// First packets of so many connections.
pub(super) async fn gather(count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    let (mut packets, mut begun) = (Vec::with_capacity(count), Vec::with_capacity(count));
    while packets.len() < count {
        let bunch = AT_A_TIME.min(count - packets.len());
        for _ in 0..bunch {
            // Kept: dropped, it would say goodbye.
            begun.push(endpoint.connect_with(config.clone(), nobody.local_addr()?, HOST)?);
        }
        for _ in 0..bunch {
            let mut packet = vec![0; 2_048];
            let received = tokio::time::timeout(WITHIN, nobody.recv(&mut packet)).await;
            let length = received.context("a first packet did not come")??;
            packet.truncate(length);
            if length == FIRST_BYTES {
                packets.push(packet);
            }
        }
    }
    Ok(packets)
}

/// Sends them at the plan's rate, from the same addresses as the connections.
pub(super) async fn send(packets: &[Vec<u8>], plan: &Plan, sent: &AtomicU64) -> anyhow::Result<()> {
    let mut sockets = Vec::with_capacity(ADDRESSES);
    for number in 0..ADDRESSES {
        sockets.push(UdpSocket::bind(SocketAddr::from((address(number), 0))).await?);
    }
    let bunch = (plan.initials_per_s as f64 * EVERY.as_secs_f64()).ceil().max(1.0) as usize;
    let mut ticks = tokio::time::interval(EVERY);
    for (number, packets) in packets.chunks(bunch).enumerate() {
        ticks.tick().await;
        for packet in packets {
            // A full buffer loses it, as the network would.
            let _ = sockets[number % ADDRESSES].try_send_to(packet, plan.target);
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
