//! The cache before an origin of the tests' own, on loopback.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod coalescing;
mod failing;
mod hostile;
mod origin;
mod purging;
mod reusing;
