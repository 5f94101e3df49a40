//! Splits for retrieval. Order is by time, and where times are equal by the file's order; nothing is ever trained on a row
//! of its own test set.

use std::collections::HashSet;

use dataset::Dataset;
use proto::ids::ItemId;

use crate::rng::Rng;

/// What each visitor did, and what is held out.
#[derive(Debug, Clone)]
pub struct Split {
    /// Number of items in the vocabulary.
    pub items: usize,
    /// Visitors with something to train on.
    pub cases: Vec<Case>,
}

/// One visitor.
#[derive(Debug, Clone)]
pub struct Case {
    /// Items to train on, oldest first, none twice.
    pub train: Vec<u32>,
    /// The held-out item of validation, and how many of `train` came before it.
    pub valid: Option<(u32, usize)>,
    /// The held-out item of the test, after all others.
    pub test: Option<u32>,
    /// Items sampled for the test that the visitor never met; empty in full ranking.
    pub negatives: Vec<u32>,
}

impl Case {
    /// Everything before the test item, oldest first.
    pub fn known(&self) -> Vec<u32> {
        let mut known = self.train.clone();
        if let Some((item, at)) = self.valid {
            known.insert(at, item);
        }
        known
    }
}

/// The vocabulary of a model: which items it knows, in which order.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// Index into [`Dataset::items`] of each known item, growing.
    pub items: Vec<u32>,
    index: Vec<Option<u32>>,
}

impl Vocabulary {
    /// Items with at least `count_min` interactions; if more than `len_max`, the most frequent.
    pub fn new(data: &Dataset, count_min: u32, len_max: usize) -> Self {
        let counts = data.item_counts();
        let mut items: Vec<u32> =
            (0..).zip(&counts).filter(|(_, c)| **c >= count_min.max(1)).map(|(item, _)| item).collect();
        if items.len() > len_max {
            items.sort_by_key(|&item| std::cmp::Reverse(counts[item as usize]));
            items.truncate(len_max);
            items.sort_unstable();
        }
        let mut index = vec![None; data.items.len()];
        for (at, &item) in (0..).zip(&items) {
            index[item as usize] = Some(at);
        }
        Self { items, index }
    }

    /// The items' ids, in index order.
    pub fn ids(&self, data: &Dataset) -> Vec<ItemId> {
        self.items.iter().map(|&item| data.items[item as usize].id.clone()).collect()
    }

    /// The place of an item of the data set.
    pub fn index(&self, item: u32) -> Option<u32> {
        self.index[item as usize]
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True if no item has enough interactions.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What each visitor met, oldest first, each item once (the first time), known items only.
    pub fn histories(&self, data: &Dataset) -> Vec<Vec<u32>> {
        let mut histories = vec![Vec::new(); data.visitors.len()];
        let mut met = HashSet::new();
        for row in &data.interactions {
            if let Some(item) = self.index(row.item)
                && met.insert((row.visitor, item))
            {
                histories[row.visitor as usize].push(item);
            }
        }
        histories
    }
}

/// Fewest items of a visitor who is tested: one to train on, one to validate, one to test.
const CASE_ITEMS_MIN: usize = 3;

/// Leave-one-out: test = the last item by time, validation = the one before.
pub fn leave_one_out(data: &Dataset, vocabulary: &Vocabulary) -> Split {
    let case = |mut items: Vec<u32>| {
        if items.len() < CASE_ITEMS_MIN {
            return Case { train: items, valid: None, test: None, negatives: Vec::new() };
        }
        let test = items.pop();
        let valid = items.pop().map(|item| (item, items.len()));
        Case { train: items, valid, test, negatives: Vec::new() }
    };
    let histories = vocabulary.histories(data).into_iter().filter(|items| !items.is_empty());
    Split { items: vocabulary.len(), cases: histories.map(case).collect() }
}

/// Everything to train on, nothing held out: for the model that is served.
pub fn whole(data: &Dataset, vocabulary: &Vocabulary) -> Split {
    let case = |train| Case { train, valid: None, test: None, negatives: Vec::new() };
    let histories = vocabulary.histories(data).into_iter().filter(|items| !items.is_empty());
    Split { items: vocabulary.len(), cases: histories.map(case).collect() }
}

/// Fewest interactions of a visitor, and of an item, in protocol A.
pub const SAMPLED_VISITOR_MIN: usize = 20;
/// See [`SAMPLED_VISITOR_MIN`].
pub const SAMPLED_ITEM_MIN: u32 = 5;
/// Sampled negatives in protocol A.
pub const SAMPLED_NEGATIVES: usize = 99;

/// Protocol A (Ferrari Dacrema et al., TOIS 2021): visitors with 20 and items with 5 interactions at least (`vocabulary`
/// has seen to the items); test = the last item by time, validation = a random one of the others, 99 sampled items that
/// the visitor never met.
pub fn sampled(data: &Dataset, vocabulary: &Vocabulary, seed: u64) -> Split {
    let mut rng = Rng::new(seed);
    let counts = data.by_visitor();
    let histories = vocabulary.histories(data);
    let mut cases = Vec::new();
    for (mut items, rows) in histories.into_iter().zip(counts) {
        if rows.len() < SAMPLED_VISITOR_MIN || items.len() < CASE_ITEMS_MIN {
            continue;
        }
        let negatives = unseen(&items, vocabulary.len(), &mut rng);
        let test = items.pop();
        let at = rng.below(items.len());
        let valid = Some((items.remove(at), at));
        cases.push(Case { train: items, valid, test, negatives });
    }
    Split { items: vocabulary.len(), cases }
}

/// Different items that are not among `met`; fewer than 99 only if there are not so many.
fn unseen(met: &[u32], items: usize, rng: &mut Rng) -> Vec<u32> {
    let met: HashSet<u32> = met.iter().copied().collect();
    let mut others: Vec<u32> = (0..).take(items).filter(|item| !met.contains(item)).collect();
    let len = SAMPLED_NEGATIVES.min(others.len());
    for at in 0..len {
        let from = at + rng.below(others.len() - at);
        others.swap(at, from);
    }
    others.truncate(len);
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ITEMS, circles};

    #[test]
    fn leave_one_out_holds_out_the_last_two() {
        let mut data = circles(10, 12);
        // Meeting an item again changes nothing: the first time counts.
        let again = dataset::Interaction { at_ms: u64::MAX, ..data.interactions[0] };
        data.interactions.push(again);
        let vocabulary = Vocabulary::new(&data, 1, 1000);
        let split = leave_one_out(&data, &vocabulary);
        for (case, history) in split.cases.iter().zip(vocabulary.histories(&data)) {
            let (n, different) = (history.len(), history.iter().collect::<HashSet<_>>().len());
            assert_eq!(n, different);
            assert_eq!(case.train, history[..n - 2]);
            assert_eq!(case.valid, Some((history[n - 2], n - 2)));
            assert_eq!(case.test, Some(history[n - 1]));
            assert_eq!(case.known(), history[..n - 1]);
        }
        let whole: usize = whole(&data, &vocabulary).cases.iter().map(|case| case.train.len()).sum();
        assert_eq!(whole, vocabulary.histories(&data).iter().map(Vec::len).sum::<usize>());
    }

    #[test]
    fn negatives_were_never_met_and_validation_keeps_its_place() {
        let data = circles(10, 25);
        let vocabulary = Vocabulary::new(&data, SAMPLED_ITEM_MIN, 1000);
        let split = sampled(&data, &vocabulary, 3);
        assert_eq!(split.cases.len(), 10);
        let mut moved = 0;
        for (case, history) in split.cases.iter().zip(vocabulary.histories(&data)) {
            let negatives: HashSet<u32> = case.negatives.iter().copied().collect();
            assert_eq!(negatives.len(), vocabulary.len() - history.len());
            assert!(history.iter().all(|item| !negatives.contains(item)));
            assert_eq!(case.known(), history[..history.len() - 1]);
            moved += usize::from(case.valid.unwrap().1 != history.len() - 2);
        }
        assert!(moved > 5, "the validation item is a random one, not the last: {moved}");
        assert!(sampled(&circles(10, 15), &vocabulary, 3).cases.is_empty(), "fewer than 20 interactions");
    }

    #[test]
    fn a_vocabulary_keeps_the_most_frequent_items() {
        let data = circles(30, 25);
        let counts = data.item_counts();
        let few = Vocabulary::new(&data, 1, 7);
        assert_eq!(few.len(), 7);
        let rarest = few.items.iter().map(|&item| counts[item as usize]).min().unwrap();
        let kept = |item: u32| few.index(item).is_some();
        assert!((0..ITEMS).filter(|&item| !kept(item)).all(|item| counts[item as usize] <= rarest));
        assert_eq!(few.ids(&data)[3], data.items[few.items[3] as usize].id);
        assert!(few.histories(&data).iter().flatten().all(|&item| item < 7));
    }
}
