//! The seam: links, the listener that accepts them and the dialer that makes them. Two forms stand behind it, QUIC
//! ([`crate::quic`]) and a seeded in-memory one ([`crate::memory`]); one suite holds both to the same promises
//! ([`crate::conformance`]).

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::codec::Message;
use proto::{Code, NodeId, PopId};

use crate::error::{LinkError, LinkErrorKind};
use crate::identity::{Identity, IdentityError, edge_name};
use crate::stream::Stream;

/// Who is at the other end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its network address, for logs.
    pub address: String,
    /// Who its certificate names, where it showed one that was verified. Clients of [`Door::Clients`] show none.
    pub identity: Option<Identity>,
    /// What else its certificate names: DNS names and IP addresses that apps dial.
    pub public_names: Vec<String>,
}

/// Which conversation a listener takes part in, and thereby who may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// Apps: the server shows a certificate, the client none ([`proto::ALPN_CLIENT`]).
    Clients,
    /// Nodes of this PoP, by mutual TLS ([`proto::ALPN_PEER`]).
    Peers {
        /// The only PoP whose nodes may come in.
        pop: PopId,
    },
    /// Nodes of any PoP, by mutual TLS ([`proto::ALPN_UPLINK`]).
    Uplink,
    /// Nodes that have no certificate yet: the server shows one, they show none ([`proto::ALPN_ENROL`]).
    Enrol,
}

impl Door {
    /// The ALPN of its conversation (RFC 7301).
    pub fn alpn(&self) -> &'static [u8] {
        match self {
            Door::Clients => proto::ALPN_CLIENT,
            Door::Peers { .. } => proto::ALPN_PEER,
            Door::Uplink => proto::ALPN_UPLINK,
            Door::Enrol => proto::ALPN_ENROL,
        }
    }

    /// Whether who comes in must show a certificate.
    pub(crate) fn is_mutual(&self) -> bool {
        matches!(self, Door::Peers { .. } | Door::Uplink)
    }

    /// Whether who showed this identity may come in.
    pub(crate) fn admits(&self, identity: Option<&Identity>) -> Result<(), String> {
        // A planted bug, to see that it is caught: tests/chaos/README.md.
        if fail::eval("client_certificate_not_checked", |_| ()).is_some() {
            return Ok(());
        }
        match (self, identity) {
            (Door::Clients | Door::Enrol, _) | (Door::Uplink, Some(Identity::Node { .. })) => Ok(()),
            (Door::Peers { pop }, Some(Identity::Node { pop: theirs, .. })) if theirs == pop => Ok(()),
            (Door::Peers { pop }, Some(other)) => Err(format!("{other} is not a node of {pop}")),
            (Door::Uplink, Some(other)) => Err(format!("{other} is not a node")),
            (_, None) => Err("no certificate that names an identity".to_owned()),
        }
    }
}

/// Whom a dialer expects; the certificate shown must carry that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Exactly this node.
    Node {
        /// Its PoP.
        pop: PopId,
        /// Its id.
        node: NodeId,
    },
    /// Whichever node of this PoP answers.
    AnyNodeOf(PopId),
    /// Whoever carries this DNS name or IP address: what an app was configured with.
    Named(String),
    /// The control plane.
    Cloud,
}

impl Peer {
    /// The DNS name (or IP address) that the certificate must carry.
    ///
    /// # Errors
    /// Where the PoP's id cannot be part of a DNS name.
    pub fn server_name(&self) -> Result<String, IdentityError> {
        match self {
            Peer::Node { pop, node } => Identity::Node { pop: pop.clone(), node: *node }.dns_name(),
            Peer::AnyNodeOf(pop) => edge_name(pop),
            Peer::Named(name) => Ok(name.clone()),
            Peer::Cloud => Identity::Cloud.dns_name(),
        }
    }
}

/// One connection between two processes: many independent streams. Dropping the last handle closes it, once its streams
/// are gone.
#[async_trait]
pub trait Link: Send + Sync + Debug {
    /// Opens a stream; waits while as many are open as the other side allows. The other side hears of it with the first
    /// bytes sent.
    ///
    /// # Errors
    /// [`LinkErrorKind::Closed`] where the link is closed or winding down: dial again.
    async fn open(&self) -> Result<Stream, LinkError>;

    /// The next stream that the other side opened. Cancel safe.
    ///
    /// # Errors
    /// Where the link is closed.
    async fn accept(&self) -> Result<Stream, LinkError>;

    /// Who is at the other end.
    fn remote(&self) -> &Remote;

    /// Closes at once; what is in flight is lost. `reason` is for the other side's log.
    fn close(&self, reason: &str);

    /// Waits until the link is of no more use for new streams: closed, lost, or (on the side that dialed) asked by the
    /// other side to wind down. Streams that are open in that last case may still finish. Cancel safe.
    async fn closed(&self) -> LinkError;

    /// Whether [`Link::closed`] would return at once.
    fn is_closed(&self) -> bool;
}

/// Accepts links.
#[async_trait]
pub trait Listener: Send + Sync + Debug {
    /// The next link whose other side has been verified and admitted. `None` after a shutdown. Cancel safe.
    async fn accept(&self) -> Option<Arc<dyn Link>>;

    /// Where it listens: `host:port`, with the port that was really taken.
    fn local_address(&self) -> String;

    /// Takes no more links, asks the dialers of those it has to wind down, waits for streams in flight within the
    /// settings' `drain_ms`, and closes what is left.
    async fn shutdown(&self);
}

/// Makes links.
#[async_trait]
pub trait Dialer: Send + Sync + Debug {
    /// Connects to `address` (`host:port`) and verifies that the certificate shown there is `expect`'s. At a door with
    /// mutual TLS it also waits until this side was admitted.
    ///
    /// # Errors
    /// [`LinkErrorKind::Tls`] and [`LinkErrorKind::Forbidden`] where either side's identity is refused, and
    /// [`LinkErrorKind::Timeout`] where nothing is heard within `timeout`.
    async fn dial(&self, address: &str, expect: &Peer, timeout: Duration)
    -> Result<Arc<dyn Link>, LinkError>;
}

/// One request and its reply on a stream of their own.
///
/// # Errors
/// [`LinkErrorKind::Timeout`] where the reply is not there within `timeout`; the stream is reset then, so that the other
/// side may stop working on it. The outcome of the request is unknown in that case.
pub async fn call<Q: Message + Sync, R: Message>(
    link: &dyn Link,
    request: &Q,
    timeout: Duration,
) -> Result<R, LinkError> {
    let mut opened: Option<Stream> = None;
    let exchange = async {
        let stream = opened.insert(link.open().await?);
        stream.send(request).await?;
        stream.finish();
        stream.recv().await
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(reply) => reply,
        Err(_) => {
            if let Some(stream) = &mut opened {
                stream.reset(Code::DeadlineExceeded);
            }
            Err(LinkErrorKind::Timeout.at("call", link.remote().address.as_str()))
        }
    }
}
