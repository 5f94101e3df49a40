//! The control plane: events come up from the PoPs, bundles go down to them, people steer. See ARCHITECTURE.md for the
//! picture.
//!
//! | module | what it is |
//! |---|---|
//! | [`server`] | the composition root |
//! | [`uplink`] | the nodes' door: QUIC with mutual TLS |
//! | [`enrol`] | the door of nodes that have no certificate yet: QUIC and a one-time token |
//! | [`identities`] | who may be a node: tokens, certificates, revocations |
//! | [`api`] | the people's door: HTTP and JSON with an admin token |
//! | [`pops`] | PoPs as people see them: who is a member, who is ahead of this cloud |
//! | [`reload`] | what SIGHUP changes |
//! | [`health`] | whether the cloud can serve |
//! | [`metrics`] | what it counts |
//!
//! What is kept is in `cloud-storage`; what may be published is decided in `cloud-registry`.

pub mod api;
pub mod clock;
pub mod config;
pub mod enrol;
pub mod health;
pub mod identities;
pub mod metrics;
pub mod pops;
pub mod reload;
pub mod server;
pub mod uplink;
