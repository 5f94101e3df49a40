//! Training of the models that are served: how long to train is chosen on a part of the data, then everything is used. Each
//! model stands by itself: what the data is not enough for is an error that says so, and no loss to the other.

use std::collections::BTreeMap;

use dataset::Dataset;
use inference::{Engine, IndexedCatalog};

use crate::baselines::popular_ranks;
use crate::cards::About;
use crate::evaluate::ranking::{FULL, served_ranks};
use crate::evaluate::{Effort, VOCABULARY_MAX};
use crate::metrics::{self, Rank};
use crate::progress::Progress;
use crate::ranker::rows::{self, Parts, Shares};
use crate::ranker::{self, train::Platt};
use crate::recipe::{self, Artifact, TrainError, tensors};
use crate::sasrec::{self, train::K, train::Stop};
use crate::split::{self, Split, Vocabulary};

/// Fewest visitors with three different items: one to train on, one to choose the epochs by, one to measure with.
const TESTED_MIN: usize = 5;

/// What can be known of the data before anything is trained.
pub struct Outlook {
    /// The items that the models know.
    pub vocabulary: Vocabulary,
    /// What people should know; one line each.
    pub notes: Vec<String>,
}

/// Looks at the data before anything is trained.
///
/// # Errors
/// Where a node would not take the catalog, whatever the models.
pub fn outlook(data: &Dataset) -> Result<Outlook, TrainError> {
    let catalog = IndexedCatalog::new(data.catalog()).map_err(TrainError::Catalog)?;
    let vocabulary = Vocabulary::new(data, 1, VOCABULARY_MAX);
    let met = data.item_counts().iter().filter(|count| **count > 0).count();
    let mut notes = Vec::new();
    if vocabulary.len() < met {
        notes.push(beyond_vocabulary(data, &vocabulary, met));
    }
    if met < catalog.len() {
        let new = catalog.len() - met;
        notes.push(format!(
            "{new} of {} items have no interactions; retrieval does not know them",
            catalog.len()
        ));
    }
    Ok(Outlook { vocabulary, notes })
}

fn beyond_vocabulary(data: &Dataset, vocabulary: &Vocabulary, met: usize) -> String {
    let known = data.interactions.iter().filter(|i| vocabulary.index(i.item).is_some()).count();
    let share = 100.0 * count(known) / count(data.interactions.len().max(1));
    format!(
        "{met} items have interactions, and the models know the {VOCABULARY_MAX} most frequent of them ({share:.1}% of the \
         interactions); retrieval does not know the others"
    )
}

/// The retrieval model. Leave-one-out gives the number of epochs and, from a model that did not see them, the figures on the
/// test items; the model itself is trained that long on everything, and loaded in `engine` the way a node would.
///
/// # Errors
/// [`TrainError::TooLittle`] where too few visitors met several items, so that there is no order to learn from.
pub fn retrieval(
    data: &Dataset,
    outlook: &Outlook,
    effort: &Effort,
    seed: u64,
    engine: &Engine,
) -> Result<Artifact, TrainError> {
    let vocabulary = &outlook.vocabulary;
    let split = split::leave_one_out(data, vocabulary);
    check_tested(&split)?;
    let bar = Progress::new("retrieval: SASRec, to choose its epochs");
    let chosen = sasrec::train::train(&split, &effort.retrieval, Stop::Validation, seed, &bar)
        .map_err(tensors("train the retrieval model"))?;
    let measured = recipe::retrieval_artifact(&chosen.net, vocabulary.ids(data), About::default())?
        .load_retrieval(engine)?;
    let ranks = served_ranks(&measured, &split)?;
    let bar = Progress::new("retrieval: SASRec, with everything");
    let whole = split::whole(data, vocabulary);
    let all = sasrec::train::train(&whole, &effort.retrieval, Stop::Epochs(chosen.epochs), seed, &bar)
        .map_err(tensors("train the retrieval model on everything"))?;
    let mut trained_on = format!(
        "{}: the first interaction of each visitor with each item, all of them ({} visitors, {} items, {} interactions \
         read), {} epochs, seed {seed}",
        data.name,
        whole.cases.len(),
        whole.items,
        data.interactions.len(),
        chosen.epochs
    );
    for note in &outlook.notes {
        trained_on.push_str("; ");
        trained_on.push_str(note);
    }
    let about = About {
        trained_on,
        protocol: format!(
            "Measured on a model of the same recipe that saw neither test nor validation items, not on this one. {}",
            FULL.text.replace(
                "; settings and epochs by validation, then refit on training + validation",
                "; epochs by validation"
            )
        ),
        metrics: retrieval_metrics(&ranks, &popular_ranks(&split), chosen.ndcg_at_10),
    };
    let artifact = recipe::retrieval_artifact(&all.net, vocabulary.ids(data), about)?;
    artifact.load_retrieval(engine)?;
    Ok(artifact)
}

fn check_tested(split: &Split) -> Result<(), TrainError> {
    let tested = split.cases.iter().filter(|case| case.test.is_some()).count();
    if tested >= TESTED_MIN {
        return Ok(());
    }
    Err(TrainError::TooLittle(format!(
        "{tested} visitors who met three different items or more; the order in which they did is what is learned, and \
         {TESTED_MIN} of them are needed at least"
    )))
}

/// The popular list's hit rate stands beside the model's: a model below it has learned too little.
fn retrieval_metrics(ours: &[Rank], popular: &[Rank], validation: Option<f64>) -> BTreeMap<String, f64> {
    let mean = |ranks: &[Rank], of: fn(usize, usize) -> f64| {
        metrics::estimate(&ranks.iter().map(|&rank| of(rank, K)).collect::<Vec<_>>()).mean
    };
    BTreeMap::from([
        ("hr_at_10".to_owned(), mean(ours, metrics::hit)),
        ("ndcg_at_10".to_owned(), mean(ours, metrics::ndcg)),
        (POPULAR_HR.to_owned(), mean(popular, metrics::hit)),
        ("validation_ndcg_at_10".to_owned(), validation.unwrap_or_default()),
        ("visitors".to_owned(), count(ours.len())),
    ])
}

const POPULAR_HR: &str = "popular_hr_at_10";

/// For people: a retrieval model that is no better than the popular list.
pub fn no_better_than_popular(retrieval: &Artifact) -> Option<String> {
    let metric = |name: &str| retrieval.card.metrics.get(name).copied();
    let (ours, popular) = (metric("hr_at_10")?, metric(POPULAR_HR)?);
    (ours <= popular).then(|| {
        format!(
            "the retrieval model finds no more than the popular list does (hit rate at 10: {ours:.4} against {popular:.4}); \
             more interactions a visitor would help"
        )
    })
}

/// The last tenth by time chooses steps and calibration.
const CHOOSING: Shares = Shares { train: 0.9, valid: 0.1 };
/// Everything.
const WHOLE: Shares = Shares { train: 1.0, valid: 0.0 };

/// The ranker, loaded in `engine` the way a node would.
///
/// # Errors
/// [`rows::RowsError::TooFew`] where nothing tells what is liked from what is not.
pub fn ranker(
    data: &Dataset,
    outlook: &Outlook,
    effort: &Effort,
    seed: u64,
    engine: &Engine,
) -> Result<Artifact, TrainError> {
    let parts = rows::parts(data, &outlook.vocabulary, CHOOSING)?;
    let bar = Progress::new("ranker: DCN-V2, to choose its steps");
    let chosen =
        ranker::train::train(&parts, &effort.ranker, seed, &bar).map_err(tensors("train the ranker"))?;
    if chosen.steps == 0 {
        return Err(TrainError::Diverged("ranker"));
    }
    let steps = chosen.steps * (parts.train.len() + parts.valid.len()) / parts.train.len().max(1);
    let whole = rows::parts(data, &outlook.vocabulary, WHOLE)?;
    let bar = Progress::new("ranker: DCN-V2, with everything");
    let net = ranker::train::refit(&whole, &effort.ranker, steps, seed, &bar)
        .map_err(tensors("train the ranker on everything"))?;
    let about = about_ranker(data, &parts, &chosen, steps, seed)?;
    let artifact = recipe::ranker_artifact(&net, chosen.platt, &whole, about)?;
    artifact.load_ranker(engine)?;
    Ok(artifact)
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
    let metrics = [
        ("validation_auc", metrics::auc(&logits, &parts.valid.labels)),
        ("validation_log_loss", chosen.valid_log_loss),
        ("validation_rows", count(parts.valid.len())),
    ];
    let Platt { scale, offset } = chosen.platt;
    let lesson = parts.lesson;
    Ok(About {
        trained_on: format!(
            "{}: all {} {}, {steps} steps, seed {seed}; item statistics over all of them; calibration (scale {scale:.3}, \
             offset {offset:.3}) from the last tenth by time, with a model that had not seen it",
            data.name,
            parts.train.len() + parts.valid.len(),
            lesson.rows()
        ),
        protocol: format!(
            "Measured on the last tenth of the data by time, which also chose steps and calibration, with a model of the same \
             recipe that had not seen it; `evaluate` has figures on a test part of its own. Label: {}.",
            lesson.label()
        ),
        // An AUC of labels that are all alike is no number, and says nothing.
        metrics: metrics
            .into_iter()
            .filter(|(_, value)| value.is_finite())
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts are below 2^52")]
fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use dataset::{Act, Dataset};

    use super::*;
    use crate::testing::circles;

    fn brief() -> Effort {
        let mut effort = Effort::quick();
        effort.retrieval = sasrec::Config { len: 8, dim: 8, hidden: 8, epochs_max: 1, ..effort.retrieval };
        effort
    }

    fn both(data: &Dataset) -> (Result<Artifact, TrainError>, Result<Artifact, TrainError>) {
        let (engine, outlook) = (Engine::choose(None), outlook(data).unwrap());
        let retrieval = retrieval(data, &outlook, &brief(), 1, &engine);
        (retrieval, ranker(data, &outlook, &brief(), 1, &engine))
    }

    #[test]
    fn without_ratings_there_is_a_ranker_and_its_card_says_what_taught_it() {
        let mut data = circles(30, 12);
        data.interactions.iter_mut().for_each(|i| (i.stars, i.act) = (None, Act::Conversion));
        let (retrieval, ranker) = both(&data);
        assert!(retrieval.unwrap().card.metrics.contains_key(POPULAR_HR));
        let card = ranker.unwrap().card;
        assert!(card.trained_on.contains("sampled negatives"), "{}", card.trained_on);
        assert!(card.protocol.contains("drawn at random"), "{}", card.protocol);
        assert!(card.limits.contains("no probabilities"), "{}", card.limits);
    }

    /// The last tenth has likes only, so its AUC is no number: it used to lose everything at the end.
    #[test]
    fn a_figure_that_is_no_number_is_left_out() {
        let mut data = circles(30, 12);
        let from = data.interactions.len() * 4 / 5;
        data.interactions[from..].iter_mut().for_each(|i| i.stars = Some(5.0));
        let card = both(&data).1.unwrap().card;
        assert!(
            !card.metrics.contains_key("validation_auc") && card.metrics.len() == 2,
            "{:?}",
            card.metrics
        );
    }

    #[test]
    fn one_interaction_a_visitor_makes_no_retrieval_model() {
        let mut data = circles(200, 1);
        data.interactions.iter_mut().for_each(|i| (i.stars, i.act) = (None, Act::Click));
        let (retrieval, ranker) = both(&data);
        let error = retrieval.err().unwrap().to_string();
        assert!(error.contains("0 visitors who met three different items"), "{error}");
        ranker.expect("the ranker learns from traits and popularity");
    }

    #[test]
    fn items_beyond_the_vocabulary_are_said() {
        let data = circles(30, 12);
        let few = Vocabulary::new(&data, 1, 10);
        let text = beyond_vocabulary(&data, &few, 40);
        assert!(text.starts_with("40 items have interactions") && text.contains("% of the"), "{text}");
        let mut data = circles(30, 12);
        data.interactions.retain(|i| i.item != 7);
        assert!(outlook(&data).unwrap().notes[0].starts_with("1 of 40 items have no interactions"));
    }

    #[test]
    fn a_catalog_that_no_node_takes_is_refused_before_training() {
        let mut data = circles(30, 12);
        data.items[3].title = "x".repeat(513);
        let error = outlook(&data).err().unwrap().to_string();
        assert!(error.contains("i3") && error.contains("512 bytes"), "{error}");
    }
}
