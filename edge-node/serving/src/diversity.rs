//! Maximal marginal relevance (Carbonell & Goldstein, 1998): each next item is the one that is most relevant and least
//! like those chosen before it.

/// An item's categories, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CategorySet(pub u128);

impl CategorySet {
    /// Jaccard similarity, from 0 to 1; 0 if either is empty.
    pub fn similarity(self, other: Self) -> f32 {
        let both = (self.0 & other.0).count_ones();
        if both == 0 { 0.0 } else { both as f32 / (self.0 | other.0).count_ones() as f32 }
    }
}

/// A candidate as re-ranking sees it.
#[derive(Debug, Clone, Copy)]
pub struct Scored {
    /// Place in the catalog.
    pub place: u32,
    /// From 0 to 1.
    pub relevance: f32,
    /// Highest similarity to an item chosen already.
    pub nearest: f32,
    /// Its categories.
    pub categories: CategorySet,
}

/// Moves the `count` chosen candidates to the front, in the order chosen. `lambda` weighs relevance (1) against
/// diversity (0). Ties go to the earlier candidate.
pub fn mmr(candidates: &mut [Scored], count: usize, lambda: f32) {
    for chosen in 0..count.min(candidates.len()) {
        let (mut best, mut best_gain) = (chosen, f32::NEG_INFINITY);
        for (at, candidate) in candidates.iter().enumerate().skip(chosen) {
            let gain = lambda * candidate.relevance - (1.0 - lambda) * candidate.nearest;
            if gain > best_gain {
                (best, best_gain) = (at, gain);
            }
        }
        // A rotation, not a swap: what was not chosen keeps its order, so ties stay with the earlier candidate.
        candidates[chosen..=best].rotate_right(1);
        let categories = candidates[chosen].categories;
        for candidate in &mut candidates[chosen + 1..] {
            candidate.nearest = candidate.nearest.max(candidate.categories.similarity(categories));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scored(place: u32, relevance: f32, categories: u128) -> Scored {
        Scored { place, relevance, nearest: 0.0, categories: CategorySet(categories) }
    }

    fn places(candidates: &[Scored]) -> Vec<u32> {
        candidates.iter().map(|c| c.place).collect()
    }

    #[test]
    fn lambda_one_is_relevance_alone() {
        let mut all = [scored(0, 0.1, 1), scored(1, 0.9, 1), scored(2, 0.5, 1)];
        mmr(&mut all, 3, 1.0);
        assert_eq!(places(&all), [1, 2, 0]);
    }

    #[test]
    fn a_different_item_passes_a_slightly_better_one_of_the_same_kind() {
        let mut all = [scored(0, 1.0, 0b01), scored(1, 0.9, 0b01), scored(2, 0.8, 0b10)];
        mmr(&mut all, 2, 0.7);
        assert_eq!(places(&all[..2]), [0, 2]);
    }

    proptest! {
        #[test]
        fn every_candidate_is_kept_once(
            all in prop::collection::vec((0.0_f32..=1.0, any::<u128>()), 0..50), count in 0_usize..60, lambda in 0.0_f32..=1.0,
        ) {
            let mut candidates: Vec<_> = (0..).zip(&all).map(|(place, (r, c))| scored(place, *r, *c)).collect();
            mmr(&mut candidates, count, lambda);
            let mut kept = places(&candidates);
            kept.sort_unstable();
            prop_assert!(kept.into_iter().eq(0..all.len() as u32));
        }
    }
}
