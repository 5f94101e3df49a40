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
    /// Ordering items; none if the data is not enough for it.
    pub ctr: Option<CtrReport>,
    /// Wall time, in seconds.
    pub seconds: f64,
}

/// Both protocols.
#[derive(Debug, Clone, Serialize)]
pub struct RetrievalReport {
    /// Leave-one-out over all items.
    pub full: RankingReport,
    /// Protocol A; none if no visitor has enough interactions for it.
    pub sampled99: Option<RankingReport>,
}

/// Measures everything.
pub fn evaluate(data: &Dataset, effort: &Effort, seed: u64, engine: &Engine) -> Result<Report, TrainError> {
    let since = std::time::Instant::now();
    let vocabulary = Vocabulary::new(data, 1, VOCABULARY_MAX);
    // Each half is one thread's work: side by side they take half the time where there are two cores.
    let (full, others) = std::thread::scope(|scope| {
        let full = scope.spawn(|| {
            let split = split::leave_one_out(data, &vocabulary);
            ranking::measure(&ranking::FULL, &split, vocabulary.ids(data), effort, seed, engine)
        });
        let others = sampled(data, effort, seed, engine)
            .and_then(|sampled| Ok((sampled, ctr::measure(data, &vocabulary, effort, engine)?)));
        (full.join(), others)
    });
    let full = full.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let (sampled99, ctr) = others?;
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

/// Protocol A, if anybody has enough interactions for it.
fn sampled(
    data: &Dataset,
    effort: &Effort,
    seed: u64,
    engine: &Engine,
) -> Result<Option<RankingReport>, TrainError> {
    let frequent = Vocabulary::new(data, split::SAMPLED_ITEM_MIN, VOCABULARY_MAX);
    let split = split::sampled(data, &frequent, seed);
    if split.cases.is_empty() {
        return Ok(None);
    }
    ranking::measure(&ranking::SAMPLED, &split, frequent.ids(data), effort, seed, engine).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::circles;

    /// Short, but through every step: splits, training, export, engine, baselines, tables.
    #[test]
    fn a_report_has_all_figures_and_the_order_matters() {
        let data = circles(100, 24);
        let mut effort = Effort::quick();
        effort.retrieval = sasrec::Config {
            len: 8,
            dim: 16,
            hidden: 16,
            rate: 5e-3,
            batch: 16,
            epochs_max: 15,
            ..effort.retrieval
        };
        let report = evaluate(&data, &effort, 1, &Engine::choose(None)).unwrap();
        let full = &report.retrieval.full;
        assert_eq!((full.visitors, full.baselines.len()), (100, 4));
        // The data are all order, which models without order cannot see as well.
        for baseline in &full.baselines[..2] {
            let gain = baseline.ndcg_at_10_gain;
            assert!(gain.mean > 2.0 * gain.se, "{baseline:?}");
            assert!((full.ndcg_at_10 - baseline.ndcg_at_10 - gain.mean).abs() < 1e-9);
        }
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        for path in [
            "/retrieval/full/hr_at_10",
            "/retrieval/full/ndcg_at_10",
            "/retrieval/sampled99/hr_at_10",
            "/retrieval/sampled99/ndcg_at_10",
            "/ctr/auc",
            "/ctr/log_loss",
            "/ctr/calibration",
        ] {
            assert!(json.pointer(path).unwrap().is_f64(), "{path}");
        }
        let text = table::render(&report);
        assert!(
            text.contains("FULL ranking") && text.contains("SLIM") && text.contains("GLOBAL time"),
            "{text}"
        );
    }
}
