//! What Rockpool says: ids, events, commands, the five conversations, their limits and their codec.
//!
//! Pure: no IO, no async, no clock, no randomness. Every part of the system depends on this crate, so it depends on
//! nothing of ours. The bytes are pinned by golden tests (`tests/it/golden.rs`): changing one is a new protocol version.
//!
//! | module | who talks | on |
//! |---|---|---|
//! | [`client`] | an app (through the SDK) → a node | QUIC, [`ALPN_CLIENT`] |
//! | [`peer`] | node ↔ node of one PoP | QUIC with mutual TLS, [`ALPN_PEER`] |
//! | [`uplink`] | node → cloud | QUIC with mutual TLS, [`ALPN_UPLINK`] |
//! | [`enrol`] | a node without a certificate → cloud | QUIC, [`ALPN_ENROL`] |
//! | [`control`] | people and tools → cloud | HTTP and JSON |

pub mod bundle;
pub mod client;
pub mod codec;
pub mod command;
pub mod control;
pub mod enrol;
pub mod error;
pub mod event;
pub mod ids;
pub mod limits;
pub mod peer;
pub mod profile;
pub mod purge;
pub mod uplink;

pub use error::{Code, ErrorReply, Fault, Retry};
pub use event::{Event, EventKind};
pub use ids::*;

/// ALPN of the client conversation. The number is the protocol's major version: a peer that speaks another is refused
/// in the TLS handshake, before a byte of ours is read (RFC 7301).
pub const ALPN_CLIENT: &[u8] = b"rockpool-client/1";
/// ALPN of the conversation between the nodes of one PoP.
pub const ALPN_PEER: &[u8] = b"rockpool-peer/1";
/// ALPN of the conversation from a node to the cloud.
pub const ALPN_UPLINK: &[u8] = b"rockpool-uplink/1";
/// ALPN of the conversation in which a node gets its first certificate.
pub const ALPN_ENROL: &[u8] = b"rockpool-enrol/1";
