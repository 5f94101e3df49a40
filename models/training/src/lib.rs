//! Data set → features → model → ONNX and model card, in Rust.
//!
//! | module | what |
//! |---|---|
//! | [`split`], [`metrics`] | who is tested on what, and how well it went |
//! | [`sasrec`], [`ranker`] | the two networks: definition, training, export |
//! | [`baselines`], [`ranker::baselines`] | what they stand beside |
//! | [`recipe`] | from a split to a model as it is served |
//! | [`evaluate`] | quality on published protocols |
//! | [`produce`] | the models that are served |
//! | [`cards`] | the files that come out |
//! | [`nn`], [`rng`], [`progress`] | tools |

pub mod baselines;
pub mod cards;
pub mod evaluate;
pub mod metrics;
pub mod nn;
pub mod produce;
pub mod progress;
pub mod ranker;
pub mod recipe;
pub mod rng;
pub mod sasrec;
pub mod split;
#[cfg(test)]
mod testing;
