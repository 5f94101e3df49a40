//! Rows for the ranker, made by the encoder that serves: every trial ([`super::trials`]) becomes the row that a node would have
//! seen just before it happened.
//!
//! The visitor's ring holds what strictly precedes the row (interactions at the very same time do not see each other). An
//! item's statistics run along while training; for validation they are frozen at the end of the training part, for the test
//! at the end of validation, as a card would freeze them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::{Result, Tensor};
use dataset::{Act, Dataset};
use inference::features::{FieldValues, NamedValues, stars_of};
use inference::{Encoder, FeatureBatch, FeatureSpec, GlobalStats, IndexedCatalog, ItemStats, ModelError};
use proto::event::Attributes;
use proto::ids::ItemId;
use proto::limits::PROFILE_RING_LEN;
use proto::profile::{Interaction, Signal};

use super::CPU;
use super::trials::{Lesson, Trial, trials};
use crate::split::Vocabulary;

/// Numbers that decide the network's widths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowShape {
    /// Fields of a row.
    pub fields: usize,
    /// Numbers of a row.
    pub dense: usize,
    /// Rows of the joint embedding table.
    pub table_len: usize,
}

/// Rows with their labels, in order of time.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// `[rows, F]`.
    pub fields: Vec<u32>,
    /// `[rows, D]`.
    pub dense: Vec<f32>,
    /// Whether the visitor liked the item, as the [`Lesson`] says.
    pub labels: Vec<bool>,
    /// The item's mean stars as far as it was known, as a predictor of its own.
    pub item_mean: Vec<f32>,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The rows at these places, as the network takes them.
    pub fn batch(&self, shape: RowShape, places: &[usize]) -> Result<(Batch, Vec<f32>)> {
        let mut fields = Vec::with_capacity(places.len() * shape.fields);
        let mut dense = Vec::with_capacity(places.len() * shape.dense);
        for &at in places {
            fields.extend_from_slice(&self.fields[at * shape.fields..][..shape.fields]);
            dense.extend_from_slice(&self.dense[at * shape.dense..][..shape.dense]);
        }
        let labels = places.iter().map(|&at| if self.labels[at] { 1.0 } else { 0.0 }).collect();
        let batch = Batch {
            rows: places.len(),
            fields: Tensor::from_vec(fields, places.len() * shape.fields, &CPU)?,
            dense: Tensor::from_vec(dense, (places.len(), shape.dense), &CPU)?,
        };
        Ok((batch, labels))
    }

    fn push(&mut self, batch: &FeatureBatch, liked: bool, item_mean: f32) {
        self.fields.extend(
            batch.fields().iter().map(|&id| u32::try_from(id).expect("ids of the joint table fit 32 bits")),
        );
        self.dense.extend_from_slice(batch.dense());
        self.labels.push(liked);
        self.item_mean.push(item_mean);
    }
}

/// Rows as tensors.
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// `[rows * F]`.
    pub fields: Tensor,
    /// `[rows, D]`.
    pub dense: Tensor,
}

/// Rows in three parts by global time.
pub struct Parts {
    /// Where the labels come from.
    pub lesson: Lesson,
    /// Widths.
    pub shape: RowShape,
    /// What the encoder knew.
    pub spec: FeatureSpec,
    /// What was usual in the training part.
    pub global: GlobalStats,
    /// The first part.
    pub train: Rows,
    /// The second.
    pub valid: Rows,
    /// The last.
    pub test: Rows,
    /// Statistics of [`Parts::items`] over everything but the test.
    pub stats: Vec<ItemStats>,
    /// The vocabulary, in index order.
    pub items: Vec<ItemId>,
}

/// Shares of the training and the validation part; the rest is the test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// From 0 to 1.
    pub train: f64,
    /// From 0 to 1.
    pub valid: f64,
}

/// How the published protocol splits.
pub const EVALUATION: Shares = Shares { train: 0.8, valid: 0.1 };

/// Why rows could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The encoder refused.
    #[error("cannot encode features")]
    Encoder(#[from] ModelError),
    /// The catalog cannot be indexed.
    #[error("cannot index the catalog: {0}")]
    Catalog(String),
    /// There is nothing to learn from.
    #[error(
        "a ranker learns from 100 trials at least, with 10 of each outcome; the data set gives {liked} that were liked and \
         {others} that were not"
    )]
    TooFew {
        /// Trials that were liked.
        liked: usize,
        /// Trials that were not.
        others: usize,
    },
}

/// Makes all rows. Interactions without stars are visits: they enter the ring as clicks or conversions.
pub fn parts(
    data: &Dataset,
    vocabulary: &Vocabulary,
    shares: Shares,
) -> std::result::Result<Parts, RowsError> {
    let trials = trials(data, vocabulary)?;
    let total = trials.list.len();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share"
    )]
    let part = |share: f64| (total as f64 * share).round() as usize;
    let (train_end, valid_end) = (part(shares.train), part(shares.train + shares.valid));
    let before = |trial: usize| trials.before.get(trial).copied().unwrap_or(data.interactions.len());
    let known = &data.interactions[..before(train_end)];
    let catalog = Arc::new(IndexedCatalog::new(data.catalog()).map_err(RowsError::Catalog)?);
    let items: Vec<ItemId> = vocabulary.ids(data);
    let mut stats = vec![ItemStats::default(); data.items.len()];
    known.iter().for_each(|i| stats[i.item as usize].record(stars_of(&entry(data, i))));
    let global = GlobalStats::of(&stats);
    let spec = spec(data);
    let encoder = Encoder::with_stats(&spec, &items, catalog, global)?;
    let schema = encoder.schema();
    let shape =
        RowShape { fields: schema.fields.len(), dense: schema.dense.len(), table_len: schema.table_len };
    let mut replay = Replay::new(data, encoder, global);
    let train = replay.rows(&trials.list[..train_end], before(train_end), Stats::Running)?;
    let valid = replay.rows(&trials.list[train_end..valid_end], before(valid_end), Stats::Frozen)?;
    replay.thaw();
    let stats = vocabulary.items.iter().map(|&item| replay.stats[item as usize]).collect();
    let test = replay.rows(&trials.list[valid_end..], data.interactions.len(), Stats::Frozen)?;
    Ok(Parts { lesson: trials.lesson, shape, spec, global, train, valid, test, stats, items })
}

/// An interaction as a visitor's ring has it.
fn entry(data: &Dataset, interaction: &dataset::Interaction) -> Interaction {
    let (signal, stars) = match (interaction.stars, interaction.act) {
        (Some(stars), _) => (Signal::Rating, stars),
        (None, Act::Conversion) => (Signal::Conversion, 0.0),
        (None, Act::View | Act::Click | Act::Rating) => (Signal::Click, 0.0),
    };
    let item = data.items[interaction.item as usize].id.clone();
    Interaction { item, signal, stars, at_ms: interaction.at_ms }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stats {
    Running,
    Frozen,
}

/// Walks through the data in order of time, with everything that a node would know.
struct Replay<'a> {
    data: &'a Dataset,
    encoder: Encoder,
    global: GlobalStats,
    rings: Vec<Vec<Interaction>>,
    stats: Vec<ItemStats>,
    /// What the frozen statistics have missed.
    later: Vec<(u32, f32)>,
    /// Interactions that have been taken in.
    recorded: usize,
    batch: FeatureBatch,
}

impl<'a> Replay<'a> {
    fn new(data: &'a Dataset, encoder: Encoder, global: GlobalStats) -> Self {
        Self {
            data,
            encoder,
            global,
            rings: vec![Vec::new(); data.visitors.len()],
            stats: vec![ItemStats::default(); data.items.len()],
            later: Vec::new(),
            recorded: 0,
            batch: FeatureBatch::default(),
        }
    }

    /// The rows of these trials. Each sees the interactions strictly before it; when they are done, the first `until`
    /// interactions have been taken in.
    fn rows(&mut self, trials: &[Trial], until: usize, mode: Stats) -> std::result::Result<Rows, RowsError> {
        let mut rows = Rows::default();
        let data = self.data;
        for moment in trials.chunk_by(|a, b| a.at_ms == b.at_ms) {
            let since = &data.interactions[self.recorded..until.max(self.recorded)];
            let earlier = since.partition_point(|i| i.at_ms < moment[0].at_ms);
            self.record(&since[..earlier], mode);
            for trial in moment {
                self.encode(trial, &mut rows)?;
            }
        }
        self.record(&data.interactions[self.recorded..until.max(self.recorded)], mode);
        Ok(rows)
    }

    fn encode(&mut self, trial: &Trial, rows: &mut Rows) -> std::result::Result<(), RowsError> {
        let visitor = &self.data.visitors[trial.visitor as usize];
        let ring = &self.rings[trial.visitor as usize];
        let context = Attributes::new();
        let features = self.encoder.visitor(ring, &visitor.traits, &context, trial.at_ms);
        self.encoder.encode(&features, &[trial.item], &mut self.batch)?;
        rows.push(&self.batch, trial.liked, self.item_mean(trial.item));
        Ok(())
    }

    /// Shrunk towards the mean over all items, as if five such ratings came first.
    fn item_mean(&self, item: u32) -> f32 {
        const PRIOR: f32 = 5.0;
        let stats = &self.stats[item as usize];
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let count = stats.count as f32;
        (stats.stars_sum + PRIOR * self.global.stars_mean) / (count + PRIOR)
    }

    fn record(&mut self, interactions: &[dataset::Interaction], mode: Stats) {
        self.recorded += interactions.len();
        for interaction in interactions {
            let entry = entry(self.data, interaction);
            let (item, stars) = (interaction.item, stars_of(&entry));
            if mode == Stats::Running {
                self.stats[item as usize].record(stars);
                self.encoder.set_stats(item, self.stats[item as usize]);
            } else {
                self.later.push((item, stars));
            }
            let ring = &mut self.rings[interaction.visitor as usize];
            if ring.len() == PROFILE_RING_LEN {
                ring.remove(0);
            }
            ring.push(entry);
        }
    }

    /// Takes what happened since the statistics were frozen into them.
    fn thaw(&mut self) {
        for (item, stars) in std::mem::take(&mut self.later) {
            self.stats[item as usize].record(stars);
            self.encoder.set_stats(item, self.stats[item as usize]);
        }
    }
}

/// Liked items that are fields of a row.
const LIKED_ITEMS: usize = 5;
/// A trait or attribute with more different values than this is no vocabulary.
const VALUES_MAX: usize = 256;
/// Numbers with more different values than this are put into bands …
const BANDS_FROM: usize = 12;
/// … of about equal size, this many.
const BANDS: usize = 8;
/// Categories that are known, the most frequent first if there are more.
const CATEGORIES: usize = 64;

/// What the encoder needs to know of a data set: its categories, and vocabularies or bands of traits and attributes.
pub fn spec(data: &Dataset) -> FeatureSpec {
    let traits = data.visitors.iter().map(|v| &v.traits);
    // The age band is there for people and segments; the age itself says more.
    let traits = named(traits).into_iter().filter(|t| t.name != dataset::ml100k::AGE_BAND).collect();
    let attributes = named(data.items.iter().map(|item| &item.attributes));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    data.items.iter().flat_map(|i| &i.categories).for_each(|c| *counts.entry(c).or_default() += 1);
    let mut categories: Vec<&str> = counts.keys().copied().collect();
    categories.sort_by_key(|c| std::cmp::Reverse(counts[c]));
    categories.truncate(CATEGORIES);
    let categories = categories.into_iter().map(str::to_owned).collect();
    FeatureSpec { traits, attributes, categories, liked_items: LIKED_ITEMS }
}

fn named<'a>(lists: impl Iterator<Item = &'a Attributes>) -> Vec<NamedValues> {
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in lists.flatten() {
        values.entry(name).or_default().push(value);
    }
    values
        .into_iter()
        .filter_map(|(name, values)| {
            Some(NamedValues { name: name.to_owned(), values: field_values(&values)? })
        })
        .collect()
}

/// Bands for numbers, a vocabulary for words, nothing for what is different for nearly everybody.
fn field_values(values: &[&str]) -> Option<FieldValues> {
    let different: BTreeSet<&str> = values.iter().copied().collect();
    let numbers: Option<Vec<f64>> =
        values.iter().map(|v| v.trim().parse::<f64>().ok().filter(|n| n.is_finite())).collect();
    match numbers {
        Some(mut numbers) if different.len() > BANDS_FROM => {
            numbers.sort_by(f64::total_cmp);
            let mut edges: Vec<f64> = (1..BANDS).map(|band| numbers[band * numbers.len() / BANDS]).collect();
            edges.dedup();
            Some(FieldValues::Bands(edges))
        }
        _ if (2..=VALUES_MAX).contains(&different.len()) => {
            Some(FieldValues::Vocabulary(different.into_iter().map(str::to_owned).collect()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
