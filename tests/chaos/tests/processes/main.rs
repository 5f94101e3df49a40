//! Real processes on this machine: a cloud and a PoP, killed, cut off and lied to.
//!
//! Each test starts a deployment of its own in a temporary folder. One runs at a time: they share two cores.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

mod bundles;
mod certificate;
mod chaos;
mod clients;
mod content;
mod doors;
mod faults;
mod frames;
mod http;
mod identity;
mod members;
mod overload;
mod own_data;
mod plane;
mod reload;
mod restore;
mod support;
mod up;
