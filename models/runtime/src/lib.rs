//! Everything about models but their training: the only crate that names an ONNX runtime.
//!
//! The same code validates a model in the cloud, serves it at the edge and encodes features for training, so none of the
//! three can skew against another. A model is untrusted until [`Bundle::open`] (or [`Retrieval::load`], [`Ranker::load`])
//! has taken it in: sizes, digest, graph ([`vet`]), shapes and golden answers are all checked first.
//!
//! | module | what |
//! |---|---|
//! | [`engine`] | ONNX Runtime where its library is found, tract otherwise |
//! | [`vet`] | what a graph may contain, and how much it may cost |
//! | [`card`] | the model card |
//! | [`retrieval`] | history → a score for every item |
//! | [`features`], [`ranker`] | candidates → features → the probability that each is liked |
//! | `kernel` | the graphs that our exporters write, as code; the engines run every other |
//! | [`graph`] | writes ONNX files |
//! | [`bundle`] | the signature, and everything a node needs to serve, from a manifest's files |

pub mod bundle;
pub mod card;
pub mod catalog;
pub mod engine;
pub mod error;
pub mod features;
pub mod graph;
mod kernel;
pub mod ranker;
pub mod retrieval;
pub mod tensor;
#[cfg(feature = "testing")]
pub mod testing;
pub mod vet;

pub use bundle::{
    Bundle, PublicKey, RankScratch, RankerStage, RetrievalStage, Signer, verify, verify_artifact,
};
pub use card::{Card, Golden, ModelKind, RankerPart, RetrievalPart};
pub use catalog::IndexedCatalog;
pub use engine::{Engine, EngineKind, Session};
pub use error::{BundleError, ModelError};
pub use features::{Encoder, FeatureBatch, FeatureSpec, GlobalStats, ItemStats, Schema, VisitorFeatures};
pub use ranker::Ranker;
pub use retrieval::Retrieval;
pub use tensor::{DType, ModelSpec, Tensor, TensorSpec, Values};
