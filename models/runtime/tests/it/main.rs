//! The inference crate from outside: both engines, everything that must be refused, and what a row of features holds.

mod bundles;
mod cards;
mod engines;
mod features;
mod graphs;
mod retrieval;
mod support;
