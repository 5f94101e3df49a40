use candle_core::{Device, Tensor};

use super::*;
use crate::rng::Rng;

/// Two camps of items, 0–9 and 10–19; every visitor met some of one camp.
fn two_camps() -> Split {
    let mut rng = Rng::new(5);
    let case = |n: usize| {
        let mut items: Vec<u32> = (0..10).map(|item| item + 10 * u32::from(n % 2 == 1)).collect();
        rng.shuffle(&mut items);
        let (test, valid) = (items.pop(), items.pop().map(|item| (item, 5)));
        Case { train: items[..5].to_vec(), valid, test, negatives: Vec::new() }
    };
    Split { items: 20, cases: (0..60).map(case).collect() }
}

#[test]
fn every_item_to_item_model_tells_the_camps_apart() {
    let split = two_camps();
    let whole = Gram::new(split.items, &split.cases, true);
    let models: [Box<dyn Scorer>; 3] = [
        Box::new(neighbours::fit(&whole, 5, 1.0)),
        Box::new(ease::fit(&whole, 10.0).unwrap()),
        Box::new(slim::fit(&whole, 0.1, 1.0)),
    ];
    for (at, model) in models.iter().enumerate() {
        let mut scores = Vec::new();
        for case in &split.cases {
            let known = case.known();
            model.scores(&known, &mut scores);
            // 4 of the camp's 10 items are left, so a model that sees the camp ranks the test item among the first 4.
            assert!(rank_unseen(&scores, case.test.unwrap(), &known) < 4, "model {at}");
        }
    }
    let mut scores = Vec::new();
    TopPop::fit(&whole).scores(&[], &mut scores);
    let met = split.cases.iter().flat_map(Case::known).filter(|item| *item == 3).count();
    assert!((scores[3] - met as f32).abs() < 1e-6);
}

#[test]
fn the_inverse_by_halves_is_the_inverse() {
    let n = 150;
    let mut rng = Rng::new(8);
    let values: Vec<f64> = (0..n * n).map(|_| rng.normal()).collect();
    let x = Tensor::from_vec(values, (n, n), &Device::Cpu).unwrap();
    let a = (x.t().unwrap().contiguous().unwrap().matmul(&x).unwrap()
        + (Tensor::from_vec(
            (0..n * n).map(|at| if at % (n + 1) == 0 { 5.0 } else { 0.0 }).collect::<Vec<f64>>(),
            (n, n),
            &Device::Cpu,
        ))
        .unwrap())
    .unwrap();
    let product: Vec<Vec<f64>> = a.matmul(&ease::invert(&a).unwrap()).unwrap().to_vec2().unwrap();
    for (row, values) in product.iter().enumerate() {
        for (column, value) in values.iter().enumerate() {
            let wanted = if row == column { 1.0 } else { 0.0 };
            assert!((value - wanted).abs() < 1e-8, "{row} {column}: {value}");
        }
    }
}

#[test]
fn slim_solves_its_regression() {
    // One visitor met items 0 and 1, another 0 alone: for item 0 from item 1, ½(1 − w)² + l1 w + ½ l2 w² has its minimum at
    // w = (1 − l1) / (1 + l2).
    let case = |train: &[u32]| Case { train: train.to_vec(), valid: None, test: None, negatives: Vec::new() };
    let gram = Gram::new(2, &[case(&[0, 1]), case(&[0])], false);
    let model = slim::fit(&gram, 0.25, 0.5);
    assert!((model.weights[2] - 0.5).abs() < 1e-6, "{:?}", model.weights);
}
