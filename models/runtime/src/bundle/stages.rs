//! The two models of a bundle, joined to its catalog.

use std::sync::Arc;

use proto::bundle::ArtifactKind;

use super::{model_error, probe};
use crate::catalog::IndexedCatalog;
use crate::engine::Engine;
use crate::error::{BundleError, ModelError};
use crate::features::{Encoder, FeatureBatch, VisitorFeatures};
use crate::kernel::ranker::{Items, Kernel, Scratch};
use crate::ranker::{CANDIDATES_MAX, Ranker};
use crate::retrieval::Retrieval;

/// A retrieval model, and where its items are in the catalog.
#[derive(Debug)]
pub struct RetrievalStage {
    /// The model.
    pub model: Retrieval,
    /// By the model's index: the item's place in the catalog. None: the catalog has it no more, so it is never served.
    pub places: Vec<Option<u32>>,
    /// By place in the catalog: the model's index. None: the model does not know the item.
    pub indices: Vec<Option<u32>>,
    /// The model's indices of items that the catalog has no more.
    pub absent: Vec<u32>,
}

impl RetrievalStage {
    pub(super) fn load(
        engine: &Engine,
        onnx: &[u8],
        card: &[u8],
        catalog: &IndexedCatalog,
    ) -> Result<Self, BundleError> {
        let wrong = |error| model_error(ArtifactKind::RetrievalModel, ArtifactKind::RetrievalCard, error);
        let model = Retrieval::load(engine, onnx, card).map_err(wrong)?;
        let places: Vec<_> = model.card().items.iter().map(|item| catalog.place(item.as_str())).collect();
        let absent =
            (0..).zip(&places).filter(|(_, place)| place.is_none()).map(|(index, _)| index).collect();
        let indices = catalog.items().iter().map(|item| model.index_of(item.id.as_str())).collect();
        let stage = Self { model, places, indices, absent };
        probe::retrieval(&stage).map_err(wrong)?;
        Ok(stage)
    }
}

/// A ranker with the encoder of its rows.
#[derive(Debug)]
pub struct RankerStage {
    /// The model, as the engine runs it.
    pub model: Ranker,
    /// Makes its rows from places in the catalog.
    pub encoder: Encoder,
    /// The items' halves of the model's kernel, if it has one.
    items: Option<Items>,
}

/// Memory that calls of [`RankerStage::rank`] reuse.
#[derive(Debug, Default)]
pub struct RankScratch {
    kernel: Scratch,
    rows: FeatureBatch,
}

impl RankerStage {
    pub(super) fn load(
        engine: &Engine,
        onnx: &[u8],
        card: &[u8],
        catalog: &Arc<IndexedCatalog>,
    ) -> Result<Self, BundleError> {
        let wrong = |error| model_error(ArtifactKind::RankerModel, ArtifactKind::RankerCard, error);
        let model = Ranker::load(engine, onnx, card).map_err(wrong)?;
        let encoder = Encoder::new(model.card(), Arc::clone(catalog)).map_err(wrong)?;
        let items = model.kernel().map(|kernel| kernel.items(catalog.len(), encoder.item_rows()));
        let items = items.transpose().map_err(wrong)?.flatten();
        let mut stage = Self { model, encoder, items };
        if !probe::ranker(&stage).map_err(wrong)? {
            stage.items = None;
        }
        Ok(stage)
    }

    /// The probability that the visitor likes the candidate at each of these places of the catalog, in order. `out` is
    /// emptied first. The answers are the model's, up to rounding, however they are computed.
    pub fn rank(
        &self,
        visitor: &VisitorFeatures,
        places: &[u32],
        scratch: &mut RankScratch,
        out: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let Some((kernel, items)) = self.compiled() else {
            self.encoder.encode(visitor, places, &mut scratch.rows)?;
            return self.model.rank(&scratch.rows, out);
        };
        if places.len() > CANDIDATES_MAX {
            return Err(ModelError::too_large("candidates", places.len() as u64, CANDIDATES_MAX as u64));
        }
        self.encoder.check_places(places)?;
        let both = |place: u32, row: &mut Vec<f32>| self.encoder.cross(visitor, place as usize, row);
        kernel.rank(items, visitor.row(), places, both, &mut scratch.kernel, out)
    }

    /// True: the graph is one that is known, and runs as code.
    pub fn is_compiled(&self) -> bool {
        self.compiled().is_some()
    }

    fn compiled(&self) -> Option<(&Kernel, &Items)> {
        self.model.kernel().zip(self.items.as_ref())
    }
}
