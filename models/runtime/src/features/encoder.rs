//! Rows of features. What depends on the item alone is computed once; what depends on the visitor, once a request.

use std::collections::HashMap;
use std::sync::Arc;

use proto::ItemId;
use proto::bundle::Item;
use proto::event::Attributes;
use proto::profile::Interaction;
use serde::{Deserialize, Serialize};

use super::visitor::VisitorFeatures;
use super::{FeatureSpec, FieldValues, NamedValues, Schema, banded, log_bucket, share_bucket};
use crate::card::Card;
use crate::catalog::IndexedCatalog;
use crate::error::ModelError;

/// Pseudo-observations of the prior in an item's means (shrinkage).
const ITEM_PRIOR: f32 = 10.0;
/// Most numbers kept for all items of a catalog together (512 MiB at most).
const ELEMENTS_MAX: u64 = 64 * 1024 * 1024;
/// Pseudo-observations in a visitor's taste for a category or band.
const TASTE_PRIOR: f32 = 3.0;

pub(super) const CROSS_NAMES: [&str; 6] = [
    "both.expected_stars",
    "both.category.affinity",
    "both.category.like_affinity",
    "both.category.evidence",
    "both.category.recent",
    "both.category.recent_liked",
];

/// What is known of an item from interactions up to some moment. Never from later ones: the trainer hands over running
/// or training-part counts, the card those of its training data.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemStats {
    /// Interactions.
    pub count: u32,
    /// How many of them had [`super::LIKED_STARS`] or more.
    pub likes: u32,
    /// Sum of their stars ([`super::stars_of`]).
    pub stars_sum: f32,
}

impl ItemStats {
    /// Takes in one interaction.
    pub fn record(&mut self, stars: f32) {
        self.count = self.count.saturating_add(1);
        self.likes = self.likes.saturating_add(u32::from(stars >= super::LIKED_STARS));
        self.stars_sum += stars;
    }
}

/// What is usual over all items and visitors: the prior that small counts are shrunk towards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlobalStats {
    /// Mean stars, from 0 to 5.
    pub stars_mean: f32,
    /// Share of interactions with [`super::LIKED_STARS`] or more.
    pub like_rate: f32,
}

impl GlobalStats {
    /// The means over all items' stats; 3.5 stars and half liked if there are none.
    pub fn of(stats: &[ItemStats]) -> Self {
        let count: f64 = stats.iter().map(|s| f64::from(s.count)).sum();
        if count == 0.0 {
            return Self { stars_mean: 3.5, like_rate: 0.5 };
        }
        let stars: f64 = stats.iter().map(|s| f64::from(s.stars_sum)).sum();
        let likes: f64 = stats.iter().map(|s| f64::from(s.likes)).sum();
        Self { stars_mean: (stars / count) as f32, like_rate: (likes / count) as f32 }
    }
}

/// Rows for one call of the ranker. Reuse it: its memory is kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeatureBatch {
    rows: usize,
    fields: Vec<i64>,
    dense: Vec<f32>,
}

impl FeatureBatch {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// `[rows, F]` ids into the joint table, row by row.
    pub fn fields(&self) -> &[i64] {
        &self.fields
    }

    /// `[rows, D]` numbers, row by row.
    pub fn dense(&self) -> &[f32] {
        &self.dense
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.fields.clear();
        self.dense.clear();
    }
}

/// Makes rows. Items are named by their place in the catalog, also those that the model does not know (they get id 0, and
/// are described by their attributes alone).
#[derive(Debug, Clone)]
pub struct Encoder {
    schema: Schema,
    spec: FeatureSpec,
    global: GlobalStats,
    catalog: Arc<IndexedCatalog>,
    /// `[items, item fields]`, offsets added.
    fields: Vec<i64>,
    /// `[items, item dense]`.
    dense: Vec<f32>,
    /// The model's id of each item; 0 if it does not know it.
    ids: Vec<i64>,
    mean_stars: Vec<f32>,
    /// Categories of item `i`: `categories[starts[i]..starts[i + 1]]`.
    categories: Vec<u16>,
    starts: Vec<u32>,
    /// `[items, banded attributes]`: the place of the item's band among all bands, and the scaled value (NaN: unknown).
    bands: Vec<u16>,
    values: Vec<f32>,
    banded_len: usize,
    bands_len: usize,
}

impl Encoder {
    /// The encoder of a ranker's card over a catalog.
    pub fn new(card: &Card, catalog: Arc<IndexedCatalog>) -> Result<Self, ModelError> {
        let Some(ranker) = &card.ranker else {
            return Err(ModelError::refused("the card", "it has no `ranker` part"));
        };
        let stats = |place: usize| ranker.item_stats.get(place).copied().unwrap_or_default();
        let mut encoder = Self::with_stats(&ranker.features, &card.items, catalog, ranker.global)?;
        for (place, item) in card.items.iter().enumerate() {
            if let Some(at) = encoder.catalog.place(item.as_str()) {
                encoder.set_stats(at, stats(place));
            }
        }
        Ok(encoder)
    }

    /// An encoder for training: `items` is the model's vocabulary in index order, all items' stats are empty; hand them
    /// over by [`Encoder::set_stats`], as far as they may be known.
    pub fn with_stats(
        spec: &FeatureSpec,
        items: &[ItemId],
        catalog: Arc<IndexedCatalog>,
        global: GlobalStats,
    ) -> Result<Self, ModelError> {
        spec.check()?;
        let schema = Schema::new(spec, items.len());
        let elements = catalog.len() as u64 * (schema.item_fields + schema.item_dense) as u64;
        if elements > ELEMENTS_MAX {
            return Err(ModelError::too_large("the encoder's table, in numbers", elements, ELEMENTS_MAX));
        }
        let bands_len = banded(spec).map(|named| named.values.cardinality()).sum();
        let mut encoder = Self {
            schema,
            spec: spec.clone(),
            global,
            fields: Vec::new(),
            dense: Vec::new(),
            ids: vec![0; catalog.len()],
            mean_stars: vec![global.stars_mean; catalog.len()],
            categories: Vec::new(),
            starts: vec![0],
            bands: Vec::new(),
            values: Vec::new(),
            banded_len: banded(spec).count(),
            bands_len,
            catalog: Arc::clone(&catalog),
        };
        for (index, item) in (1i64..).zip(items) {
            if let Some(place) = catalog.place(item.as_str()) {
                encoder.ids[place as usize] = index;
            }
        }
        let words = Words::new(spec);
        catalog.items().iter().enumerate().for_each(|(place, item)| encoder.describe(place, item, &words));
        (0..catalog.len() as u32).for_each(|place| encoder.set_stats(place, ItemStats::default()));
        Ok(encoder)
    }

    /// Appends what is known of an item but for its stats, which [`Encoder::set_stats`] fills in.
    fn describe(&mut self, place: usize, item: &Item, words: &Words<'_>) {
        let spec = &self.spec;
        let known: Vec<usize> =
            item.categories.iter().filter_map(|name| words.categories.get(name.as_str()).copied()).collect();
        let text = |name: &str| value(&item.attributes, name);
        let mut ids = vec![self.ids[place], known.first().map_or(0, |main| *main as i64 + 1)];
        ids.extend((0..).zip(&spec.attributes).map(|(at, named)| words.id(at, named, text(&named.name))));
        ids.extend([0, 0]);
        let fields = ids.iter().zip(&self.schema.fields).map(|(id, field)| id + field.offset as i64);
        self.fields.extend(fields);

        self.dense.extend([0.0; 3]);
        let mut first_band = 0;
        for named in banded(spec) {
            let scaled = named.values.scaled(text(&named.name));
            self.dense.push(scaled.unwrap_or(0.0));
            self.values.push(scaled.unwrap_or(f32::NAN));
            self.bands.push((first_band + named.values.id(text(&named.name))) as u16);
            first_band += named.values.cardinality();
        }
        let hot = self.dense.len();
        self.dense.resize(hot + spec.categories.len(), 0.0);
        for category in known {
            if self.dense[hot + category] == 0.0 {
                self.dense[hot + category] = 1.0;
                self.categories.push(category as u16);
            }
        }
        self.starts.push(self.categories.len() as u32);
    }

    /// Replaces what is known of the item at a place of the catalog; unknown places are ignored.
    pub fn set_stats(&mut self, place: u32, stats: ItemStats) {
        let place = place as usize;
        if place >= self.catalog.len() {
            return;
        }
        let weight = stats.count as f32 + ITEM_PRIOR;
        let mean = (stats.stars_sum + ITEM_PRIOR * self.global.stars_mean) / weight;
        let like_rate = (stats.likes as f32 + ITEM_PRIOR * self.global.like_rate) / weight;
        self.mean_stars[place] = mean;
        let dense = &mut self.dense[place * self.schema.item_dense..][..3];
        dense[0] = mean - self.global.stars_mean;
        dense[1] = 2.0 * (like_rate - self.global.like_rate);
        dense[2] = (1.0 + stats.count as f32).ln() / 6.0;
        let (from, to) = (place * self.schema.item_fields, (place + 1) * self.schema.item_fields);
        let count_field = &self.schema.fields[self.schema.item_fields - 2];
        let rate_field = &self.schema.fields[self.schema.item_fields - 1];
        self.fields[from..to][self.schema.item_fields - 2] =
            count_field.offset as i64 + log_bucket(stats.count);
        self.fields[from..to][self.schema.item_fields - 1] =
            rate_field.offset as i64 + share_bucket(like_rate);
    }

    /// The visitor's half, once a request. `interactions` is the profile's ring, oldest first; a trait is looked up in
    /// `traits`, then in the request's `context`.
    pub fn visitor(
        &self,
        interactions: &[Interaction],
        traits: &Attributes,
        context: &Attributes,
        now_ms: u64,
    ) -> VisitorFeatures {
        let places = interactions.iter().map(|interaction| self.catalog.place(interaction.item.as_str()));
        self.visitor_of(interactions.iter().zip(places), traits, context, now_ms)
    }

    /// The same, for whoever has looked up already where in the catalog the items are.
    pub fn visitor_of<'a>(
        &self,
        met: impl Iterator<Item = (&'a Interaction, Option<u32>)>,
        traits: &Attributes,
        context: &Attributes,
        now_ms: u64,
    ) -> VisitorFeatures {
        let value_of = |name: &str| value(traits, name).or_else(|| value(context, name)).map(str::to_owned);
        VisitorFeatures::new(self, met, value_of, now_ms)
    }

    /// One row a candidate (its place in the catalog), in order, instead of what `out` held. Places beyond the catalog are
    /// an error, and leave `out` empty.
    pub fn encode(
        &self,
        visitor: &VisitorFeatures,
        candidates: &[u32],
        out: &mut FeatureBatch,
    ) -> Result<(), ModelError> {
        out.clear();
        self.check_places(candidates)?;
        self.append(visitor, candidates, out);
        Ok(())
    }

    /// Refuses places beyond the catalog.
    pub(crate) fn check_places(&self, places: &[u32]) -> Result<(), ModelError> {
        match places.iter().find(|place| **place as usize >= self.catalog.len()) {
            Some(wrong) => {
                Err(ModelError::Input(format!("place {wrong} in a catalog of {}", self.catalog.len())))
            }
            None => Ok(()),
        }
    }

    /// The item's own fields and numbers, of each place in order: the first part of a row's.
    pub(crate) fn item_rows(&self) -> impl Iterator<Item = (&[i64], &[f32])> {
        let (fields, dense) = (self.schema.item_fields, self.schema.item_dense);
        (0..self.catalog.len()).map(move |place| {
            (&self.fields[place * fields..][..fields], &self.dense[place * dense..][..dense])
        })
    }

    fn append(&self, visitor: &VisitorFeatures, candidates: &[u32], out: &mut FeatureBatch) {
        let (schema, n) = (&self.schema, candidates.len());
        out.rows = n;
        out.fields.reserve(n * schema.fields.len());
        out.dense.reserve(n * schema.dense.len());
        for place in candidates {
            let place = *place as usize;
            out.fields.extend_from_slice(&self.fields[place * schema.item_fields..][..schema.item_fields]);
            out.fields.extend_from_slice(&visitor.fields);
            out.dense.extend_from_slice(&self.dense[place * schema.item_dense..][..schema.item_dense]);
            out.dense.extend_from_slice(&visitor.dense);
            self.cross(visitor, place, &mut out.dense);
        }
    }

    /// What depends on both: how the visitor took to things like this one.
    pub(crate) fn cross(&self, visitor: &VisitorFeatures, place: usize, dense: &mut Vec<f32>) {
        let categories = self.categories_of(place);
        let (mut count, mut surplus, mut likes, mut recent, mut recent_liked) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for category in categories {
            let taste = &visitor.categories[usize::from(*category)];
            count += taste.count;
            surplus += taste.surplus;
            likes += taste.likes;
            recent += taste.recent;
            recent_liked += taste.recent_liked;
        }
        let share = 1.0 / (categories.len().max(1)) as f32;
        let expected = (self.mean_stars[place] + visitor.bias).clamp(0.0, 5.0) - self.global.stars_mean;
        dense.extend([
            expected,
            surplus / (count + TASTE_PRIOR),
            (likes - visitor.like_share * count) / (count + TASTE_PRIOR),
            // Saturates; a logarithm would be the slowest part of a row.
            count * share / (count * share + 10.0),
            recent * share,
            recent_liked * share,
        ]);
        let (bands, values) = (self.bands_of(place), self.values_of(place));
        for ((band, value), liked) in bands.iter().zip(values).zip(&visitor.liked_value) {
            let taste = &visitor.bands[usize::from(*band)];
            dense.push(if value.is_finite() { value - liked } else { 0.0 });
            dense.push(taste.surplus / (taste.count + TASTE_PRIOR));
        }
    }

    /// What a row consists of.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The items.
    pub fn catalog(&self) -> &IndexedCatalog {
        &self.catalog
    }

    pub(super) fn spec(&self) -> &FeatureSpec {
        &self.spec
    }

    pub(super) fn global(&self) -> GlobalStats {
        self.global
    }

    pub(super) fn mean_stars(&self, place: usize) -> f32 {
        self.mean_stars[place]
    }

    pub(super) fn item_id(&self, place: usize) -> i64 {
        self.ids[place]
    }

    pub(super) fn categories_of(&self, place: usize) -> &[u16] {
        &self.categories[self.starts[place] as usize..self.starts[place + 1] as usize]
    }

    pub(super) fn bands_of(&self, place: usize) -> &[u16] {
        &self.bands[place * self.banded_len..][..self.banded_len]
    }

    pub(super) fn values_of(&self, place: usize) -> &[f32] {
        &self.values[place * self.banded_len..][..self.banded_len]
    }

    pub(super) fn categories_len(&self) -> usize {
        self.spec.categories.len()
    }

    pub(super) fn bands_len(&self) -> usize {
        self.bands_len
    }

    pub(super) fn banded_len(&self) -> usize {
        self.banded_len
    }
}

/// The spec's vocabularies by text: a catalog has many items, and a vocabulary many words.
struct Words<'a> {
    categories: HashMap<&'a str, usize>,
    attributes: Vec<HashMap<&'a str, usize>>,
}

impl<'a> Words<'a> {
    fn new(spec: &'a FeatureSpec) -> Self {
        let places =
            |words: &'a [String]| words.iter().enumerate().map(|(at, word)| (word.as_str(), at)).collect();
        let attributes = spec.attributes.iter().map(|named| match &named.values {
            FieldValues::Vocabulary(words) => places(words),
            FieldValues::Bands(_) => HashMap::new(),
        });
        Self { categories: places(&spec.categories), attributes: attributes.collect() }
    }

    fn id(&self, attribute: usize, named: &NamedValues, text: Option<&str>) -> i64 {
        let id = match &named.values {
            FieldValues::Vocabulary(_) => {
                text.and_then(|text| self.attributes[attribute].get(text)).map_or(0, |at| at + 1)
            }
            FieldValues::Bands(_) => named.values.id(text),
        };
        id as i64
    }
}

fn value<'a>(attributes: &'a Attributes, name: &str) -> Option<&'a str> {
    attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}
