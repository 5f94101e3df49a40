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
    /// Its categories.
    pub categories: CategorySet,
    /// Highest similarity to the first `compared` items that were chosen.
    nearest: f32,
    compared: usize,
}

impl Scored {
    /// A candidate that was not compared with anything yet.
    pub fn new(place: u32, relevance: f32, categories: CategorySet) -> Self {
        Self { place, relevance, categories, nearest: 0.0, compared: 0 }
    }
}

/// Re-ranking, with memory that requests reuse.
#[derive(Debug, Default)]
pub struct Mmr {
    order: Vec<u64>,
    chosen: Vec<usize>,
    gains: Vec<f32>,
}

impl Mmr {
    /// Chooses `count` candidates: gives their indices, in the order chosen. `lambda` weighs relevance (1) against
    /// diversity (0). Ties go to the earlier candidate. Relevance must not be negative.
    ///
    /// What a candidate gains only falls as more are chosen, and is never more than its relevance is worth. So candidates are
    /// looked at by relevance until none can be better, and compared with what was chosen when their turn comes
    /// (lazy greedy: Minoux, 1978).
    ///
    /// Who would be chosen next must be `admitted`, or is left out. Also gives what each gained when it was chosen, from `lambda`
    /// down to `lambda - 1`: it never rises, as what is left only becomes more like what was chosen.
    pub fn choose(
        &mut self,
        candidates: &mut [Scored],
        count: usize,
        lambda: f32,
        mut admitted: impl FnMut(u32) -> bool,
    ) -> (&[usize], &[f32]) {
        // Floats that are not negative are ordered as their bits are.
        let key = |(at, candidate): (u32, &Scored)| {
            u64::from(!(candidate.relevance + 0.0).to_bits()) << 32 | u64::from(at)
        };
        self.order.clear();
        self.order.extend((0..).zip(candidates.iter()).map(key));
        self.order.sort_unstable();
        self.chosen.clear();
        self.gains.clear();
        while self.chosen.len() < count.min(candidates.len()) {
            let (mut best, mut best_gain) = (None, f32::NEG_INFINITY);
            for (turn, key) in self.order.iter().enumerate() {
                let at = *key as u32 as usize;
                let worth = lambda * candidates[at].relevance;
                if worth < best_gain {
                    break;
                }
                if worth - (1.0 - lambda) * candidates[at].nearest < best_gain {
                    continue;
                }
                let nearest = nearest(candidates, at, &self.chosen);
                let gain = worth - (1.0 - lambda) * nearest;
                let better =
                    gain > best_gain || gain == best_gain && best.is_none_or(|(_, other)| at < other);
                if better {
                    (best, best_gain) = (Some((turn, at)), gain);
                }
            }
            // None: what is left is no number.
            let Some((turn, at)) = best else { break };
            self.order.remove(turn);
            if admitted(candidates[at].place) {
                self.chosen.push(at);
                self.gains.push(best_gain);
            }
        }
        (&self.chosen, &self.gains)
    }
}

/// Compares a candidate with those chosen since it was last looked at.
fn nearest(candidates: &mut [Scored], at: usize, chosen: &[usize]) -> f32 {
    let Scored { categories, mut nearest, compared, .. } = candidates[at];
    for other in &chosen[compared..] {
        nearest = nearest.max(categories.similarity(candidates[*other].categories));
    }
    (candidates[at].nearest, candidates[at].compared) = (nearest, chosen.len());
    nearest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scored(place: u32, relevance: f32, categories: u128) -> Scored {
        Scored::new(place, relevance, CategorySet(categories))
    }

    fn chosen(candidates: &mut [Scored], count: usize, lambda: f32) -> Vec<usize> {
        Mmr::default().choose(candidates, count, lambda, |_| true).0.to_vec()
    }

    #[test]
    fn lambda_one_is_relevance_alone() {
        let mut all = [scored(0, 0.1, 1), scored(1, 0.9, 1), scored(2, 0.5, 1)];
        assert_eq!(chosen(&mut all, 3, 1.0), [1, 2, 0]);
    }

    #[test]
    fn a_different_item_passes_a_slightly_better_one_of_the_same_kind() {
        let mut all = [scored(0, 1.0, 0b01), scored(1, 0.9, 0b01), scored(2, 0.8, 0b10)];
        assert_eq!(chosen(&mut all, 2, 0.7), [0, 2]);
    }

    /// As the formula says it: every candidate left is compared with every one chosen, in every round.
    fn by_the_book(candidates: &[Scored], count: usize, lambda: f32) -> Vec<usize> {
        let (mut left, mut chosen): (Vec<usize>, Vec<usize>) = ((0..candidates.len()).collect(), Vec::new());
        while chosen.len() < count && !left.is_empty() {
            let gain = |at: usize| {
                let similar =
                    |other: &usize| candidates[at].categories.similarity(candidates[*other].categories);
                let nearest = chosen.iter().map(similar).fold(0.0, f32::max);
                lambda * candidates[at].relevance - (1.0 - lambda) * nearest
            };
            let best = left.iter().map(|at| gain(*at)).fold(f32::NEG_INFINITY, f32::max);
            let first = left.iter().position(|at| gain(*at) == best).unwrap();
            chosen.push(left.remove(first));
        }
        chosen
    }

    proptest! {
        // Few different values, so that there are ties.
        #[test]
        fn laziness_changes_nothing(
            all in prop::collection::vec((0_u8..=10, 0_u128..32), 0..50), count in 0_usize..60, lambda in 0_u8..=4,
        ) {
            let (tenth, lambda) = (|n: u8| f32::from(n) / 10.0, f32::from(lambda) / 4.0);
            let mut candidates: Vec<_> = (0..).zip(&all).map(|(place, (r, c))| scored(place, tenth(*r), *c)).collect();
            let wanted = by_the_book(&candidates, count, lambda);
            prop_assert_eq!(chosen(&mut candidates.clone(), count, lambda), wanted);
            // Whoever may not be chosen is not, and gains fall whoever that is.
            let mut mmr = Mmr::default();
            let (even, gains) = mmr.choose(&mut candidates, count, lambda, |place| place % 2 == 0);
            prop_assert!(even.iter().all(|at| at % 2 == 0));
            prop_assert_eq!(even.len(), all.len().div_ceil(2).min(count));
            prop_assert!(gains.windows(2).all(|pair| pair[0] >= pair[1]), "{gains:?}");
            prop_assert!(gains.iter().all(|gain| (lambda - 1.0..=lambda).contains(gain)));
        }
    }
}
