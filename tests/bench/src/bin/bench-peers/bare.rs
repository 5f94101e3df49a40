//! ONNX Runtime called in a bare loop: for the same visitors the two model calls of a recommendation, retrieval and the ranker on
//! 200 candidates, on rows that were encoded before, by the crate that nodes run them with. Nothing else is done, so this is what a
//! recommendation costs at least.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::processes::thread_cpu_s;
use inference::bundle::{read_catalog, read_rules};
use inference::retrieval::top;
use inference::{Encoder, Engine, EngineKind, FeatureBatch, IndexedCatalog, Ranker, Retrieval};
use proto::bundle::ArtifactKind;
use serde::Serialize;

use bench::work::{Visitor, Work};

/// Candidates that are ranked: a node's default.
const CANDIDATES: usize = 200;

/// What it came to.
#[derive(Debug, Clone, Serialize)]
pub struct Bare {
    /// The runtime.
    pub engine: String,
    /// CPU microseconds of both calls, on one thread.
    pub cpu_us_per_request: f64,
    /// How often both were called.
    pub requests: u64,
}

struct Models {
    retrieval: Retrieval,
    ranker: Ranker,
    encoder: Encoder,
    catalog: Arc<IndexedCatalog>,
}

/// What the models are asked for one visitor.
struct Inputs {
    history: Vec<u32>,
    batch: FeatureBatch,
}

/// Calls both models for so long. Blocks its thread.
///
/// # Errors
/// Where ONNX Runtime is not there, or a model fails.
pub fn run(work: &Work, length: Duration) -> anyhow::Result<Bare> {
    let engine = Engine::choose(None);
    anyhow::ensure!(
        engine.kind() == EngineKind::Ort,
        "without ONNX Runtime there is no loop: {}",
        engine.describe()
    );
    let models = Models::load(&engine, work)?;
    let inputs =
        work.visitors.iter().map(|visitor| models.inputs(visitor)).collect::<anyhow::Result<Vec<_>>>()?;
    let (mut scores, mut likes) = (Vec::new(), Vec::new());
    let mut all = |until: Instant| -> anyhow::Result<u64> {
        let mut requests = 0;
        for input in inputs.iter().cycle().take_while(|_| Instant::now() < until) {
            models.retrieval.scores(&input.history, &mut scores)?;
            models.ranker.rank(&input.batch, &mut likes)?;
            requests += 1;
        }
        Ok(requests)
    };
    all(Instant::now() + length / 4)?;
    let before = thread_cpu_s()?;
    let requests = all(Instant::now() + length)?;
    let cpu_us_per_request = (thread_cpu_s()? - before) * 1e6 / requests as f64;
    Ok(Bare { engine: engine.describe().to_owned(), cpu_us_per_request, requests })
}

impl Models {
    fn load(engine: &Engine, work: &Work) -> anyhow::Result<Self> {
        let catalog = Arc::new(read_catalog(work.artifact(ArtifactKind::Catalog)?)?);
        let rules = read_rules(work.artifact(ArtifactKind::Rules)?)?;
        anyhow::ensure!(rules.blocked.is_empty(), "blocked items would have to be left out here, too");
        let (model, card) = (ArtifactKind::RetrievalModel, ArtifactKind::RetrievalCard);
        let retrieval = Retrieval::load(engine, work.artifact(model)?, work.artifact(card)?)?;
        let (model, card) = (ArtifactKind::RankerModel, ArtifactKind::RankerCard);
        let ranker = Ranker::load(engine, work.artifact(model)?, work.artifact(card)?)?;
        let encoder = Encoder::new(ranker.card(), Arc::clone(&catalog))?;
        Ok(Self { retrieval, ranker, encoder, catalog })
    }

    /// As a node makes them: edge-node/serving/src/decide.rs.
    fn inputs(&self, visitor: &Visitor) -> anyhow::Result<Inputs> {
        let index = |met: &proto::profile::Interaction| self.retrieval.index_of(met.item.as_str());
        let history: Vec<u32> = visitor.past.iter().filter_map(index).collect();
        let (mut scores, mut best, mut batch) = (Vec::new(), Vec::new(), FeatureBatch::default());
        self.retrieval.scores(&history, &mut scores)?;
        let place = |index: u32| self.catalog.place(self.retrieval.item(index)?.as_str());
        let is_unwanted = |index: &u32| history.contains(index) || place(*index).is_none();
        let unwanted = (0..u32::try_from(scores.len())?).filter(is_unwanted);
        top(&scores, CANDIDATES, unwanted, &mut Vec::new(), &mut best);
        let places: Vec<u32> = best.iter().filter_map(|(index, _)| place(*index)).collect();
        let now_ms = visitor.past.last().context("a visitor without a past")?.at_ms;
        let features = self.encoder.visitor(&visitor.past, &visitor.traits, &Vec::new(), now_ms);
        self.encoder.encode(&features, &places, &mut batch)?;
        anyhow::ensure!(batch.rows() == CANDIDATES, "{} candidates", batch.rows());
        Ok(Inputs { history, batch })
    }
}
