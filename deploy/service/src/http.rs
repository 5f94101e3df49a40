//! What every HTTP door of ours has in common: how an error is said, and how a request is read.

mod problem;
mod request;

pub use problem::{Refusal, problem, status};
pub use request::{Body, Path, Query, REQUEST_ID, known_method, request_id};
