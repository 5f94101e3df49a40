//! Decides what a visitor is offered: retrieve → rank → re-rank → explore, each with a fallback.
//!
//! Pure: no async, no clock, no randomness; the time, and whether there is time left, are arguments. The same input gives
//! the same answer. [`decide`] is the whole path on one page; [`Prepared`] is what a bundle costs once, so that a request
//! does not.

mod caps;
mod decide;
mod diversity;
mod explore;
mod prepared;

pub use decide::{Budget, Decision, Scratch, Stage, decide};
pub use prepared::Prepared;
