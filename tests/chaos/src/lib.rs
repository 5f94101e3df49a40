//! The whole system under faults.
//!
//! | module | what |
//! |---|---|
//! | [`invariants`] | what a PoP promises, one file a promise |
//! | [`sim`] | a PoP, a cloud and clients on virtual time, from one seed |
//! | [`fuzz`] | many seeds, each in a process of its own |
//! | [`planted`] | bugs behind switches: the harness must be able to fail |
//! | [`relay`] | a bad network between two processes |
//!
//! `tests/processes/` starts real processes and breaks them; `tests/house/` holds the rules of the house.

pub mod fuzz;
pub mod invariants;
pub mod planted;
pub mod relay;
pub mod sim;
