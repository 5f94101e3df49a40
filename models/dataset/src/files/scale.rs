//! From what to what ratings go, and what they are as stars.

use std::fmt;
use std::str::FromStr;

use crate::limits::{BAD_ROWS_KEPT_MAX, RATINGS_CONSTANT_MIN};
use crate::report::share;

/// Ratings from `low` to `high`. As stars they go from 0 to 5.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RatingScale {
    low: f32,
    high: f32,
}

/// Stars go from 0 to this.
const STARS_MAX: f32 = 5.0;

/// Scales that are tried, in this order.
const SCALES: [RatingScale; 8] = [
    RatingScale { low: 0.0, high: STARS_MAX },
    RatingScale { low: 0.0, high: 10.0 },
    RatingScale { low: 0.0, high: 100.0 },
    RatingScale { low: -1.0, high: 1.0 },
    RatingScale { low: -5.0, high: 5.0 },
    RatingScale { low: -10.0, high: 10.0 },
    RatingScale { low: -100.0, high: 100.0 },
    RatingScale { low: 0.0, high: 1000.0 },
];
/// Thumbs and shares: taken if every rating fits, as few of them would fit 0 to 5 as well.
const UNIT: RatingScale = RatingScale { low: 0.0, high: 1.0 };

impl RatingScale {
    fn contains(self, rating: f32) -> bool {
        (self.low..=self.high).contains(&rating)
    }

    /// From 0 to 5.
    pub(super) fn stars(self, rating: f32) -> f32 {
        if self == SCALES[0] { rating } else { (rating - self.low) * STARS_MAX / (self.high - self.low) }
    }
}

impl FromStr for RatingScale {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a scale such as 1..10 or -1..1");
        let (low, high) = text.split_once("..").ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse::<f32>().ok().filter(|number| number.is_finite());
        let scale = Self { low: number(low).ok_or_else(wrong)?, high: number(high).ok_or_else(wrong)? };
        if scale.low < scale.high { Ok(scale) } else { Err(wrong()) }
    }
}

impl fmt::Display for RatingScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.low, self.high)
    }
}

/// What was seen of a file's ratings: enough to choose the scale when all are read, and to name those outside.
pub(super) struct Ratings {
    given: Option<RatingScale>,
    count: u64,
    low: f32,
    high: f32,
    outside: [Outside; SCALES.len()],
}

/// Ratings that do not fit a scale.
#[derive(Default)]
struct Outside {
    count: u64,
    examples: Vec<(u64, f32)>,
}

/// What ratings are to be read as.
pub(super) enum Verdict {
    /// On this scale; these rows, and others like them, are outside.
    Scale(RatingScale, Vec<(u64, f32)>),
    /// They are all this one, and tell nothing apart.
    Constant(f32),
    /// They fit no scale.
    None,
}

impl Ratings {
    pub(super) fn new(given: Option<RatingScale>) -> Self {
        Self { given, count: 0, low: f32::INFINITY, high: f32::NEG_INFINITY, outside: Default::default() }
    }

    /// Reads a rating of the row at `at`; None where there is none. A decimal comma is read as a point.
    pub(super) fn read(&mut self, at: u64, text: &str) -> Result<Option<f32>, String> {
        let text = text.trim();
        if super::is_nothing(text) {
            return Ok(None);
        }
        let parsed = text.parse().or_else(|_| text.replacen(',', ".", 1).parse::<f32>());
        let rating = parsed.ok().filter(|rating| rating.is_finite());
        let rating = rating.ok_or_else(|| format!("rating {text:?} is not a finite number"))?;
        if let Some(scale) = self.given.filter(|scale| !scale.contains(rating)) {
            return Err(outside(rating, scale));
        }
        (self.low, self.high) = (self.low.min(rating), self.high.max(rating));
        self.count += 1;
        for (scale, seen) in SCALES.iter().zip(&mut self.outside) {
            if !scale.contains(rating) {
                seen.count += 1;
                if seen.examples.len() < BAD_ROWS_KEPT_MAX {
                    seen.examples.push((at, rating));
                }
            }
        }
        Ok(Some(rating))
    }

    /// The first scale that all ratings fit but `bad_max` of `rows`.
    pub(super) fn verdict(&mut self, rows: u64, bad_max: f64) -> Verdict {
        if self.low >= self.high && self.count >= RATINGS_CONSTANT_MIN {
            return Verdict::Constant(self.low);
        }
        if let Some(scale) = self.given {
            return Verdict::Scale(scale, Vec::new());
        }
        if self.low < self.high && UNIT.contains(self.low) && UNIT.contains(self.high) {
            return Verdict::Scale(UNIT, Vec::new());
        }
        let fits = |seen: &Outside| share(seen.count, rows) <= bad_max;
        match self.outside.iter().position(fits) {
            Some(at) => Verdict::Scale(SCALES[at], std::mem::take(&mut self.outside[at].examples)),
            None => Verdict::None,
        }
    }

    /// For people: what the ratings were read as, where it is not 0 to 5.
    pub(super) fn note(&self, scale: RatingScale) -> Option<String> {
        (self.count > 0 && scale != SCALES[0]).then(|| {
            let (low, high) = (self.low.max(scale.low), self.high.min(scale.high));
            format!(
                "ratings from {low} to {high} were read on the scale {scale} as 0 to 5 stars (--rating-scale LOW..HIGH)"
            )
        })
    }

    /// The lowest and the highest.
    pub(super) fn range(&self) -> (f32, f32) {
        (self.low, self.high)
    }
}

/// Why a rating is bad.
pub(super) fn outside(rating: f32, scale: RatingScale) -> String {
    format!("rating \"{rating}\" is not a number from {} to {}", scale.low, scale.high)
}

impl Verdict {
    /// The stars of a rating: none where ratings tell nothing, an error where it is outside.
    pub(super) fn stars(&self, rating: f32) -> Result<Option<f32>, ()> {
        match self {
            Verdict::Scale(scale, _) if scale.contains(rating) => Ok(Some(scale.stars(rating))),
            Verdict::Constant(_) => Ok(None),
            Verdict::Scale(..) | Verdict::None => Err(()),
        }
    }
}
