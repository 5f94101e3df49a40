//! The SDK against small nodes of its own protocol: in memory, where networks break to order, and over real QUIC.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

mod connecting;
mod crash;
mod delivering;
mod failing_over;
mod importing;
mod pop;
mod quic;
