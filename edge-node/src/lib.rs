//! An edge node: gateway, serving, store and uplink in one process. See ARCHITECTURE.md for the picture.
//!
//! | module | what it is |
//! |---|---|
//! | [`node`] | the composition root |
//! | [`identity`] | its key and certificate, renewed while it runs; who was revoked |
//! | [`gateway`] | the clients' door; `gateway::pipeline` is the path of a recommendation |
//! | [`peers`] | the peers' door |
//! | [`bundles`] | pulls, verifies, activates bundles |
//! | [`workers`] | the threads that run models |
//! | [`commits`] | the store as the uplink sees it |
//! | [`erasures`] | visitors of whom nothing is to be known any more |
//! | [`disk`] | what happens when the disk fails |
//! | [`standing`] | its place in its PoP, and the PoP's towards the cloud |
//! | [`reload`] | settings that are read again |
//! | [`admin`] | the admin port |

pub mod admin;
pub mod bundles;
pub mod clock;
pub mod commits;
pub mod config;
pub mod disk;
pub mod erasures;
pub mod gateway;
pub mod identity;
pub mod metrics;
pub mod node;
pub mod peers;
pub mod prefetch;
pub mod purge;
pub mod reload;
pub mod standing;
pub mod workers;
