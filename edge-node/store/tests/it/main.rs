//! The store as a whole: replicas of the pure machine, and PoPs of several nodes in one process over the in-memory network.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what helps them")]

mod cluster;
mod members;
mod pop;
mod property;
mod recovery;
