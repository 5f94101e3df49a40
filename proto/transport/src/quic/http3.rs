//! Connections at the clients' door that speak HTTP/3: not links, since what is said on their streams is HTTP's.

use std::sync::Arc;

use quinn::crypto::rustls::HandshakeData;
use tokio_util::sync::CancellationToken;

use super::CloseCode;
use super::link::Shared;

/// As registered for HTTP/3 (RFC 9114, 11.1).
pub(super) const ALPN_HTTP3: &[u8] = b"h3";

/// Whether this was agreed on in the handshake.
pub(super) fn spoken(connection: &quinn::Connection) -> bool {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.and_then(|data| data.protocol).is_some_and(|protocol| protocol == ALPN_HTTP3)
}

/// quinn, as h3 takes it.
#[cfg(feature = "http")]
pub type Http3Connection = h3_quinn::Connection;

/// Somebody who speaks HTTP/3, admitted.
pub struct Http3Caller {
    shared: Arc<Shared>,
    ending: CancellationToken,
}

impl Http3Caller {
    pub(super) fn new(shared: &Arc<Shared>, ending: &CancellationToken) -> Self {
        Self { shared: Arc::clone(shared), ending: ending.clone() }
    }

    /// Where the caller is.
    pub fn address(&self) -> &str {
        &self.shared.remote.address
    }

    /// Ends the connection unheard: there are too many.
    pub fn refuse(&self, reason: &str) {
        self.shared.close(CloseCode::Http3ExcessiveLoad, reason);
    }

    /// Cancelled when the connection is to end: send GOAWAY, answer what is in flight, and let go of it, within
    /// [`super::Settings::drain_ms`].
    pub fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    /// The connection, as h3 takes it.
    #[cfg(feature = "http")]
    pub fn connection(&self) -> Http3Connection {
        h3_quinn::Connection::new(self.shared.connection.clone())
    }
}
