//! Fixed questions that a bundle's models must answer with sense before anybody relies on them: golden answers show that a file
//! is what its card says, not that it is fit for other input.

use proto::profile::{Interaction, Signal};

use super::{RankScratch, RankerStage, RetrievalStage};
use crate::card::HISTORY_LEN_MAX;
use crate::error::ModelError;
use crate::features::FeatureBatch;
use crate::kernel::agree;

/// Histories that retrieval is asked with: half of one item, half as long as a history can be; one batch.
const HISTORIES: usize = 16;
/// Candidates that the ranker is asked for; one batch.
const CANDIDATES: usize = 200;
/// Interactions of the visitor that they are ranked for; another has none.
const INTERACTIONS: usize = 20;
const NOW_MS: u64 = 1_760_000_000_000;

/// Every score is a finite number.
pub(super) fn retrieval(stage: &RetrievalStage) -> Result<(), ModelError> {
    let items = stage.model.items();
    if items == 0 {
        return Ok(());
    }
    let history = |n: usize| -> Vec<u32> {
        let len = if n.is_multiple_of(2) { 1 } else { HISTORY_LEN_MAX };
        (n * items / HISTORIES..).map(|at| (at % items) as u32).take(len).collect()
    };
    let histories: Vec<Vec<u32>> = (0..HISTORIES).map(history).collect();
    let views: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
    // The session refuses to answer with what is not finite.
    stage.model.scores_many(&views, &mut Vec::new())
}

/// Every answer of the engine is a probability. True: what serves, if it is not the engine, answers the same.
pub(super) fn ranker(stage: &RankerStage) -> Result<bool, ModelError> {
    let catalog = stage.encoder.catalog();
    let spread = |count: usize| {
        (0..count.min(catalog.len())).map(move |n| n * catalog.len() / count.min(catalog.len()))
    };
    let candidates: Vec<u32> = spread(CANDIDATES).map(|place| place as u32).collect();
    let met = |place: usize| {
        let (signal, stars) =
            if place.is_multiple_of(2) { (Signal::Rating, 4.0) } else { (Signal::Click, 0.0) };
        Interaction { item: catalog.items()[place].id.clone(), signal, stars, at_ms: NOW_MS - place as u64 }
    };
    let known: Vec<Interaction> = spread(INTERACTIONS).map(met).collect();
    let (mut features, mut answers, mut served) = (FeatureBatch::default(), Vec::new(), Vec::new());
    let (mut scratch, mut same) = (RankScratch::default(), true);
    for interactions in [&[], known.as_slice()] {
        let visitor = stage.encoder.visitor(interactions, &Vec::new(), &Vec::new(), NOW_MS);
        stage.encoder.encode(&visitor, &candidates, &mut features)?;
        stage.model.rank(&features, &mut answers)?;
        if let Some(wrong) = answers.iter().find(|answer| !(0.0..=1.0).contains(*answer)) {
            return Err(ModelError::refused(
                "the ranker",
                format!("it answers {wrong}, which is no probability"),
            ));
        }
        let ran = stage.rank(&visitor, &candidates, &mut scratch, &mut served);
        same &= ran.is_ok() && agree(&served, &answers);
    }
    Ok(same)
}
