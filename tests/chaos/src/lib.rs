//! The whole system under faults.
//!
//! | module | what |
//! |---|---|
//! | [`invariants`] | what a PoP promises, one file a promise |
//! | [`sim`] | a PoP, a cloud and clients on virtual time, from one seed |
//! | [`relay`] | makes the network between two processes bad |
//! | [`fuzz`] | many seeds, each in a process of its own |
//!
//! `tests/processes/` starts real processes and breaks them; `tests/house/` holds the rules of the house.

pub mod fuzz;
pub mod invariants;
pub mod relay;
pub mod sim;
