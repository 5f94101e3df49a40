//! The ranker on a split by global time: does it order by liking, and are its probabilities right?

use dataset::Dataset;
use inference::{Engine, Ranker, Values};
use serde::Serialize;

use super::Effort;
use crate::cards::About;
use crate::metrics::{self, Estimate};
use crate::progress::Progress;
use crate::ranker::baselines;
use crate::ranker::rows::{self, Parts, Rows, RowsError};
use crate::ranker::train::{score, train};
use crate::ranker::trials::Lesson;
use crate::recipe::{self, TrainError, refused, tensors};
use crate::split::Vocabulary;

/// The protocol, in words.
fn protocol(lesson: Lesson) -> String {
    format!(
        "split by GLOBAL time 80/10/10, label = {}; a row sees only what happened strictly before it: the visitor's last 200 \
         interactions up to that moment, and item statistics that run along while training, frozen at the end of training for \
         validation and at the end of validation for the test; early stopping and calibration (Platt) on validation; means over \
         the seeds",
        lesson.label()
    )
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct CtrReport {
    /// The protocol, in words.
    pub protocol: String,
    /// Rows of training, validation and test.
    pub rows: [usize; 3],
    /// Share of liked rows in each.
    pub liked: [f64; 3],
    /// Our model.
    pub model: String,
    /// Area under the ROC curve, mean over the seeds.
    pub auc: f64,
    /// Its standard deviation over the seeds.
    pub auc_sd: f64,
    /// Mean negative log-likelihood in nats, mean over the seeds.
    pub log_loss: f64,
    /// Its standard deviation over the seeds.
    pub log_loss_sd: f64,
    /// Predicted over actual likes on the test, mean over the seeds.
    pub calibration: f64,
    /// Seed by seed.
    pub seeds: Vec<SeedReport>,
    /// What stands beside it.
    pub baselines: Vec<CtrBaseline>,
}

/// One seed.
#[derive(Debug, Clone, Serialize)]
pub struct SeedReport {
    /// Which.
    pub seed: u64,
    /// Area under the ROC curve.
    pub auc: f64,
    /// Log-loss in nats.
    pub log_loss: f64,
    /// Predicted over actual.
    pub calibration: f64,
    /// Steps that validation chose.
    pub steps: usize,
}

/// A baseline on the same rows.
#[derive(Debug, Clone, Serialize)]
pub struct CtrBaseline {
    /// Which.
    pub name: String,
    /// Area under the ROC curve.
    pub auc: f64,
    /// Log-loss in nats.
    pub log_loss: f64,
    /// Predicted over actual.
    pub calibration: f64,
    /// Our AUC minus this one's: mean over the seeds, with the standard deviation of a seed as `se`.
    pub auc_gain: Estimate,
    /// This one's log-loss minus ours, likewise.
    pub log_loss_gain: Estimate,
    /// The same for the first seed, row by row, with its standard error.
    pub log_loss_gain_by_row: Estimate,
}

/// Measures the ranker; none if the data is not enough for one.
pub fn measure(
    data: &Dataset,
    vocabulary: &Vocabulary,
    effort: &Effort,
    engine: &Engine,
) -> Result<Option<CtrReport>, TrainError> {
    let bar = Progress::new("ranker: rows");
    let parts = match rows::parts(data, vocabulary, rows::EVALUATION) {
        Err(RowsError::TooFew { .. }) => return Ok(None),
        parts => parts?,
    };
    bar.done(&format!("{} + {} + {} rows", parts.train.len(), parts.valid.len(), parts.test.len()));
    let labels = &parts.test.labels;
    let (mut seeds, mut first) = (Vec::new(), Vec::new());
    for seed in 1..=effort.ranker_seeds {
        let bar = Progress::new(format!("ranker: DCN-V2, seed {seed} of {}", effort.ranker_seeds));
        let trained = train(&parts, &effort.ranker, seed, &bar).map_err(tensors("train the ranker"))?;
        let artifact = recipe::ranker_artifact(&trained.net, trained.platt, &parts, About::default())?;
        let p = served(&artifact.load_ranker(engine)?, &parts.test)?;
        seeds.push(SeedReport {
            seed,
            auc: metrics::auc(&p, labels),
            log_loss: metrics::log_loss(&p, labels),
            calibration: metrics::calibration(&p, labels),
            steps: trained.steps,
        });
        if first.is_empty() {
            first = p;
        }
    }
    let by_name = baseline_probabilities(&parts)?;
    let baselines = by_name.into_iter().map(|(name, p)| against(&seeds, &first, name, &p, labels)).collect();
    Ok(Some(report(&parts, effort, seeds, baselines)))
}

fn baseline_probabilities(parts: &Parts) -> Result<Vec<(String, Vec<f32>)>, TrainError> {
    let bar = Progress::new("ranker: logistic regression");
    let fitted = baselines::logistic(parts, 1, &bar).map_err(tensors("fit the logistic regression"))?;
    let logits =
        score(&fitted.0, parts.shape, &parts.test).map_err(tensors("score with the logistic regression"))?;
    let logistic = logits.into_iter().map(|logit| fitted.1.probability(logit)).collect();
    Ok(vec![
        ("item's mean rating, calibrated".to_owned(), baselines::item_mean(parts)),
        ("logistic regression, same features, calibrated".to_owned(), logistic),
    ])
}

fn against(seeds: &[SeedReport], first: &[f32], name: String, p: &[f32], labels: &[bool]) -> CtrBaseline {
    let (auc, log_loss) = (metrics::auc(p, labels), metrics::log_loss(p, labels));
    let row = |at: usize| {
        let one = |p: f32| metrics::log_loss(&[p], &labels[at..=at]);
        one(p[at]) - one(first[at])
    };
    let by_row: Vec<f64> = (0..labels.len()).map(row).collect();
    CtrBaseline {
        name,
        auc,
        log_loss,
        calibration: metrics::calibration(p, labels),
        auc_gain: over_seeds(seeds.iter().map(|seed| seed.auc - auc)),
        log_loss_gain: over_seeds(seeds.iter().map(|seed| log_loss - seed.log_loss)),
        log_loss_gain_by_row: metrics::estimate(&by_row),
    }
}

/// Mean and standard deviation (not error) over seeds.
fn over_seeds(values: impl Iterator<Item = f64>) -> Estimate {
    let values: Vec<f64> = values.collect();
    let Estimate { mean, se } = metrics::estimate(&values);
    #[expect(clippy::cast_precision_loss, reason = "seeds are few")]
    Estimate { mean, se: se * (values.len() as f64).sqrt() }
}

fn report(parts: &Parts, effort: &Effort, seeds: Vec<SeedReport>, baselines: Vec<CtrBaseline>) -> CtrReport {
    let all = [&parts.train, &parts.valid, &parts.test];
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let liked =
        |rows: &Rows| rows.labels.iter().filter(|liked| **liked).count() as f64 / rows.len().max(1) as f64;
    let (auc, log_loss) =
        (over_seeds(seeds.iter().map(|s| s.auc)), over_seeds(seeds.iter().map(|s| s.log_loss)));
    let config = &effort.ranker;
    CtrReport {
        protocol: protocol(parts.lesson),
        rows: all.map(Rows::len),
        liked: all.map(liked),
        model: format!(
            "DCN-V2, {} crosses of rank {}, embeddings of {}",
            config.crosses, config.rank, config.embedding
        ),
        auc: auc.mean,
        auc_sd: auc.se,
        log_loss: log_loss.mean,
        log_loss_sd: log_loss.se,
        calibration: over_seeds(seeds.iter().map(|s| s.calibration)).mean,
        seeds,
        baselines,
    }
}

/// Probabilities of all rows by the model as it is served.
fn served(model: &Ranker, rows: &Rows) -> Result<Vec<f32>, TrainError> {
    let ids: Vec<i64> = rows.fields.iter().map(|&id| i64::from(id)).collect();
    let mut p = Vec::new();
    let inputs = [Values::I64(&ids), Values::F32(&rows.dense)];
    model.session().run(&inputs, &mut p).map_err(refused("ranker"))?;
    Ok(p)
}
