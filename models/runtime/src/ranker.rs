//! The ranker: feature rows of candidates in, the probability that each is liked out.

use proto::ModelVersion;

use crate::card::{Card, ModelKind};
use crate::engine::{Engine, Session};
use crate::error::ModelError;
use crate::features::{FeatureBatch, Schema};
use crate::kernel::{check, ranker::Kernel};
use crate::tensor::{ModelSpec, Values};
use crate::vet::vet;

/// Batch sizes that are run in one piece; a slot ranks about 200 candidates.
const BATCHES: [usize; 4] = [20, 50, 100, 200];
/// Most candidates of one call.
pub const CANDIDATES_MAX: usize = 4096;

/// A ranker that passed every check. [`crate::Encoder::new`] with the same card makes its rows.
#[derive(Debug)]
pub struct Ranker {
    session: Session,
    card: Card,
    kernel: Option<Kernel>,
}

impl Ranker {
    /// Checks card (its feature schema hash included), digest, graph, shapes and golden answers, in this order.
    pub fn load(engine: &Engine, onnx: &[u8], card: &[u8]) -> Result<Self, ModelError> {
        let card = Card::parse(card)?;
        card.check_file(ModelKind::Ranker, onnx)?;
        let spec = Self::spec(&card);
        let vetted = vet(onnx, &spec)?;
        let session = engine.open(&vetted, &spec)?;
        session.check_golden(&card.golden)?;
        let kernel = card.ranker.as_ref().and_then(|part| {
            let schema = Schema::new(&part.features, card.items.len());
            let kernel = Kernel::of(vetted.model.graph.as_ref()?, &schema)?;
            check::ranker(&kernel, &session, &schema, &card.golden).then_some(kernel)
        });
        Ok(Self { session, card, kernel })
    }

    /// What the graph of a ranker's card must look like: for whoever trains one.
    pub fn spec(card: &Card) -> ModelSpec {
        ModelSpec { inputs: card.inputs.clone(), output: card.output.clone(), batches: BATCHES.to_vec() }
    }

    /// The card.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// The model's version.
    pub fn version(&self) -> &ModelVersion {
        &self.card.version
    }

    /// The loaded graph.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The same as code, if the graph is one that is known.
    pub(crate) fn kernel(&self) -> Option<&Kernel> {
        self.kernel.as_ref()
    }

    /// The probability that the visitor likes the candidate, one a row, in order. `out` is emptied first.
    pub fn rank(&self, batch: &FeatureBatch, out: &mut Vec<f32>) -> Result<(), ModelError> {
        if batch.rows() > CANDIDATES_MAX {
            let len = batch.rows() as u64;
            return Err(ModelError::too_large("a batch, in candidates", len, CANDIDATES_MAX as u64));
        }
        self.session.run(&[Values::I64(batch.fields()), Values::F32(batch.dense())], out)
    }
}
