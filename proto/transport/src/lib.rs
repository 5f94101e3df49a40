//! How Rockpool's words travel: authenticated links with many streams, each carrying the frames of [`proto::codec`].
//!
//! Everybody else sees the seam ([`Link`], [`Listener`], [`Dialer`], [`Stream`]) and never what is behind it. This is the
//! only crate that names quinn and rustls.
//!
//! | module | what |
//! |---|---|
//! | [`quic`] | the real form: QUIC (RFC 9000) with TLS 1.3, mutual between nodes and towards the cloud |
//! | [`memory`] | the seeded form for tests: latency, jitter, partitions and deaths that repeat |
//! | [`tcp`] | TLS on TCP, for HTTP: not a link, but the same certificates |
//! | [`pki`] | the deployment's own certificate authority and what it issues |
//! | [`conformance`] | the promises of the seam as one suite, which both forms pass |

pub mod conformance;
mod error;
mod identity;
mod link;
pub mod memory;
#[cfg(feature = "http")]
pub mod origin;
pub mod pki;
pub mod quic;
mod stream;
#[cfg(feature = "http")]
pub mod tcp;

pub use error::{LinkError, LinkErrorKind};
pub use identity::{Identity, IdentityError, ZONE, edge_name};
pub use link::{Dialer, Door, Link, Listener, Peer, Remote, call};
pub use stream::Stream;
