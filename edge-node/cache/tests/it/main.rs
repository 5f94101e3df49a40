//! The cache before an origin of the tests' own, on loopback.

mod coalescing;
mod failing;
mod origin;
mod purging;
mod reusing;
