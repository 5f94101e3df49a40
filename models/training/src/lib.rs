//! Data set → features → model → ONNX and model card, in Rust.

pub mod baselines;
pub mod metrics;
pub mod nn;
pub mod onnx;
pub mod progress;
pub mod ranker;
pub mod rng;
pub mod sasrec;
pub mod split;
