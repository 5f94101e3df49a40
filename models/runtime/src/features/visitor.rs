//! The visitor's half of a row: computed once a request from the ring of recent interactions, the traits and the moment.

use proto::profile::{Interaction, Signal};

use super::encoder::Encoder;
use super::{log_bucket, share_bucket};

/// From this many stars on, an item was liked. It is the label that the ranker predicts.
pub const LIKED_STARS: f32 = 4.0;
/// Pseudo-observations of the prior in a visitor's means (shrinkage).
const VISITOR_PRIOR: f32 = 5.0;
/// Interactions that count as recent.
const RECENT: usize = 10;
/// Interactions no further apart from now than this belong to the present session, in milliseconds.
const SESSION_MS: u64 = 30 * 60 * 1000;

const NAMES: [&str; 9] = [
    "visitor.mean_stars",
    "visitor.bias",
    "visitor.spread",
    "visitor.like_share",
    "visitor.recent_like_share",
    "visitor.recent_bias",
    "visitor.count",
    "visitor.recency",
    "visitor.session",
];

pub(super) fn dense_names() -> Vec<String> {
    NAMES.map(str::to_owned).to_vec()
}

/// Stars that stand for an interaction: a rating's own; a click counts as liked, a conversion as liked most.
pub fn stars_of(interaction: &Interaction) -> f32 {
    match interaction.signal {
        Signal::Rating => interaction.stars.clamp(0.0, 5.0),
        Signal::Click => LIKED_STARS,
        Signal::Conversion => 5.0,
    }
}

/// What is known of the visitor's taste for one category (or one band of an attribute).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Taste {
    /// Interactions with it.
    pub(super) count: f32,
    /// Sum of stars beyond the item's mean and the visitor's bias.
    pub(super) surplus: f32,
    /// How many were liked.
    pub(super) likes: f32,
    /// Share of the recent interactions that have it.
    pub(super) recent: f32,
    /// Share of the recent liked interactions that have it.
    pub(super) recent_liked: f32,
}

/// The visitor's half of a row, and what the cross features need. Made by [`Encoder::visitor`], once a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VisitorFeatures {
    pub(super) fields: Vec<i64>,
    pub(super) dense: Vec<f32>,
    pub(super) bias: f32,
    pub(super) like_share: f32,
    /// By category.
    pub(super) categories: Vec<Taste>,
    /// By band of each banded attribute, one after the other.
    pub(super) bands: Vec<Taste>,
    /// Mean scaled value of liked items, by banded attribute; 0 if none is known.
    pub(super) liked_value: Vec<f32>,
}

/// One interaction with an item of the catalog, as the encoder sees it.
#[derive(Clone, Copy)]
struct Met {
    place: usize,
    stars: f32,
    surplus: f32,
    at_ms: u64,
}

impl Met {
    fn liked(&self) -> bool {
        self.stars >= LIKED_STARS
    }
}

struct Summary {
    count: f32,
    mean: f32,
    bias: f32,
    spread: f32,
    likes: f32,
}

impl Summary {
    /// Means shrunk towards what is usual, as if [`VISITOR_PRIOR`] usual interactions came first.
    fn of(met: &[Met], encoder: &Encoder) -> Self {
        let global = encoder.global();
        let count = met.len() as f32;
        let weight = count + VISITOR_PRIOR;
        let sum: f32 = met.iter().map(|m| m.stars - global.stars_mean).sum();
        let mean = sum / weight;
        let bias = met.iter().map(|m| m.surplus).sum::<f32>() / weight;
        let square: f32 = met.iter().map(|m| (m.stars - global.stars_mean - mean).powi(2)).sum();
        let spread = ((square + VISITOR_PRIOR) / weight).sqrt();
        let liked = met.iter().filter(|m| m.liked()).count() as f32;
        let likes = (liked + VISITOR_PRIOR * global.like_rate) / weight;
        Self { count, mean, bias, spread, likes }
    }
}

impl VisitorFeatures {
    pub(super) fn new<'a>(
        encoder: &Encoder,
        interactions: impl Iterator<Item = (&'a Interaction, Option<u32>)>,
        value_of: impl Fn(&str) -> Option<String>,
        now_ms: u64,
    ) -> Self {
        let met: Vec<Met> =
            interactions.filter_map(|(interaction, place)| meet(encoder, interaction, place?)).collect();
        let (all, recent) =
            (Summary::of(&met, encoder), Summary::of(&met[met.len().saturating_sub(RECENT)..], encoder));
        let mut features = Self { bias: all.bias, like_share: all.likes, ..Self::default() };
        features.tastes(encoder, &met);
        features.values(encoder, &met);
        let last_ms = met.last().map(|m| m.at_ms);
        let hours = last_ms.map_or(0.0, |at| now_ms.saturating_sub(at) as f32 / 3_600_000.0);
        let session = met.iter().filter(|m| now_ms.saturating_sub(m.at_ms) <= SESSION_MS).count();
        features.dense = vec![
            all.mean,
            all.bias,
            all.spread - 1.0,
            all.likes - encoder.global().like_rate,
            recent.likes - encoder.global().like_rate,
            recent.bias,
            (1.0 + all.count).ln() / 5.0,
            if last_ms.is_some() { (1.0 + hours).ln() / 8.0 } else { 1.5 },
            (1.0 + session as f32).ln() / 5.0,
        ];
        features.fields(encoder, &met, value_of, now_ms);
        features
    }

    /// The visitor's own fields and numbers: those of a row between the item's and what depends on both.
    pub(crate) fn row(&self) -> (&[i64], &[f32]) {
        (&self.fields, &self.dense)
    }

    fn tastes(&mut self, encoder: &Encoder, met: &[Met]) {
        self.categories = vec![Taste::default(); encoder.categories_len()];
        self.bands = vec![Taste::default(); encoder.bands_len()];
        let recent_from = met.len().saturating_sub(RECENT);
        let recent_share = 1.0 / RECENT as f32;
        for (n, m) in met.iter().enumerate() {
            let liked = if m.liked() { 1.0 } else { 0.0 };
            let recent = if n >= recent_from { recent_share } else { 0.0 };
            let note = |taste: &mut Taste| {
                taste.count += 1.0;
                taste.surplus += m.surplus - self.bias;
                taste.likes += liked;
                taste.recent += recent;
                taste.recent_liked += recent * liked;
            };
            for category in encoder.categories_of(m.place) {
                note(&mut self.categories[usize::from(*category)]);
            }
            for band in encoder.bands_of(m.place) {
                note(&mut self.bands[usize::from(*band)]);
            }
        }
    }

    fn values(&mut self, encoder: &Encoder, met: &[Met]) {
        let attributes = encoder.banded_len();
        let mut sums = vec![(0.0f32, 0.0f32); attributes];
        for m in met.iter().filter(|m| m.liked()) {
            for (sum, value) in sums.iter_mut().zip(encoder.values_of(m.place)) {
                if value.is_finite() {
                    *sum = (sum.0 + value, sum.1 + 1.0);
                }
            }
        }
        self.liked_value = sums.iter().map(|(sum, count)| sum / (count + 1.0)).collect();
    }

    fn fields(
        &mut self,
        encoder: &Encoder,
        met: &[Met],
        value_of: impl Fn(&str) -> Option<String>,
        now_ms: u64,
    ) {
        let spec = encoder.spec();
        let mut ids: Vec<i64> = spec
            .traits
            .iter()
            .map(|named| named.values.id(value_of(&named.name).as_deref()) as i64)
            .collect();
        let hours = now_ms / 3_600_000;
        ids.push(log_bucket(met.len() as u32));
        ids.push(share_bucket(self.like_share));
        ids.push(self.liked_category());
        ids.push((hours % 24) as i64);
        // 1970-01-01 was a Thursday; Monday is 0.
        ids.push(((hours / 24 + 3) % 7) as i64);
        ids.push(met.last().map_or(0, |m| encoder.item_id(m.place)));
        let liked = met.iter().rev().filter(|m| m.liked()).map(|m| encoder.item_id(m.place));
        ids.extend(liked.chain(std::iter::repeat(0)).take(spec.liked_items));
        let fields = &encoder.schema().fields[encoder.schema().item_fields..];
        debug_assert_eq!(fields.len(), ids.len(), "every visitor field has an id");
        self.fields = ids.iter().zip(fields).map(|(id, field)| id + field.offset as i64).collect();
    }

    /// The category with the most likes, plus one; the first of equals; 0 if nothing was liked.
    fn liked_category(&self) -> i64 {
        let mut best = (0, 0.0);
        for (at, taste) in self.categories.iter().enumerate() {
            if taste.likes > best.1 {
                best = (at as i64 + 1, taste.likes);
            }
        }
        best.0
    }
}

fn meet(encoder: &Encoder, interaction: &Interaction, place: u32) -> Option<Met> {
    let place = place as usize;
    let stars = stars_of(interaction);
    let surplus = stars - encoder.mean_stars(place);
    // NaN stars cannot come from a checked event, but one would poison every feature.
    stars.is_finite().then_some(Met { place, stars, surplus, at_ms: interaction.at_ms })
}
