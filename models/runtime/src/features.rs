//! The feature schema of the ranker: which fields and numbers a row has, in which order, and a hash that says so.
//!
//! A row describes one candidate for one visitor at one moment. It has `fields`, ids into ONE joint embedding table (each
//! field owns a range of it; 0 within the range is "unknown"), and `dense`, numbers of the order of 1. The part that is
//! known of a data set (vocabularies, bands, categories) is [`FeatureSpec`], which travels in the card; the rest is this
//! code, under [`ENCODER_VERSION`]. Training and serving run the same [`Encoder`], so they cannot skew.

mod encoder;
mod visitor;

use std::collections::HashSet;

use proto::Digest;
use proto::limits::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX};
use serde::{Deserialize, Serialize};

pub use self::encoder::{Encoder, FeatureBatch, GlobalStats, ItemStats};
pub use self::visitor::{LIKED_STARS, VisitorFeatures, stars_of};
use crate::error::ModelError;

/// Changes whenever a row of the same [`FeatureSpec`] would come out differently.
pub const ENCODER_VERSION: u32 = 1;
/// Most values in one vocabulary.
pub const VOCABULARY_MAX: usize = 4096;
/// Most edges in one list of bands.
pub const EDGES_MAX: usize = 256;
/// Most categories.
pub const CATEGORIES_MAX: usize = 512;
/// Most recent liked items that are fields of a row.
pub const LIKED_ITEMS_MAX: usize = 8;

/// Buckets of [`log_bucket`].
pub(crate) const LOG_BUCKETS: usize = 12;
/// Buckets of a share from 0 to 1.
pub(crate) const SHARE_BUCKETS: usize = 12;

/// What the encoder must know of a data set. Part of the ranker's card.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSpec {
    /// The visitor's traits that are fields.
    pub traits: Vec<NamedValues>,
    /// The items' attributes that are fields; those in bands are numbers as well.
    pub attributes: Vec<NamedValues>,
    /// The categories that are known; an item's first one among them is its main category.
    pub categories: Vec<String>,
    /// How many of the visitor's latest liked items are fields, at most [`LIKED_ITEMS_MAX`].
    pub liked_items: usize,
}

/// A trait or attribute, and how its text becomes a small number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedValues {
    /// The attribute's name.
    pub name: String,
    /// Its values.
    pub values: FieldValues,
}

/// How a text becomes a small number; 0 is "unknown" in both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldValues {
    /// The place in this list, plus one.
    Vocabulary(Vec<String>),
    /// One plus the number of edges that the number is not below. Edges grow strictly.
    Bands(Vec<f64>),
}

impl FieldValues {
    /// Number of different ids, 0 included.
    pub fn cardinality(&self) -> usize {
        match self {
            FieldValues::Vocabulary(values) => values.len() + 1,
            FieldValues::Bands(edges) => edges.len() + 2,
        }
    }

    /// The id of a text, below [`FieldValues::cardinality`].
    pub fn id(&self, text: Option<&str>) -> usize {
        let Some(text) = text else { return 0 };
        match self {
            FieldValues::Vocabulary(values) => {
                values.iter().position(|value| value == text).map_or(0, |at| at + 1)
            }
            FieldValues::Bands(edges) => {
                number(text).map_or(0, |number| 1 + edges.partition_point(|edge| *edge <= number))
            }
        }
    }

    /// For bands: the number, moved and scaled so that the edges span from -1 to 1, cut at ±2.
    pub(crate) fn scaled(&self, text: Option<&str>) -> Option<f32> {
        let FieldValues::Bands(edges) = self else { return None };
        let (first, last) = (edges.first()?, edges.last()?);
        let half = ((last - first) / 2.0).max(f64::MIN_POSITIVE);
        let number = number(text?)?;
        Some((((number - first) / half) - 1.0).clamp(-2.0, 2.0) as f32)
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|number| number.is_finite())
}

impl FeatureSpec {
    /// Checks limits. The error says what was wrong.
    pub fn check(&self) -> Result<(), ModelError> {
        let refuse = |reason: String| Err(ModelError::refused("the feature spec", reason));
        if self.traits.len() > ATTRIBUTES_MAX || self.attributes.len() > ATTRIBUTES_MAX {
            return refuse(format!("at most {ATTRIBUTES_MAX} traits and as many attributes"));
        }
        if self.liked_items > LIKED_ITEMS_MAX {
            return refuse(format!("at most {LIKED_ITEMS_MAX} liked items, not {}", self.liked_items));
        }
        check_words("categories", &self.categories, CATEGORIES_MAX)?;
        for named in self.traits.iter().chain(&self.attributes) {
            named.check()?;
        }
        for list in [&self.traits, &self.attributes] {
            let names: HashSet<_> = list.iter().map(|named| &named.name).collect();
            if names.len() != list.len() {
                return refuse("a trait or attribute is there twice".to_owned());
            }
        }
        Ok(())
    }
}

impl NamedValues {
    fn check(&self) -> Result<(), ModelError> {
        if self.name.is_empty() || self.name.len() > ATTRIBUTE_BYTES_MAX {
            return Err(ModelError::refused("the feature spec", "a name is empty or too long"));
        }
        match &self.values {
            FieldValues::Vocabulary(values) => check_words(&self.name, values, VOCABULARY_MAX),
            FieldValues::Bands(edges) => {
                let growing = edges.windows(2).all(|pair| pair[0] < pair[1]);
                let finite = edges.iter().all(|edge| edge.is_finite());
                if edges.is_empty() || edges.len() > EDGES_MAX || !growing || !finite {
                    let reason =
                        format!("`{}` needs 1 to {EDGES_MAX} edges, finite and strictly growing", self.name);
                    return Err(ModelError::refused("the feature spec", reason));
                }
                Ok(())
            }
        }
    }
}

fn check_words(what: &str, words: &[String], max: usize) -> Result<(), ModelError> {
    if words.len() > max {
        return Err(ModelError::too_large(format!("vocabulary `{what}`"), words.len() as u64, max as u64));
    }
    let different: HashSet<_> = words.iter().collect();
    if different.len() != words.len() || words.iter().any(|word| word.len() > ATTRIBUTE_BYTES_MAX) {
        let reason = format!("`{what}` has a value twice, or one over {ATTRIBUTE_BYTES_MAX} bytes");
        return Err(ModelError::refused("the feature spec", reason));
    }
    Ok(())
}

/// One field of a row: a range of the joint embedding table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Where its range begins. Fields of the same kind (the liked items) share one.
    pub offset: usize,
    /// The length of its range.
    pub cardinality: usize,
}

/// What a row consists of, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The fields: first those of the item, then those of the visitor and the moment.
    pub fields: Vec<Field>,
    /// The numbers' names: first those of the item, then of the visitor, then of both.
    pub dense: Vec<String>,
    /// Rows of the joint embedding table.
    pub table_len: usize,
    pub(crate) item_fields: usize,
    pub(crate) item_dense: usize,
    pub(crate) visitor_dense: usize,
    hash: String,
}

impl Schema {
    /// The schema of a spec over a vocabulary of `items` items. Check the spec first.
    pub fn new(spec: &FeatureSpec, items: usize) -> Self {
        let mut layout = Layout::default();
        layout.field("item", items + 1);
        layout.field("item.category", spec.categories.len() + 1);
        for attribute in &spec.attributes {
            layout.field(&format!("item.{}", attribute.name), attribute.values.cardinality());
        }
        layout.field("item.count", LOG_BUCKETS);
        layout.field("item.like_rate", SHARE_BUCKETS);
        let item_fields = layout.fields.len();
        for named in &spec.traits {
            layout.field(&format!("visitor.{}", named.name), named.values.cardinality());
        }
        layout.field("visitor.count", LOG_BUCKETS);
        layout.field("visitor.like_share", SHARE_BUCKETS);
        layout.field("visitor.liked_category", spec.categories.len() + 1);
        layout.field("moment.hour", 24);
        layout.field("moment.weekday", 7);
        layout.field("visitor.last_item", items + 1);
        layout.shared("visitor.liked_item", spec.liked_items);
        let (item_dense, visitor_dense) = (item_dense(spec), visitor::dense_names());
        let cross = cross_dense(spec);
        let (item_len, visitor_len) = (item_dense.len(), visitor_dense.len());
        let mut schema = Self {
            fields: layout.fields,
            dense: [item_dense, visitor_dense, cross].concat(),
            table_len: layout.table_len,
            item_fields,
            item_dense: item_len,
            visitor_dense: visitor_len,
            hash: String::new(),
        };
        schema.hash = schema.digest(spec);
        schema
    }

    /// SHA-256, in hex, over everything that decides what a row means: names, order, ranges, vocabularies, bands and
    /// [`ENCODER_VERSION`].
    pub fn hash(&self) -> &str {
        &self.hash
    }

    fn digest(&self, spec: &FeatureSpec) -> String {
        let whole = (ENCODER_VERSION, spec, &self.fields, &self.dense, self.table_len);
        let bytes = serde_json::to_vec(&whole).expect("plain numbers, texts and lists serialize");
        Digest::of(&bytes).to_string()
    }
}

#[derive(Default)]
struct Layout {
    fields: Vec<Field>,
    table_len: usize,
}

impl Layout {
    fn field(&mut self, name: &str, cardinality: usize) {
        self.fields.push(Field { name: name.to_owned(), offset: self.table_len, cardinality });
        self.table_len += cardinality;
    }

    /// Fields that use the range of the field before them.
    fn shared(&mut self, name: &str, count: usize) {
        let Some(last) = self.fields.last() else { return };
        let (offset, cardinality) = (last.offset, last.cardinality);
        let fields = (1..=count).map(|n| Field { name: format!("{name}_{n}"), offset, cardinality });
        self.fields.extend(fields);
    }
}

fn item_dense(spec: &FeatureSpec) -> Vec<String> {
    let mut names: Vec<String> =
        ["item.mean_stars", "item.like_rate", "item.count"].map(str::to_owned).to_vec();
    names.extend(banded(spec).map(|named| format!("item.{}", named.name)));
    names.extend(spec.categories.iter().map(|name| format!("item.category.{name}")));
    names
}

fn cross_dense(spec: &FeatureSpec) -> Vec<String> {
    let mut names: Vec<String> = encoder::CROSS_NAMES.map(str::to_owned).to_vec();
    for named in banded(spec) {
        names.push(format!("both.{}.distance", named.name));
        names.push(format!("both.{}.affinity", named.name));
    }
    names
}

/// The attributes that are numbers.
pub(crate) fn banded(spec: &FeatureSpec) -> impl Iterator<Item = &NamedValues> {
    spec.attributes.iter().filter(|named| matches!(named.values, FieldValues::Bands(_)))
}

/// 0 for 0, 1 for 1, 2 for 2–3, 3 for 4–7 …: one bucket a doubling.
pub(crate) fn log_bucket(count: u32) -> i64 {
    i64::from(32 - count.leading_zeros()).min(LOG_BUCKETS as i64 - 1)
}

/// The bucket of a share from 0 to 1.
pub(crate) fn share_bucket(share: f32) -> i64 {
    ((share * SHARE_BUCKETS as f32) as i64).clamp(0, SHARE_BUCKETS as i64 - 1)
}
