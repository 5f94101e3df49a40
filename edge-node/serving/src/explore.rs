//! New items: nobody has dealt with them, so no model can find them. A share of each answer's places is theirs, and of those at
//! hand the ones come first whose categories the visitor liked in other items (a content-based start). Pure: what is at hand
//! for whom and when follows from a seed.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use proto::VisitorId;
use proto::profile::{Interaction, Signal};

use crate::diversity::CategorySet;

/// New items that one answer looks at.
const LOOKED_AT: usize = 256;

/// The same for the same visitor at the same time.
pub(crate) fn seed(visitor: &VisitorId, now_ms: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (visitor, now_ms).hash(&mut hasher);
    hasher.finish()
}

/// How many of `count` places are for new items: `share` of them on the average of many answers.
pub(crate) fn places(share: f32, count: usize, seed: u64) -> usize {
    let wanted = f64::from(share) * count as f64;
    let chance = (seed >> 11) as f64 / (1_u64 << 53) as f64;
    (wanted.floor() as usize + usize::from(chance < wanted.fract())).min(count)
}

/// Those of `new` that an answer looks at, beginning anywhere.
pub(crate) fn at_hand(new: &[u32], seed: u64) -> impl Iterator<Item = u32> + '_ {
    let begin = (seed as usize) % new.len().max(1);
    new[begin..].iter().chain(&new[..begin]).copied().take(LOOKED_AT)
}

/// What a visitor likes, by category.
#[derive(Debug)]
pub(crate) struct Liking([f32; 128]);

impl Liking {
    /// Of interactions and the categories of their items.
    pub(crate) fn of<'i>(met: impl Iterator<Item = (&'i Interaction, CategorySet)>) -> Self {
        let mut liking = [0.0; 128];
        for (interaction, categories) in met {
            let weight = match interaction.signal {
                Signal::Click => 1.0,
                Signal::Conversion => 2.0,
                // From -1 for no star to 1 for five.
                Signal::Rating => interaction.stars / 2.5 - 1.0,
            };
            bits(categories).for_each(|bit| liking[bit] += weight);
        }
        Self(liking)
    }

    /// How well an item fits, for comparison with other items.
    pub(crate) fn score(&self, categories: CategorySet) -> f32 {
        let len = categories.0.count_ones().max(1) as f32;
        bits(categories).map(|bit| self.0[bit]).sum::<f32>() / len
    }
}

fn bits(CategorySet(mut set): CategorySet) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros() as usize;
        (set != 0).then(|| {
            set &= set - 1;
            bit
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_kept_on_average_and_whole_places_always() {
        let visitor = VisitorId::User("ada".parse().unwrap());
        let mean = |share, count| {
            let all = (0..4_000).map(|now| places(share, count, seed(&visitor, now)) as f64);
            all.sum::<f64>() / 4_000.0
        };
        assert!((mean(0.1, 5) - 0.5).abs() < 0.05);
        assert!((mean(0.25, 10) - 2.5).abs() < 0.05);
        assert_eq!((mean(0.0, 10), mean(0.5, 10), mean(1.0, 10)), (0.0, 5.0, 10.0));
    }

    #[test]
    fn every_new_item_is_at_hand_at_some_time() {
        let new: Vec<u32> = (0..1_000).collect();
        let mut seen = vec![false; new.len()];
        for seed in 0..100_u64 {
            let looked: Vec<u32> = at_hand(&new, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            assert_eq!(looked.len(), LOOKED_AT);
            looked.iter().for_each(|place| seen[*place as usize] = true);
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(at_hand(&[], 7).count(), 0);
        assert_eq!(at_hand(&[5], u64::MAX).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn bits_are_those_that_are_set() {
        assert_eq!(bits(CategorySet(1 | 1 << 64 | 1 << 127)).collect::<Vec<_>>(), [0, 64, 127]);
        assert_eq!(bits(CategorySet(0)).count(), 0);
    }
}
