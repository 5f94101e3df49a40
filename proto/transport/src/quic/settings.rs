//! Limits of one QUIC endpoint. quinn's own defaults leave out keep-alive and the receive window, so everything is said.

use std::sync::Arc;
use std::time::Duration;

use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::error::LinkErrorKind;

/// What datagrams that nobody reads may hold on one connection.
const DATAGRAM_BUFFER_BYTES: usize = 4 * KIB;
/// Unidirectional streams of an HTTP/3 client: its control stream and two of QPACK (RFC 9114, 6.2), the rest for WebTransport.
pub(super) const HTTP3_UNI_STREAMS_MAX: u32 = 3 + 16;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Limits of one listener or dialer and of each of its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A packet is sent after this long a silence. 0: never.
    pub keep_alive_ms: u64,
    /// A connection is lost after this long without a packet from the other side; the smaller of both sides' counts.
    pub idle_timeout_ms: u64,
    /// A connection that is not admitted by then is given up.
    pub handshake_timeout_ms: u64,
    /// Streams that the other side may have open at a time.
    pub max_bidi_streams: u32,
    /// Bytes that may wait unread on one stream.
    pub stream_window_bytes: u32,
    /// Bytes that may wait unread on all streams of a connection.
    pub connection_window_bytes: u32,
    /// Bytes that may be sent and not acknowledged on a connection.
    pub send_window_bytes: u32,
    /// Bytes that the half-received frames of all connections may hold.
    pub frame_bytes_max: usize,
    /// Connections at a time, handshakes included. Listeners only.
    pub max_connections: usize,
    /// Handshakes at a time; from half of it on, new callers must first prove their address (Retry, RFC 9000, 8.1.2).
    /// Listeners only.
    pub max_incoming: usize,
    /// A connection winds down at this age, less up to a tenth so that not all do at once. Listeners only.
    pub connection_age_max_ms: u64,
    /// How long streams in flight may take to finish while a connection winds down. Listeners only.
    pub drain_ms: u64,
    /// Largest datagram that is looked for on a path (RFC 8899), in bytes of UDP payload: 1,200 at least.
    pub datagram_bytes_max: u16,
    /// Packets that are acknowledged together. 2: as RFC 9000, 13.2.2, has it; more where the other side knows the extension
    /// (draft-ietf-quic-ack-frequency).
    pub acknowledge_every: u32,
    /// Whether HTTP/3 is spoken here too (RFC 9114), told apart by ALPN: [`super::QuicListener::accept_http3`]. Listeners only.
    pub http3: bool,
    /// Buffers of the UDP socket, each direction. The system may grant less (`net.core.rmem_max`).
    pub socket_buffer_bytes: usize,
}

impl Settings {
    /// For [`crate::Door::Clients`] and apps: thousands of connections with small frames.
    pub fn clients() -> Self {
        Self {
            keep_alive_ms: 10_000,
            idle_timeout_ms: 30_000,
            // Thousands come at once after an outage.
            handshake_timeout_ms: 10_000,
            max_bidi_streams: 64,
            stream_window_bytes: 128 * KIB as u32,
            connection_window_bytes: 512 * KIB as u32,
            send_window_bytes: MIB as u32,
            frame_bytes_max: 64 * MIB,
            max_connections: 20_000,
            max_incoming: 1_024,
            connection_age_max_ms: 60 * 60 * 1000,
            drain_ms: 10_000,
            // What Ethernet carries over IPv6.
            datagram_bytes_max: 1_452,
            acknowledge_every: 2,
            http3: false,
            socket_buffer_bytes: 4 * MIB,
        }
    }

    /// For [`crate::Door::Peers`] and [`crate::Door::Uplink`] and who dials them: few connections with large frames. A
    /// dead neighbour is noticed in seconds.
    pub fn peers() -> Self {
        Self {
            keep_alive_ms: 1_000,
            idle_timeout_ms: 5_000,
            handshake_timeout_ms: 5_000,
            max_bidi_streams: 1_024,
            stream_window_bytes: 4 * MIB as u32,
            connection_window_bytes: 16 * MIB as u32,
            send_window_bytes: 16 * MIB as u32,
            frame_bytes_max: 128 * MIB,
            max_connections: 4_096,
            max_incoming: 256,
            connection_age_max_ms: 60 * 60 * 1000,
            drain_ms: 10_000,
            // Within a data centre frames are larger, on loopback anyway: an entry of Raft is one packet then, and nobody is
            // woken for an acknowledgement before the answer.
            datagram_bytes_max: 4_096,
            acknowledge_every: 8,
            http3: false,
            socket_buffer_bytes: 4 * MIB,
        }
    }

    /// Checks that the limits can work together.
    ///
    /// # Errors
    /// [`LinkErrorKind::Settings`] names the first that cannot.
    pub fn check(&self) -> Result<(), LinkErrorKind> {
        let largest =
            proto::codec::FrameKind::ALL.map(|kind| kind.body_bytes_max()).into_iter().max().unwrap_or(0);
        let rules = [
            (self.idle_timeout_ms >= 100, "idle_timeout_ms must be at least 100"),
            (self.keep_alive_ms < self.idle_timeout_ms, "keep_alive_ms must be less than idle_timeout_ms"),
            (self.handshake_timeout_ms > 0, "handshake_timeout_ms must not be 0"),
            (self.max_bidi_streams > 0, "max_bidi_streams must not be 0"),
            (self.stream_window_bytes >= 4 * KIB as u32, "stream_window_bytes must be at least 4 KiB"),
            (
                self.connection_window_bytes >= self.stream_window_bytes,
                "connection_window_bytes must hold a stream's",
            ),
            (self.send_window_bytes >= 4 * KIB as u32, "send_window_bytes must be at least 4 KiB"),
            (self.frame_bytes_max > largest, "frame_bytes_max must hold the largest frame"),
            (self.max_connections > 0, "max_connections must not be 0"),
            (self.max_incoming > 0, "max_incoming must not be 0"),
            (self.connection_age_max_ms > 0, "connection_age_max_ms must not be 0"),
            (self.datagram_bytes_max >= 1_200, "datagram_bytes_max must be at least 1200"),
            (self.acknowledge_every > 0, "acknowledge_every must not be 0"),
            (self.socket_buffer_bytes >= 64 * KIB, "socket_buffer_bytes must be at least 64 KiB"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(LinkErrorKind::Settings(rule.into())),
            None => Ok(()),
        }
    }

    /// quinn's form. `max_uni_streams`: 1 for a dialer, which takes the listener's control stream; 0 for a listener,
    /// which takes none but those of HTTP/3.
    pub(super) fn transport(&self, max_uni_streams: u32) -> Result<Arc<TransportConfig>, LinkErrorKind> {
        let idle = IdleTimeout::try_from(Duration::from_millis(self.idle_timeout_ms))
            .map_err(|_| LinkErrorKind::Settings("idle_timeout_ms is too large".into()))?;
        let keep_alive = Some(self.keep_alive_ms).filter(|ms| *ms > 0).map(Duration::from_millis);
        let (mut mtu, mut acknowledgements) = (MtuDiscoveryConfig::default(), AckFrequencyConfig::default());
        mtu.upper_bound(self.datagram_bytes_max);
        // One more than so many packets get an answer at once.
        acknowledgements.ack_eliciting_threshold(VarInt::from_u32(self.acknowledge_every.saturating_sub(1)));
        let mut transport = TransportConfig::default();
        transport
            .mtu_discovery_config(Some(mtu))
            .ack_frequency_config(Some(acknowledgements).filter(|_| self.acknowledge_every != 2))
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(keep_alive)
            .max_concurrent_bidi_streams(VarInt::from_u32(self.max_bidi_streams))
            .max_concurrent_uni_streams(VarInt::from_u32(max_uni_streams))
            .stream_receive_window(VarInt::from_u32(self.stream_window_bytes))
            .receive_window(VarInt::from_u32(self.connection_window_bytes))
            .send_window(u64::from(self.send_window_bytes))
            // We send no datagrams, so we take none; but browsers want to be offered them before they begin a WebTransport session.
            .datagram_receive_buffer_size(self.http3.then_some(DATAGRAM_BUFFER_BYTES));
        Ok(Arc::new(transport))
    }
}

impl Default for Settings {
    /// [`Settings::clients`].
    fn default() -> Self {
        Self::clients()
    }
}
