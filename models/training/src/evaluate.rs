//! Offline quality on published protocols. Every model is trained on its split by itself and has seen no row of its own test
//! set; the neural ones are measured through their exported ONNX files in the engine that serves.

use serde::Serialize;

use dataset::Dataset;
use inference::Engine;

use crate::recipe::TrainError;
use crate::split::{self, Vocabulary};
use crate::{ranker, sasrec};

pub mod ctr;
pub mod ranking;
pub mod table;

pub use ctr::CtrReport;
pub use ranking::RankingReport;

/// Most items that a model learns; of larger catalogs the most frequent.
pub const VOCABULARY_MAX: usize = 20_000;

/// How thoroughly to evaluate.
#[derive(Debug, Clone)]
pub struct Effort {
    /// Of the retrieval model.
    pub retrieval: sasrec::Config,
    /// Of the ranker.
    pub ranker: ranker::Config,
    /// Seeds of the ranker.
    pub ranker_seeds: u64,
    /// A short run whose figures mean nothing but that everything works.
    pub quick: bool,
}

impl Effort {
    /// What the published figures are made with.
    pub fn full() -> Self {
        Self {
            retrieval: sasrec::Config::default(),
            ranker: ranker::Config::default(),
            ranker_seeds: 5,
            quick: false,
        }
    }

    /// Hardly any training.
    pub fn quick() -> Self {
        let full = Self::full();
        Self {
            retrieval: sasrec::Config { epochs_max: 2, ..full.retrieval },
            ranker: ranker::Config { epochs_max: 1, ..full.ranker },
            ranker_seeds: 1,
            quick: true,
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Which data set.
    pub data: String,
    /// Which engine ran the exported models.
    pub engine: String,
    /// The seed of splits, negatives and retrieval models.
    pub seed: u64,
    /// True if the figures mean nothing but that everything works.
    pub quick: bool,
    /// Finding items.
    pub retrieval: RetrievalReport,
    /// Ordering items; none if the data has no ratings.
    pub ctr: Option<CtrReport>,
    /// Wall time, in seconds.
    pub seconds: f64,
}

/// Both protocols.
#[derive(Debug, Clone, Serialize)]
pub struct RetrievalReport {
    /// Leave-one-out over all items.
    pub full: RankingReport,
    /// Protocol A.
    pub sampled99: RankingReport,
}

/// Measures everything.
pub fn evaluate(data: &Dataset, effort: &Effort, seed: u64, engine: &Engine) -> Result<Report, TrainError> {
    let since = std::time::Instant::now();
    let vocabulary = Vocabulary::new(data, 1, VOCABULARY_MAX);
    let split = split::leave_one_out(data, &vocabulary);
    let full = ranking::measure(&ranking::FULL, &split, vocabulary.ids(data), effort, seed, engine)?;
    let frequent = Vocabulary::new(data, split::SAMPLED_ITEM_MIN, VOCABULARY_MAX);
    let split = split::sampled(data, &frequent, seed);
    let sampled99 = ranking::measure(&ranking::SAMPLED, &split, frequent.ids(data), effort, seed, engine)?;
    let ctr = ctr::measure(data, &vocabulary, effort, engine)?;
    Ok(Report {
        data: data.name.clone(),
        engine: engine.describe().to_owned(),
        seed,
        quick: effort.quick,
        retrieval: RetrievalReport { full, sampled99 },
        ctr,
        seconds: since.elapsed().as_secs_f64(),
    })
}
