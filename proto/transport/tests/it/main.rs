//! Tests of transport: both forms against the one suite, and what only one of them can show.

mod hostile;
mod memory;
mod pki;
mod quic;
mod setup;
