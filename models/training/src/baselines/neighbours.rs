//! Item neighbours by cosine (Sarwar et al., WWW 2001), shrunk, the nearest few of each item.

use super::{Fitted, Gram, ItemToItem, best_on_validation};
use crate::split::Split;

/// Neighbours of an item that count.
const NEIGHBOURS: [usize; 3] = [50, 100, 300];
/// Added to the denominator, so that a pair met once is not taken for twins.
const SHRINK: [f32; 2] = [0.0, 20.0];

pub(super) fn choose(split: &Split, gram: &Gram, whole: &Gram) -> Fitted {
    let settings = NEIGHBOURS.iter().flat_map(|&k| SHRINK.iter().map(move |&shrink| (k, shrink)));
    let (k, shrink) = best_on_validation(split, settings, |&(k, shrink)| fit(gram, k, shrink))
        .expect("there are settings to choose from");
    Fitted {
        name: format!("ItemKNN cosine, k {k}, shrink {shrink}"),
        scorer: Box::new(fit(whole, k, shrink)),
    }
}

/// Keeps, for every item, the `k` items that are nearest to it.
pub(super) fn fit(gram: &Gram, k: usize, shrink: f32) -> ItemToItem {
    let n = gram.n;
    let mut weights = vec![0.0; n * n];
    let mut near: Vec<(f32, usize)> = Vec::with_capacity(n);
    for item in 0..n {
        near.clear();
        let own = gram.count(item);
        near.extend(
            gram.row(item)
                .iter()
                .enumerate()
                .filter(|(other, both)| *other != item && **both > 0.0)
                .map(|(other, both)| (both / ((own * gram.count(other)).sqrt() + shrink), other)),
        );
        if near.len() > k {
            near.select_nth_unstable_by(k, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            near.truncate(k);
        }
        // Column `item`: it is scored by its own neighbours.
        near.iter().for_each(|&(weight, other)| weights[other * n + item] = weight);
    }
    ItemToItem { n, weights }
}
