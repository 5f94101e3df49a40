//! From a split to a model as it is served: train, choose the length on validation, train again with the validation items,
//! export, load. What is evaluated and what is shipped go through here alike.

use inference::graph::Exported;
use inference::{Card, Engine, ModelError, Ranker, Retrieval};
use proto::ItemId;

use crate::cards::{self, About};
use crate::progress::Progress;
use crate::ranker::rows::{Parts, RowsError};
use crate::ranker::{self, train::Platt};
use crate::sasrec::{self, train::Stop};
use crate::split::Split;

/// Why training failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Tensors did not fit; a fault of this crate.
    #[error("cannot {what}")]
    Tensors {
        /// What was tried.
        what: &'static str,
        /// What candle said.
        source: candle_core::Error,
    },
    /// The exported model is not taken by the code that serves it.
    #[error("the exported {what} is refused")]
    Refused {
        /// Which model.
        what: &'static str,
        /// Why.
        source: ModelError,
    },
    /// Rows for the ranker could not be made.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// There is too little data.
    #[error("the data set has {0}")]
    TooLittle(String),
    /// The weights went to infinity.
    #[error("training of the {0} diverged: no step made it better than nothing")]
    Diverged(&'static str),
    /// A catalog that no node would take.
    #[error("the catalog is refused: {0}")]
    Catalog(String),
}

pub(crate) fn tensors(what: &'static str) -> impl FnOnce(candle_core::Error) -> TrainError {
    move |source| TrainError::Tensors { what, source }
}

pub(crate) fn refused(what: &'static str) -> impl FnOnce(ModelError) -> TrainError {
    move |source| TrainError::Refused { what, source }
}

/// Trains on `split` until validation is best, then again from the start, as long, with the validation items.
pub fn retrieval(
    split: &Split,
    config: &sasrec::Config,
    seed: u64,
    progress: &str,
) -> Result<(sasrec::Net, sasrec::train::Trained), TrainError> {
    let bar = Progress::new(format!("{progress}: SASRec, to choose its epochs"));
    let chosen = sasrec::train::train(split, config, Stop::Validation, seed, &bar)
        .map_err(tensors("train the retrieval model"))?;
    let bar = Progress::new(format!("{progress}: SASRec, with validation"));
    let refit = sasrec::train::train(split, config, Stop::Epochs(chosen.epochs), seed, &bar)
        .map_err(tensors("train the retrieval model again"))?;
    Ok((refit.net, chosen))
}

/// An ONNX file with its card.
pub struct Artifact {
    /// The ONNX file.
    pub onnx: Vec<u8>,
    /// Its card.
    pub card: Card,
}

/// A retrieval network as its files.
pub fn retrieval_artifact(
    net: &sasrec::Net,
    items: Vec<ItemId>,
    about: About,
) -> Result<Artifact, TrainError> {
    let exported = sasrec::export::export(net).map_err(tensors("export the retrieval model"))?;
    let card =
        cards::retrieval(&exported, items, net.config.len, about).map_err(refused("retrieval model"))?;
    Ok(Artifact { onnx: exported.onnx, card })
}

/// A ranker's network as its files.
pub fn ranker_artifact(
    net: &ranker::Net,
    platt: Platt,
    parts: &Parts,
    about: About,
) -> Result<Artifact, TrainError> {
    let exported: Exported = ranker::export::export(net, platt).map_err(tensors("export the ranker"))?;
    let card = cards::ranker(&exported, parts, about).map_err(refused("ranker"))?;
    Ok(Artifact { onnx: exported.onnx, card })
}

impl Artifact {
    /// The retrieval model as a node loads it.
    pub fn load_retrieval(&self, engine: &Engine) -> Result<Retrieval, TrainError> {
        Retrieval::load(engine, &self.onnx, &self.card.to_json()).map_err(refused("retrieval model"))
    }

    /// The ranker as a node loads it.
    pub fn load_ranker(&self, engine: &Engine) -> Result<Ranker, TrainError> {
        Ranker::load(engine, &self.onnx, &self.card.to_json()).map_err(refused("ranker"))
    }
}
