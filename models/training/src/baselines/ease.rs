//! EASE (Steck, WWW 2019): the item-to-item matrix with zero diagonal that reconstructs the interactions best, in closed
//! form: with P the inverse of X'X + lambda I, B = -P / diag(P) by columns.

use candle_core::{Device, Result, Tensor};

use super::{Fitted, Gram, ItemToItem, best_on_validation};
use crate::split::Split;

const LAMBDAS: [f64; 3] = [100.0, 300.0, 1000.0];

pub(super) fn choose(split: &Split, gram: &Gram, whole: &Gram) -> Result<Fitted> {
    let mut settings = Vec::new();
    for lambda in LAMBDAS {
        settings.push((lambda, fit(gram, lambda)?));
    }
    let of = |lambda: &f64| {
        let (_, model) = settings.iter().find(|(l, _)| l == lambda).expect("fitted just above");
        ItemToItem { n: model.n, weights: model.weights.clone() }
    };
    let lambda = best_on_validation(split, LAMBDAS, of).expect("there are settings to choose from");
    Ok(Fitted { name: format!("EASE, lambda {lambda}"), scorer: Box::new(fit(whole, lambda)?) })
}

/// The closed form.
pub(super) fn fit(gram: &Gram, lambda: f64) -> Result<ItemToItem> {
    let n = gram.n;
    let mut values: Vec<f64> = gram.values.iter().map(|&v| f64::from(v)).collect();
    (0..n).for_each(|item| values[item * n + item] += lambda);
    let inverse: Vec<f64> =
        invert(&Tensor::from_vec(values, (n, n), &Device::Cpu)?)?.flatten_all()?.to_vec1()?;
    let mut weights = vec![0.0; n * n];
    for from in 0..n {
        for to in 0..n {
            if from != to {
                #[expect(clippy::cast_possible_truncation, reason = "scores need no more than f32")]
                let weight = (-inverse[from * n + to] / inverse[to * n + to]) as f32;
                weights[from * n + to] = weight;
            }
        }
    }
    Ok(ItemToItem { n, weights })
}

/// Matrices up to this size are inverted directly.
const DIRECT: usize = 48;

/// Inverse of a symmetric positive definite matrix by halves (Schur complement): nearly all work is matrix products.
pub(super) fn invert(a: &Tensor) -> Result<Tensor> {
    let n = a.dim(0)?;
    if n <= DIRECT {
        return gauss_jordan(a);
    }
    let half = n / 2;
    let part = |row: usize, rows: usize, column: usize, columns: usize| {
        a.narrow(0, row, rows)?.narrow(1, column, columns)?.contiguous()
    };
    let (upper, cross, lower) =
        (part(0, half, 0, half)?, part(half, n - half, 0, half)?, part(half, n - half, half, n - half)?);
    let upper = invert(&upper)?;
    let across = cross.matmul(&upper)?;
    let lower = invert(&(lower - across.matmul(&cross.t()?.contiguous()?)?)?)?;
    let left = lower.matmul(&across)?.neg()?;
    let upper = (upper - across.t()?.contiguous()?.matmul(&left)?)?;
    let top = Tensor::cat(&[&upper, &left.t()?.contiguous()?], 1)?;
    Tensor::cat(&[&top, &Tensor::cat(&[&left, &lower], 1)?], 0)
}

/// Without pivoting, which a positive definite matrix does not need.
fn gauss_jordan(a: &Tensor) -> Result<Tensor> {
    let mut rows: Vec<Vec<f64>> = a.to_vec2()?;
    let n = rows.len();
    for pivot in 0..n {
        let scale = 1.0 / rows[pivot][pivot];
        let mut own = std::mem::take(&mut rows[pivot]);
        own[pivot] = 1.0;
        own.iter_mut().for_each(|x| *x *= scale);
        for row in rows.iter_mut().filter(|row| !row.is_empty()) {
            let factor = row[pivot];
            row[pivot] = 0.0;
            row.iter_mut().zip(&own).for_each(|(x, p)| *x -= factor * p);
        }
        rows[pivot] = own;
    }
    Tensor::new(rows, &Device::Cpu)
}
