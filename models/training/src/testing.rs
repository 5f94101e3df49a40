//! A small made-up data set for this crate's tests.

use dataset::{Act, Dataset, Interaction, Visitor};
use proto::bundle::Item;
use proto::ids::{ItemId, UserId};

use crate::rng::Rng;

/// Items of [`circles`].
pub const ITEMS: u32 = 40;

/// Visitors walk through the items in a circle, from where they began, with now and then a step aside: whoever saw the last
/// item knows the next. They like the items of "their" half (even visitors the first), nearly always.
pub fn circles(visitors: u32, steps: u32) -> Dataset {
    let mut rng = Rng::new(21);
    let item = |n: u32| Item {
        id: ItemId::new(format!("i{n}")).unwrap(),
        title: format!("Item {n}"),
        categories: vec![if n < ITEMS / 2 { "low" } else { "high" }.to_owned()],
        attributes: vec![("year".to_owned(), (1950 + n).to_string())],
        image: None,
    };
    let visitor = |n: u32| Visitor {
        id: UserId::new(format!("v{n}")).unwrap(),
        traits: vec![("plan".to_owned(), if n.is_multiple_of(3) { "gold" } else { "free" }.to_owned())],
    };
    let mut interactions = Vec::new();
    for visitor in 0..visitors {
        let first = u32::try_from(rng.below(ITEMS as usize)).unwrap();
        for step in 0..steps {
            let aside = u32::from(rng.uniform() < 0.05);
            let item = (first + step + aside) % ITEMS;
            let own = (item < ITEMS / 2) == visitor.is_multiple_of(2);
            let liked = own == (rng.uniform() < 0.95);
            let at_ms = 1_000_000 * u64::from(step) + u64::from(visitor) * 1000;
            interactions.push(Interaction {
                visitor,
                item,
                act: Act::Rating,
                stars: Some(if liked { 5.0 } else { 2.0 }),
                at_ms,
            });
        }
    }
    interactions.sort_by_key(|i| i.at_ms);
    Dataset {
        name: "circles".to_owned(),
        items: (0..ITEMS).map(item).collect(),
        visitors: (0..visitors).map(visitor).collect(),
        interactions,
        shown: Vec::new(),
        reports: Vec::new(),
    }
}
