//! Tests of transport: both forms against the one suite, and what only one of them can show.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

mod hostile;
mod identities;
mod memory;
mod pki;
mod quic;
mod setup;
