//! Tests of the wire: bytes that must not change, and properties of the codec.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

mod golden;
mod properties;
mod samples;
