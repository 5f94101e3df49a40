//! Measures: hit rate and NDCG of a ranking, AUC, log-loss and calibration of a probability, and paired comparisons.

/// How one visitor's held-out item was ranked.
pub type Rank = usize;

/// The place of `target` among `others` by score, from 0. An equal score counts as a better one, so that a constant
/// scorer earns nothing.
pub fn rank(scores: &[f32], target: u32, others: impl Iterator<Item = u32>) -> Rank {
    let own = scores[target as usize];
    // Not comparable (NaN) counts against the target too.
    let not_below = |item: &u32| scores[*item as usize].partial_cmp(&own) != Some(std::cmp::Ordering::Less);
    others.filter(|&item| item != target).filter(not_below).count()
}

/// 1 if the item is among the first `k`, else 0.
pub fn hit(rank: Rank, k: usize) -> f64 {
    if rank < k { 1.0 } else { 0.0 }
}

/// NDCG of one relevant item: 1 / log2(place + 1), places from 1; 0 beyond `k`.
pub fn ndcg(rank: Rank, k: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    if rank < k { 1.0 / (rank as f64 + 2.0).log2() } else { 0.0 }
}

/// A mean with its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub se: f64,
}

/// Mean and standard error of independent values.
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
pub fn estimate(values: &[f64]) -> Estimate {
    if values.is_empty() {
        return Estimate::default();
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let se = if values.len() > 1 { (square / (n - 1.0) / n).sqrt() } else { 0.0 };
    Estimate { mean, se }
}

/// Mean difference `ours - theirs` of values of the same visitors, with its standard error.
pub fn paired(ours: &[f64], theirs: &[f64]) -> Estimate {
    let differences: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
    estimate(&differences)
}

/// Area under the ROC curve: the chance that a liked row scores above one that is not; ties count half.
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
pub fn auc(scores: &[f32], labels: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let (mut positives, mut rank_sum, mut at) = (0.0, 0.0, 0);
    while at < order.len() {
        let end = at + order[at..].iter().take_while(|&&i| scores[i] == scores[order[at]]).count().max(1);
        let middle = (at + end + 1) as f64 / 2.0; // mean of the 1-based places at+1 ..= end
        let liked = order[at..end].iter().filter(|&&i| labels[i]).count() as f64;
        rank_sum += middle * liked;
        positives += liked;
        at = end;
    }
    let negatives = scores.len() as f64 - positives;
    (rank_sum - positives * (positives + 1.0) / 2.0) / (positives * negatives)
}

/// Mean negative log-likelihood, in nats. Probabilities are kept 1e-7 away from 0 and 1.
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
pub fn log_loss(p: &[f32], labels: &[bool]) -> f64 {
    let loss = |(p, liked): (&f32, &bool)| {
        let p = f64::from(*p).clamp(1e-7, 1.0 - 1e-7);
        if *liked { -p.ln() } else { -(1.0 - p).ln() }
    };
    p.iter().zip(labels).map(loss).sum::<f64>() / p.len().max(1) as f64
}

/// Predicted over actual likes: 1 is right, above 1 promises too much.
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
pub fn calibration(p: &[f32], labels: &[bool]) -> f64 {
    let predicted: f64 = p.iter().map(|p| f64::from(*p)).sum();
    predicted / labels.iter().filter(|liked| **liked).count().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_ties_against_the_target() {
        let scores = [0.5, 0.9, 0.5, 0.1, f32::NAN];
        assert_eq!(rank(&scores, 0, 0..5), 3);
        assert_eq!(rank(&scores, 1, 0..4), 0);
        assert_eq!(rank(&scores, 3, [1, 2].into_iter()), 2);
        assert!((ndcg(0, 10) - 1.0).abs() < 1e-12 && (ndcg(2, 10) - 0.5).abs() < 1e-12);
        assert!(ndcg(10, 10) == 0.0 && hit(9, 10) == 1.0 && hit(10, 10) == 0.0);
    }

    #[test]
    fn auc_agrees_with_counting_pairs() {
        let scores = [0.1_f32, 0.4, 0.4, 0.8, 0.3, 0.8, 0.05];
        let labels = [false, true, false, true, false, false, true];
        let (mut won, mut pairs) = (0.0, 0.0);
        for (a, _) in labels.iter().enumerate().filter(|(_, l)| **l) {
            for (b, _) in labels.iter().enumerate().filter(|(_, l)| !**l) {
                pairs += 1.0;
                won += match scores[a].total_cmp(&scores[b]) {
                    std::cmp::Ordering::Greater => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Less => 0.0,
                };
            }
        }
        assert!((auc(&scores, &labels) - won / pairs).abs() < 1e-12);
        assert!((auc(&[0.5; 4], &[true, false, true, false]) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn losses_and_errors_by_hand() {
        let (p, labels) = ([0.8, 0.4], [true, false]);
        assert!((log_loss(&p, &labels) - (-(0.8f64.ln()) - 0.6f64.ln()) / 2.0).abs() < 1e-6);
        assert!((calibration(&p, &labels) - 1.2).abs() < 1e-6);
        let estimate = paired(&[1.0, 0.0, 1.0], &[0.0, 0.0, 1.0]);
        assert!((estimate.mean - 1.0 / 3.0).abs() < 1e-12 && (estimate.se - 1.0 / 3.0).abs() < 1e-12);
    }
}
