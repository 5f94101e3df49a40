//! Do the catalog and the models of a bundle belong together? Each may be sound by itself and of other data than the others:
//! a ranker that was left in the folder, the models of another shop.

use std::collections::HashSet;

use proto::ItemId;
use proto::bundle::ArtifactKind;

use super::{RankerStage, RetrievalStage};
use crate::card::Card;
use crate::catalog::IndexedCatalog;
use crate::error::BundleError;

/// Least share of items in common, from 0 to 1. Items come and go between two trainings, but not most of them.
pub const SHARE_MIN: f64 = 0.5;

/// Checks that the catalog has items, that each model knows them, and that the models know the same.
pub(super) fn check(
    catalog: &IndexedCatalog,
    retrieval: Option<&RetrievalStage>,
    ranker: Option<&RankerStage>,
) -> Result<(), BundleError> {
    if catalog.is_empty() {
        return refuse(ArtifactKind::Catalog, "it has no items".to_owned());
    }
    let (retrieval, ranker) =
        (retrieval.map(|stage| stage.model.card()), ranker.map(|stage| stage.model.card()));
    for (kind, card) in [(ArtifactKind::RetrievalModel, retrieval), (ArtifactKind::RankerModel, ranker)] {
        if let Some(card) = card {
            against_catalog(kind, card, catalog)?;
        }
    }
    if let Some(card) = ranker {
        categories(card, catalog)?;
    }
    retrieval.zip(ranker).map_or(Ok(()), |(retrieval, ranker)| against_each_other(retrieval, ranker))
}

/// Of the smaller of the two: a catalog may be a part of what a model knows, and a model may know a part of a catalog.
fn against_catalog(kind: ArtifactKind, card: &Card, catalog: &IndexedCatalog) -> Result<(), BundleError> {
    let common = card.items.iter().filter(|item| catalog.place(item.as_str()).is_some()).count();
    let smaller = card.items.len().min(catalog.len());
    if share(common, smaller) >= SHARE_MIN {
        return Ok(());
    }
    refuse(
        kind,
        format!(
            "of its {} items and the catalog's {}, {} are the same, {}: it was trained on other data; train again on the data \
             that the catalog is of",
            card.items.len(),
            catalog.len(),
            common,
            percent(common, smaller)
        ),
    )
}

/// Both models of a training know the same items.
fn against_each_other(retrieval: &Card, ranker: &Card) -> Result<(), BundleError> {
    let known: HashSet<&ItemId> = retrieval.items.iter().collect();
    let common = ranker.items.iter().filter(|item| known.contains(item)).count();
    let larger = known.len().max(ranker.items.len());
    if share(common, larger) >= SHARE_MIN {
        return Ok(());
    }
    refuse(
        ArtifactKind::RankerModel,
        format!(
            "of its {} items and the retrieval model's {}, {common} are the same, {}: they were trained on different data; \
             train both again",
            ranker.items.len(),
            known.len(),
            percent(common, larger)
        ),
    )
}

/// Where ids are numbers, those of any two shops are alike; the categories are not.
fn categories(ranker: &Card, catalog: &IndexedCatalog) -> Result<(), BundleError> {
    let known = ranker.ranker.as_ref().map_or(&[][..], |part| &part.features.categories);
    let used: HashSet<&str> =
        catalog.items().iter().flat_map(|item| &item.categories).map(String::as_str).collect();
    if known.is_empty() || used.is_empty() || known.iter().any(|category| used.contains(category.as_str())) {
        return Ok(());
    }
    let (known, used) = (known.len(), used.len());
    refuse(
        ArtifactKind::RankerModel,
        format!(
            "of its {known} categories and the catalog's {used}, none are the same, 0%: it was trained on other data; train again \
             on the data that the catalog is of"
        ),
    )
}

fn refuse(kind: ArtifactKind, reason: String) -> Result<(), BundleError> {
    Err(BundleError::Contents { kind, reason })
}

#[expect(clippy::cast_precision_loss, reason = "a catalog has at most a million items")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1}% (at least {:.0}% are due)", 100.0 * share(part, whole), 100.0 * SHARE_MIN)
}
