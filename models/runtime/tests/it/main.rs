//! The inference crate from outside: both engines, everything that must be refused, and what a row of features holds.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests, and what helps them")]

mod bundles;
mod cards;
mod engines;
mod features;
mod graphs;
mod kernels;
mod retrieval;
mod support;
