//! Training of the models that are served: how long to train is chosen on a part of the data, then everything is used.

use std::collections::BTreeMap;

use dataset::Dataset;
use inference::Engine;

use crate::cards::About;
use crate::evaluate::ranking::{FULL, served_ranks};
use crate::evaluate::{Effort, VOCABULARY_MAX};
use crate::metrics;
use crate::progress::Progress;
use crate::ranker::rows::{self, Parts, RowsError, Shares};
use crate::ranker::{self, train::Platt};
use crate::recipe::{self, Artifact, TrainError, tensors};
use crate::sasrec::{self, train::K, train::Stop};
use crate::split::{self, Vocabulary};

/// The models of a data set.
pub struct Models {
    /// History in, scored items out.
    pub retrieval: Artifact,
    /// Features in, probability out; none if the data has no ratings.
    pub ranker: Option<Artifact>,
}

/// Trains both on all of `data`. Each is loaded in `engine` the way a node would before it is handed out.
pub fn produce(data: &Dataset, effort: &Effort, seed: u64, engine: &Engine) -> Result<Models, TrainError> {
    let vocabulary = Vocabulary::new(data, 1, VOCABULARY_MAX);
    let retrieval = retrieval(data, &vocabulary, effort, seed, engine)?;
    retrieval.load_retrieval(engine)?;
    let ranker = match ranker(data, &vocabulary, effort, seed) {
        Err(TrainError::Rows(RowsError::NoRatings(_))) => None,
        ranker => Some(ranker?),
    };
    if let Some(ranker) = &ranker {
        ranker.load_ranker(engine)?;
    }
    Ok(Models { retrieval, ranker })
}

/// Leave-one-out gives the number of epochs and, from a model that did not see them, the figures on the test items; the
/// model itself is trained that long on everything.
fn retrieval(
    data: &Dataset,
    vocabulary: &Vocabulary,
    effort: &Effort,
    seed: u64,
    engine: &Engine,
) -> Result<Artifact, TrainError> {
    let split = split::leave_one_out(data, vocabulary);
    let bar = Progress::new("retrieval: SASRec, to choose its epochs");
    let chosen = sasrec::train::train(&split, &effort.retrieval, Stop::Validation, seed, &bar)
        .map_err(tensors("train the retrieval model"))?;
    let measured = recipe::retrieval_artifact(&chosen.net, vocabulary.ids(data), About::default())?
        .load_retrieval(engine)?;
    let ranks = served_ranks(&measured, &split)?;
    let mean = |of: fn(usize, usize) -> f64| {
        metrics::estimate(&ranks.iter().map(|&rank| of(rank, K)).collect::<Vec<_>>()).mean
    };
    let bar = Progress::new("retrieval: SASRec, with everything");
    let whole = split::whole(data, vocabulary);
    let all = sasrec::train::train(&whole, &effort.retrieval, Stop::Epochs(chosen.epochs), seed, &bar)
        .map_err(tensors("train the retrieval model on everything"))?;
    let about = About {
        trained_on: format!(
            "{}: the first interaction of each visitor with each item, all of them ({} visitors, {} items, {} interactions \
             read), {} epochs, seed {seed}",
            data.name,
            whole.cases.len(),
            whole.items,
            data.interactions.len(),
            chosen.epochs
        ),
        protocol: format!(
            "Measured on a model of the same recipe that saw neither test nor validation items, not on this one. {}",
            FULL.text.replace(
                "; settings and epochs by validation, then refit on training + validation",
                "; epochs by validation"
            )
        ),
        metrics: BTreeMap::from([
            ("hr_at_10".to_owned(), mean(metrics::hit)),
            ("ndcg_at_10".to_owned(), mean(metrics::ndcg)),
            ("validation_ndcg_at_10".to_owned(), chosen.ndcg_at_10.unwrap_or_default()),
            ("visitors".to_owned(), count(ranks.len())),
        ]),
    };
    recipe::retrieval_artifact(&all.net, vocabulary.ids(data), about)
}

/// The last tenth by time chooses steps and calibration.
const CHOOSING: Shares = Shares { train: 0.9, valid: 0.1 };
/// Everything.
const WHOLE: Shares = Shares { train: 1.0, valid: 0.0 };

fn ranker(
    data: &Dataset,
    vocabulary: &Vocabulary,
    effort: &Effort,
    seed: u64,
) -> Result<Artifact, TrainError> {
    let parts = rows::parts(data, vocabulary, CHOOSING)?;
    let bar = Progress::new("ranker: DCN-V2, to choose its steps");
    let chosen =
        ranker::train::train(&parts, &effort.ranker, seed, &bar).map_err(tensors("train the ranker"))?;
    let steps = chosen.steps * (parts.train.len() + parts.valid.len()) / parts.train.len().max(1);
    let whole = rows::parts(data, vocabulary, WHOLE)?;
    let bar = Progress::new("ranker: DCN-V2, with everything");
    let net = ranker::train::refit(&whole, &effort.ranker, steps, seed, &bar)
        .map_err(tensors("train the ranker on everything"))?;
    recipe::ranker_artifact(&net, chosen.platt, &whole, about_ranker(data, &parts, &chosen, steps, seed)?)
}

fn about_ranker(
    data: &Dataset,
    parts: &Parts,
    chosen: &ranker::train::Trained,
    steps: usize,
    seed: u64,
) -> Result<About, TrainError> {
    let logits = ranker::train::score(&chosen.net, parts.shape, &parts.valid)
        .map_err(tensors("score the validation rows"))?;
    let auc = metrics::auc(&logits, &parts.valid.labels);
    let Platt { scale, offset } = chosen.platt;
    Ok(About {
        trained_on: format!(
            "{}: all {} rated interactions, {steps} steps, seed {seed}; item statistics over all of them; calibration \
             (scale {scale:.3}, offset {offset:.3}) from the last tenth by time, with a model that had not seen it",
            data.name,
            parts.train.len() + parts.valid.len()
        ),
        protocol: "Measured on the last tenth of the data by time, which also chose steps and calibration, with a model of \
            the same recipe that had not seen it; `evaluate` has figures on a test part of its own. Label: rating of 4 or \
            more."
            .to_owned(),
        metrics: BTreeMap::from([
            ("validation_auc".to_owned(), auc),
            ("validation_log_loss".to_owned(), chosen.valid_log_loss),
            ("validation_rows".to_owned(), count(parts.valid.len())),
        ]),
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts are below 2^52")]
fn count(n: usize) -> f64 {
    n as f64
}
