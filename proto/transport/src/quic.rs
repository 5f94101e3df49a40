//! Links over QUIC (RFC 9000) with TLS 1.3 (RFC 9001), by quinn and rustls.
//!
//! Every connection has a maximum age, since a live one outlives its certificate. QUIC has no frame for "use another
//! connection from now on" (HTTP/3 has GOAWAY), so the accepting side opens one unidirectional control stream and writes
//! single bytes on it: [`CONTROL_ADMITTED`] once the dialer's certificate was accepted (in TLS 1.3 the dialer's handshake
//! ends before that), and [`CONTROL_DRAIN`] when the connection is to wind down. The dialer then opens no more streams,
//! and closes the connection when its last stream is done; so nothing in flight is lost.

mod dialer;
mod http3;
mod link;
mod listener;
mod settings;
mod tls;
mod verify;

pub use dialer::QuicDialer;
pub use http3::Http3Caller;
#[cfg(feature = "http")]
pub use http3::Http3Connection;
pub(crate) use link::RawStream;
pub use listener::{QuicListener, Stats};
pub use settings::Settings;

pub use crate::link::Door;

/// Control byte: the connection was admitted.
const CONTROL_ADMITTED: u8 = 1;
/// Control byte: open no more streams.
const CONTROL_DRAIN: u8 = 2;

/// Reasons that close a connection, as QUIC application error codes (RFC 9000, 20.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum CloseCode {
    /// The program asked for it, or dropped its last handle.
    Normal = 0,
    /// Wound down in good order.
    Drained = 1,
    /// Winding down took longer than `drain_ms`.
    DrainTimeout = 2,
    /// The certificate may not come through this door, or its identity was revoked.
    Forbidden = 3,
    /// As HTTP/3 says that all is well (RFC 9114, 8.1).
    Http3NoError = 0x100,
    /// As HTTP/3 says that there is too much (RFC 9114, 8.1).
    Http3ExcessiveLoad = 0x107,
}
