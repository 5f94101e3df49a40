//! The ports of a local deployment: those of its folder's last start, where they are still free.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use proto::NodeId;
use serde::{Deserialize, Serialize};

/// Where it is written where the processes listen.
const PORTS_FILE: &str = "ports.json";

/// Where one node listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePorts {
    /// QUIC for apps.
    pub clients: String,
    /// QUIC for peers.
    pub peers: String,
    /// HTTP for admins.
    pub admin: String,
}

/// Where the cloud listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloudPorts {
    pub uplink: String,
    pub enrol: String,
    pub api: String,
    pub admin: String,
}

/// Where the processes of a folder listened when they were started last.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ports {
    /// The cloud.
    pub cloud: Option<CloudPorts>,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, NodePorts>,
}

impl Ports {
    /// Of a folder; nothing yet in a new one.
    pub fn of(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(PORTS_FILE);
        match std::fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).with_context(|| format!("{} cannot be read", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes them down.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        Ok(service::files::publish(&dir.join(PORTS_FILE), &serde_json::to_vec_pretty(self)?)?)
    }
}

/// An address of before, where nobody else has it by now, or a new one.
pub fn again_or_free(before: Option<&String>, host: Option<IpAddr>) -> anyhow::Result<String> {
    let wanted = host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let usable = |address: &SocketAddr| {
        address.ip() == wanted && UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
    };
    match before.and_then(|address| address.parse().ok()).filter(usable) {
        Some(address) => Ok(address.to_string()),
        None => port_of(host),
    }
}

/// A port of loopback, or the same port of another host.
fn port_of(host: Option<IpAddr>) -> anyhow::Result<String> {
    let free: SocketAddr = free_port()?.parse()?;
    Ok(SocketAddr::new(host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), free.port()).to_string())
}

/// Ports that listeners of local deployments get: below the range from which systems take the ports of outgoing
/// connections (32768 up on Linux, 49152 up elsewhere), so that no dialer takes one between its choice and its use.
const PORTS: Range<u16> = 20_000..32_000;

/// Another free port of loopback, for UDP and TCP. Another program could take it before its process does: that process then
/// says so and ends.
///
/// # Errors
/// Where none of the range is free.
pub fn free_port() -> anyhow::Result<String> {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let len = u32::from(PORTS.end - PORTS.start);
    // Deployments of other processes begin elsewhere.
    let start = std::process::id().wrapping_mul(7_919);
    for _ in 0..len {
        let number = start.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % len;
        let address = SocketAddr::from(([127, 0, 0, 1], PORTS.start + u16::try_from(number)?));
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return Ok(address.to_string());
        }
    }
    anyhow::bail!("no port of 127.0.0.1 from {} to {} is free", PORTS.start, PORTS.end - 1)
}
