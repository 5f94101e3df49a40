//! The whole system under faults: what the harness is made of. What it runs is in `tests/` and in the binaries.
//!
//! | module | what |
//! |---|---|
//! | [`pop`] | a PoP in one process: real stores on real folders |
//! | [`serials`] | writes that can be told apart, and what a run said of them |
//! | [`driver`] | a PoP in a process of its own, on a disk that is watched and broken |
//! | [`trace`] | what a process did to its disk (`disk/` writes it) |
//! | [`power`] | what a disk may hold after a power cut, and what the stores make of it |

pub mod driver;
pub mod pop;
pub mod power;
pub mod serials;
#[path = "../disk/src/trace.rs"]
pub mod trace;
