//! Tests of the wire: bytes that must not change, and properties of the codec.

mod golden;
mod properties;
mod samples;
