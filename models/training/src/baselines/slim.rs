//! SLIM (Ning & Karypis, ICDM 2011) with the elastic net: every item is predicted from the others by a sparse, non-negative
//! regression, solved by coordinate descent on X'X (Friedman et al., 2010).

use super::{Fitted, Gram, ItemToItem, best_on_validation};
use crate::split::Split;

/// Weights of the absolute values and of the squares.
const SETTINGS: [(f32, f32); 3] = [(1.0, 50.0), (3.0, 100.0), (5.0, 300.0)];
/// Most rounds over an item's coordinates …
const ROUNDS_MAX: usize = 30;
/// … unless nothing moves by more than this.
const MOVED_MIN: f32 = 1e-4;

pub(super) fn choose(split: &Split, gram: &Gram, whole: &Gram) -> Fitted {
    let (l1, l2) = best_on_validation(split, SETTINGS, |&(l1, l2)| fit(gram, l1, l2))
        .expect("there are settings to choose from");
    Fitted { name: format!("SLIM-ElasticNet, l1 {l1}, l2 {l2}"), scorer: Box::new(fit(whole, l1, l2)) }
}

/// One regression an item.
pub(super) fn fit(gram: &Gram, l1: f32, l2: f32) -> ItemToItem {
    let n = gram.n;
    let mut weights = vec![0.0; n * n];
    for item in 0..n {
        for (other, weight) in regress(gram, item, l1, l2) {
            weights[other * n + item] = weight;
        }
    }
    ItemToItem { n, weights }
}

/// Minimizes ½|x_item − X w|² + l1 |w| + ½ l2 |w|² over w ≥ 0 with w_item = 0. `left[j]` is the correlation of column j with
/// what is not yet explained.
fn regress(gram: &Gram, item: usize, l1: f32, l2: f32) -> Vec<(usize, f32)> {
    let mut left = gram.row(item).to_vec();
    // Only items that were met together with this one can have a weight above 0, for w = 0 explains nothing of it, and
    // whatever enters later only takes away.
    let mut active: Vec<(usize, f32)> =
        (0..gram.n).filter(|&other| other != item && left[other] > l1).map(|other| (other, 0.0)).collect();
    for _ in 0..ROUNDS_MAX {
        let mut moved: f32 = 0.0;
        for (other, weight) in &mut active {
            let own = gram.count(*other);
            let best = ((left[*other] + own * *weight - l1) / (own + l2)).max(0.0);
            let by = best - *weight;
            if by != 0.0 {
                left.iter_mut().zip(gram.row(*other)).for_each(|(left, g)| *left -= by * g);
                *weight = best;
                moved = moved.max(by.abs());
            }
        }
        if moved < MOVED_MIN {
            break;
        }
    }
    active.retain(|(_, weight)| *weight > 0.0);
    active
}
