//! The way up: the PoP's leader tails what committed and hands it to the cloud, in order; every node hears of new
//! bundles and pulls them.
//!
//! It sees commits and the cloud, nothing else. What to do next is decided by [`batcher::Batcher`], a pure state
//! machine; [`tail`] and [`link`] act. When the cloud is away, nothing here fails: events stay in the outbox, the link is
//! redialled with growing pauses, and the tail goes on where the cloud says it stopped.

pub mod batcher;
mod config;
mod link;
mod metrics;
mod tail;

pub use config::UplinkConfig;
pub use link::{CloudLink, PullError, Report, Reports};
pub use metrics::Metrics;
pub use tail::{Commits, tail};
