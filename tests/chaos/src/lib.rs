//! The whole system under faults.
//!
//! | module | what |
//! |---|---|
//! | [`invariants`] | what a PoP promises, one file a promise |
//! | [`linear`] | is what clients saw of one key linearizable? |
//! | [`sim`] | a PoP, a cloud and clients on virtual time, from one seed |
//! | [`fuzz`] | many seeds, each in a process of its own |
//! | [`planted`] | bugs behind switches: the harness must be able to fail |
//! | [`relay`] | a bad network between two processes |
//! | [`power`] | what a disk may hold after a power cut, and what the stores make of it |
//! | [`driver`] | a PoP in a process of its own, on a disk that is watched and broken |
//! | [`pop`] | a PoP in one process: real stores on real folders |
//! | [`processes`] | a cloud, nodes and clients as processes, under signals and bad networks |
//! | [`serials`] | writes that can be told apart, and what a run said of them |
//! | [`whole`] | all of it for long, with one sum |
//! | [`trace`] | what a process did to its disk (`disk/` writes it) |
//!
//! `tests/processes/` starts real processes and breaks them; `tests/house/` holds the rules of the house.

pub mod driver;
pub mod fuzz;
pub mod invariants;
pub mod linear;
pub mod planted;
pub mod pop;
pub mod power;
pub mod processes;
pub mod relay;
pub mod serials;
pub mod sim;
#[path = "../disk/src/trace.rs"]
pub mod trace;
pub mod whole;
