//! What a row of features holds, to the number; and that it only tells of the past.

use std::collections::HashSet;
use std::sync::Arc;

use inference::features::{FieldValues, NamedValues, stars_of};
use inference::{
    Encoder, FeatureBatch, FeatureSpec, GlobalStats, IndexedCatalog, ItemStats, ModelError, Schema, testing,
};
use proto::ItemId;
use proto::bundle::{Catalog, Item};
use proto::profile::{Interaction, Signal};

use crate::support::Seeded;

const HOUR_MS: u64 = 3_600_000;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn spec() -> FeatureSpec {
    FeatureSpec {
        traits: vec![NamedValues {
            name: "gender".into(),
            values: FieldValues::Vocabulary(words(&["F", "M"])),
        }],
        attributes: vec![NamedValues {
            name: "year".into(),
            values: FieldValues::Bands(vec![1960.0, 1980.0]),
        }],
        categories: words(&["Action", "Comedy"]),
        liked_items: 1,
    }
}

fn item(id: &str, category: &str, year: &str) -> Item {
    Item {
        id: ItemId::new(id).unwrap(),
        title: id.to_uppercase(),
        categories: words(&[category]),
        attributes: vec![("year".into(), year.into())],
        image: None,
    }
}

fn encoder() -> Encoder {
    let items = vec![item("a", "Action", "1970"), item("b", "Comedy", "1980"), item("new", "Other", "soon")];
    let catalog = Arc::new(IndexedCatalog::new(Catalog { items, ..Catalog::default() }).unwrap());
    let vocabulary = ["a", "b"].map(|id| ItemId::new(id).unwrap());
    let global = GlobalStats { stars_mean: 3.5, like_rate: 0.5 };
    Encoder::with_stats(&spec(), &vocabulary, catalog, global).unwrap()
}

fn rated(item: &str, stars: f32, at_ms: u64) -> Interaction {
    Interaction { item: ItemId::new(item).unwrap(), signal: Signal::Rating, stars, at_ms }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn row(encoder: &Encoder, interactions: &[Interaction], place: u32, now_ms: u64) -> (Vec<i64>, Vec<f32>) {
    let visitor = encoder.visitor(interactions, &pairs(&[("gender", "M")]), &vec![], now_ms);
    let mut batch = FeatureBatch::default();
    encoder.encode(&visitor, &[place], &mut batch).unwrap();
    (batch.fields().to_vec(), batch.dense().to_vec())
}

fn assert_numbers(got: &[f32], wanted: &[f32]) {
    assert_eq!(got.len(), wanted.len());
    for (at, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!((got - wanted).abs() < 1e-5, "number {at}: {got}, not {wanted}");
    }
}

#[test]
fn the_schema_names_everything_in_order() {
    let encoder = encoder();
    let schema = encoder.schema();
    let fields: Vec<_> =
        schema.fields.iter().map(|field| (field.name.as_str(), field.offset, field.cardinality)).collect();
    let wanted = [
        ("item", 0, 3),
        ("item.category", 3, 3),
        ("item.year", 6, 4),
        ("item.count", 10, 12),
        ("item.like_rate", 22, 12),
        ("visitor.gender", 34, 3),
        ("visitor.count", 37, 12),
        ("visitor.like_share", 49, 12),
        ("visitor.liked_category", 61, 3),
        ("moment.hour", 64, 24),
        ("moment.weekday", 88, 7),
        ("visitor.last_item", 95, 3),
        ("visitor.liked_item_1", 95, 3),
    ];
    assert_eq!(fields, wanted);
    assert_eq!((schema.table_len, schema.dense.len()), (98, 3 + 1 + 2 + 9 + 6 + 2));
    assert_eq!(schema.dense[3], "item.year");
    assert_eq!(schema.dense.last().map(String::as_str), Some("both.year.affinity"));
}

#[test]
fn a_row_holds_what_was_worked_out_by_hand() {
    let encoder = encoder();
    let met = [rated("a", 5.0, 0)];
    // 1970-01-01 01:00 UTC, a Thursday.
    let visitor = [0.25, 0.25, 0.045_825, 0.083_333, 0.083_333, 0.25, 0.138_629, 0.086_643, 0.0];
    let (fields, dense) = row(&encoder, &met, 1, HOUR_MS);
    assert_eq!(fields, [2, 5, 9, 10, 28, 36, 38, 56, 62, 65, 91, 96, 96]);
    let both = [0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0];
    assert_numbers(&dense, &[&[0.0, 0.0, 0.0, 1.0, 0.0, 1.0][..], &visitor, &both].concat());
    let (fields, dense) = row(&encoder, &met, 0, HOUR_MS);
    assert_eq!(fields[..5], [1, 4, 8, 10, 28]);
    let both = [0.25, 0.3125, 0.104_167, 0.090_909, 0.1, 0.1, 0.0, 0.3125];
    assert_numbers(&dense, &[&[0.0, 0.0, 0.0, 0.0, 1.0, 0.0][..], &visitor, &both].concat());
    // Unknown to the model, of an unknown category and without a year.
    let (fields, dense) = row(&encoder, &met, 2, HOUR_MS);
    assert_eq!(fields[..5], [0, 3, 6, 10, 28]);
    let both = [0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert_numbers(&dense, &[&[0.0; 6][..], &visitor, &both].concat());
}

#[test]
fn stats_change_their_own_item_alone() {
    let mut encoder = encoder();
    let before = row(&encoder, &[], 0, 0);
    let mut stats = ItemStats::default();
    [5.0, 4.0, 4.0, 3.0].into_iter().for_each(|stars| stats.record(stars));
    assert_eq!(stats, ItemStats { count: 4, likes: 3, stars_sum: 16.0 });
    encoder.set_stats(1, stats);
    encoder.set_stats(99, stats);
    assert_eq!(row(&encoder, &[], 0, 0), before);
    let (fields, dense) = row(&encoder, &[], 1, 0);
    // (16 + 35) / 14, (3 + 5) / 14; 4 interactions are in bucket 3, a rate of .571 in bucket 6.
    assert_eq!(fields[3..5], [13, 28]);
    assert_numbers(&dense[..3], &[51.0 / 14.0 - 3.5, 2.0 * (8.0 / 14.0 - 0.5), 5f32.ln() / 6.0]);
}

#[test]
fn the_context_stands_in_for_traits() {
    let encoder = encoder();
    let gender = |traits: &[(&str, &str)], context: &[(&str, &str)]| {
        let visitor = encoder.visitor(&[], &pairs(traits), &pairs(context), 0);
        let mut batch = FeatureBatch::default();
        encoder.encode(&visitor, &[0], &mut batch).unwrap();
        batch.fields()[5] - 34
    };
    assert_eq!(gender(&[("gender", "M")], &[("gender", "F")]), 2);
    assert_eq!(gender(&[], &[("gender", "F")]), 1);
    assert_eq!(gender(&[("gender", "other")], &[]), 0);
    assert_eq!(gender(&[], &[]), 0);
}

#[test]
fn clicks_and_conversions_count_as_liked() {
    let signal = |signal| Interaction { signal, ..rated("a", 0.0, 0) };
    assert_eq!(stars_of(&signal(Signal::Click)), 4.0);
    assert_eq!(stars_of(&signal(Signal::Conversion)), 5.0);
    assert_eq!(stars_of(&signal(Signal::Rating)), 0.0);
}

#[test]
fn rows_are_independent_of_each_other_and_of_the_batch_s_past() {
    let encoder = encoder();
    let visitor = encoder.visitor(&[rated("b", 2.0, 5)], &vec![], &vec![], 10);
    let (mut batch, mut one) = (FeatureBatch::default(), FeatureBatch::default());
    encoder.encode(&visitor, &[2, 1, 0, 1], &mut batch).unwrap();
    encoder.encode(&visitor, &[0, 1], &mut batch).unwrap();
    assert_eq!(batch.rows(), 2);
    for (n, place) in [0, 1].into_iter().enumerate() {
        encoder.encode(&visitor, &[place], &mut one).unwrap();
        assert_eq!(batch.fields()[n * 13..][..13], *one.fields());
        assert_eq!(batch.dense()[n * 23..][..23], *one.dense());
    }
    assert!(matches!(encoder.encode(&visitor, &[0, 3], &mut batch), Err(ModelError::Input(_))));
    assert_eq!(batch, FeatureBatch::default());
}

#[test]
fn the_schema_s_hash_tells_every_difference() {
    let mut hashes = HashSet::new();
    let mut note = |change: &dyn Fn(&mut FeatureSpec), items: usize| {
        let mut spec = spec();
        change(&mut spec);
        hashes.insert(Schema::new(&spec, items).hash().to_owned())
    };
    assert!(note(&|_| (), 2));
    assert!(!note(&|_| (), 2), "the same schema has the same hash");
    assert!(note(&|_| (), 3));
    assert!(note(&|s| s.liked_items = 2, 2));
    assert!(note(&|s| s.categories.swap(0, 1), 2));
    assert!(note(&|s| s.categories.push("Drama".into()), 2));
    assert!(note(&|s| s.traits[0].name = "sex".into(), 2));
    assert!(note(&|s| s.traits.clear(), 2));
    assert!(note(&|s| s.traits[0].values = FieldValues::Vocabulary(words(&["M", "F"])), 2));
    assert!(note(&|s| s.attributes[0].values = FieldValues::Bands(vec![1960.0, 1981.0]), 2));
    assert!(note(&|s| s.attributes[0].values = FieldValues::Vocabulary(words(&["1960", "1981"])), 2));
}

#[test]
fn the_hash_is_pinned() {
    // If this changes, ENCODER_VERSION must, and every model must be trained anew.
    let hash = Schema::new(&spec(), 2).hash().to_owned();
    assert_eq!(hash, "ebb8522658254998caf10d93b180d682a252e7a0b8944d242b23c7ba122048df");
}

#[test]
fn any_history_gives_ids_in_range_and_small_numbers() {
    let catalog = testing::catalog(60);
    let vocabulary: Vec<ItemId> = catalog.items.iter().take(50).map(|item| item.id.clone()).collect();
    let catalog = Arc::new(IndexedCatalog::new(catalog).unwrap());
    let global = GlobalStats { stars_mean: 3.5, like_rate: 0.55 };
    let spec = testing::feature_spec();
    let mut encoder = Encoder::with_stats(&spec, &vocabulary, Arc::clone(&catalog), global).unwrap();
    let mut seeded = Seeded(4);
    let mut batch = FeatureBatch::default();
    let places: Vec<u32> = (0..60).collect();
    for round in 0..200 {
        let now_ms = seeded.next() >> seeded.below(60);
        let interactions: Vec<Interaction> = (0..seeded.below(201))
            .map(|_| {
                let stars = [0.0, 0.5, 3.0, 4.0, 5.0, 99.0, f32::NAN, -1.0][seeded.below(8)];
                let signal = [Signal::Click, Signal::Conversion, Signal::Rating][seeded.below(3)];
                let item = ItemId::new(format!("i{}", seeded.below(70))).unwrap();
                Interaction { item, signal, stars, at_ms: seeded.next() >> seeded.below(60) }
            })
            .collect();
        let count = seeded.next() as u32 >> seeded.below(32);
        let stats = ItemStats { count, likes: count / 2, stars_sum: count as f32 * 3.0 };
        encoder.set_stats(seeded.below(60) as u32, stats);
        let age = ["17", "42", "-1e300", "NaN", "old", ""][seeded.below(6)];
        let visitor = encoder.visitor(&interactions, &pairs(&[("age", age)]), &vec![], now_ms);
        encoder.encode(&visitor, &places, &mut batch).unwrap();
        let schema = encoder.schema();
        for row in batch.fields().chunks(schema.fields.len()) {
            for (id, field) in row.iter().zip(&schema.fields) {
                let range = field.offset as i64..(field.offset + field.cardinality) as i64;
                assert!(range.contains(id), "round {round}: {id} of {field:?}");
            }
        }
        for (at, number) in batch.dense().iter().enumerate() {
            let name = &schema.dense[at % schema.dense.len()];
            assert!(number.abs() <= 6.0, "round {round}: {name} is {number}");
        }
    }
}

#[test]
fn specs_beyond_their_limits_are_refused() {
    let refused = |says: &str, change: &dyn Fn(&mut FeatureSpec)| {
        let mut spec = spec();
        change(&mut spec);
        let error = spec.check().unwrap_err().to_string();
        assert!(error.contains(says), "`{error}` does not say `{says}`");
    };
    refused("liked items", &|s| s.liked_items = 9);
    refused("too large", &|s| s.categories = (0..513).map(|n| n.to_string()).collect());
    refused("twice", &|s| s.categories.push("Action".into()));
    refused("traits", &|s| s.traits = vec![s.traits[0].clone(); 33]);
    refused("is there twice", &|s| s.traits.push(s.traits[0].clone()));
    refused("a name is empty", &|s| s.traits[0].name.clear());
    for edges in [vec![], vec![2.0, 1.0], vec![1.0, 1.0], vec![f64::NAN], vec![f64::INFINITY], vec![0.0; 257]]
    {
        refused("edges", &|s| s.attributes[0].values = FieldValues::Bands(edges.clone()));
    }
}

#[test]
fn a_card_s_stats_reach_the_items_they_belong_to() {
    let mut catalog = testing::catalog(10);
    let model = testing::ranker(&catalog, 1);
    catalog.items.reverse();
    let catalog = Arc::new(IndexedCatalog::new(catalog).unwrap());
    let encoder = Encoder::new(&model.card, Arc::clone(&catalog)).unwrap();
    let visitor = encoder.visitor(&[], &vec![], &vec![], 0);
    let mut batch = FeatureBatch::default();
    let places: Vec<u32> = (0..10).collect();
    encoder.encode(&visitor, &places, &mut batch).unwrap();
    let width = encoder.schema().dense.len();
    for (place, row) in batch.dense().chunks(width).enumerate() {
        // Item n of the tiny ranker has n % 7 interactions.
        let count = ((9 - place) % 7) as f32;
        assert_numbers(&row[2..3], &[(1.0 + count).ln() / 6.0]);
    }
}
