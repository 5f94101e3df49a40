use super::*;
use crate::testing::circles;

fn made(data: &Dataset, shares: Shares) -> Parts {
    parts(data, &Vocabulary::new(data, 1, 1000), shares).unwrap()
}

fn row(parts: &Parts, rows: &Rows, at: usize) -> (Vec<u32>, Vec<f32>) {
    let RowShape { fields, dense, .. } = parts.shape;
    (rows.fields[at * fields..][..fields].to_vec(), rows.dense[at * dense..][..dense].to_vec())
}

const ALL: Shares = Shares { train: 1.0, valid: 0.0 };

/// Whatever happens after a row, or at the same time, the row stays as it is.
#[test]
fn a_row_sees_nothing_of_its_own_moment_or_later() {
    let data = circles(30, 12);
    let middle = data.interactions.len() / 2;
    let mut changed = data.clone();
    for interaction in &mut changed.interactions[middle..] {
        interaction.stars = Some(1.0);
        interaction.item = (interaction.item + 7) % 40;
    }
    let split = Shares { train: 0.5, valid: 0.25 };
    let (before, after) = (made(&data, split), made(&changed, split));
    assert_eq!(before.train.fields, after.train.fields);
    assert_eq!(before.train.dense, after.train.dense);
    assert_ne!(before.valid.fields, after.valid.fields);
}

#[test]
fn interactions_of_one_moment_do_not_see_each_other() {
    let mut data = circles(30, 12);
    let last = data.interactions.len() - 1;
    let (at_ms, visitor) = (data.interactions[last].at_ms, data.interactions[last].visitor);
    let rows_alone = made(&data, ALL);
    let mut twin = data.interactions[last];
    twin.item = (twin.item + 3) % 40;
    assert_eq!((twin.at_ms, twin.visitor), (at_ms, visitor));
    data.interactions.push(twin);
    let rows_both = made(&data, ALL);
    // Global means moved by one rating of 361; fields are coarse enough not to.
    assert_eq!(row(&rows_alone, &rows_alone.train, last).0, row(&rows_both, &rows_both.train, last).0);
}

/// An item's statistics in validation rows are those at the end of training, in test rows those at the end of validation.
#[test]
fn statistics_are_frozen_outside_training() {
    let data = circles(30, 12);
    let shares = Shares { train: 0.5, valid: 0.25 };
    let parts = made(&data, shares);
    let total = data.interactions.len();
    let (train_end, valid_end) = (total / 2, total * 3 / 4);
    let mean = |item: u32, end: usize| {
        let stars: Vec<f32> =
            data.interactions[..end].iter().filter(|i| i.item == item).filter_map(|i| i.stars).collect();
        (stars.iter().sum::<f32>() + 5.0 * parts.global.stars_mean) / (stars.len() as f32 + 5.0)
    };
    for (at, interaction) in data.interactions[train_end..valid_end].iter().enumerate() {
        assert!((parts.valid.item_mean[at] - mean(interaction.item, train_end)).abs() < 1e-4);
    }
    for (at, interaction) in data.interactions[valid_end..].iter().enumerate() {
        assert!((parts.test.item_mean[at] - mean(interaction.item, valid_end)).abs() < 1e-4);
    }
    let counted: u32 = parts.stats.iter().map(|stats| stats.count).sum();
    assert_eq!(counted as usize, valid_end);
}

#[test]
fn a_spec_has_bands_for_numbers_and_words_for_the_rest() {
    let spec = spec(&circles(30, 12));
    assert_eq!(spec.categories.len(), 2);
    assert!(matches!(&spec.traits[0].values, FieldValues::Vocabulary(words) if *words == ["free", "gold"]));
    assert!(matches!(&spec.attributes[0].values, FieldValues::Bands(edges) if edges.len() == BANDS - 1));
    // An id of its own for everybody says nothing: no field.
    let names: Vec<String> = (0..300).map(|n| format!("name {n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(field_values(&names).is_none());
    assert!(field_values(&["same", "same"]).is_none());
}

/// Whatever teaches, a row knows nothing of its own moment, and the negatives of a moment see what its positive sees.
#[test]
fn without_ratings_rows_come_from_samples() {
    let mut data = circles(30, 12);
    data.interactions.iter_mut().for_each(|i| i.stars = None);
    let parts = made(&data, ALL);
    assert_eq!(parts.lesson, Lesson::Sampled);
    assert_eq!(parts.train.len(), 5 * data.interactions.len());
    let moments = parts.train.labels.chunks_exact(5);
    assert!(moments.into_iter().all(|labels| *labels == [true, false, false, false, false]));
    let item_fields = 6; // item, category, year, count, like rate, then the visitor's
    let visitor = |at: usize| row(&parts, &parts.train, at).0.split_off(item_fields);
    assert!((0..parts.train.len()).all(|at| visitor(at) == visitor(at / 5 * 5)));
    let counted: u32 = parts.stats.iter().map(|stats| stats.count).sum();
    assert_eq!(counted as usize, data.interactions.len());
}
