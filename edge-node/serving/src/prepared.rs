//! A bundle made ready for requests: ids resolved to places in the catalog, once.

use std::collections::HashMap;

use inference::Bundle;
use proto::ItemId;
use proto::event::Attributes;

use crate::diversity::CategorySet;

/// A bundle made ready for requests. Items are spoken of by their place in the catalog.
pub struct Prepared {
    bundle: Bundle,
    blocked: Vec<u32>,
    categories: Vec<CategorySet>,
    popular: Vec<u32>,
    segments: Vec<SegmentPlaces>,
}

struct SegmentPlaces {
    when: Attributes,
    popular: Vec<u32>,
}

impl Prepared {
    /// Resolves what a bundle names. Items that the catalog does not have are left out: they are never served.
    pub fn new(bundle: Bundle) -> Self {
        let catalog = &bundle.catalog;
        let places =
            |ids: &[ItemId]| ids.iter().filter_map(|id| catalog.place(id.as_str())).collect::<Vec<_>>();
        let (blocked, popular) = (places(&bundle.rules.blocked), places(&bundle.rules.popular));
        let segments = bundle.rules.segments.iter();
        let segments = segments
            .map(|segment| SegmentPlaces { when: segment.when.clone(), popular: places(&segment.popular) })
            .collect();
        let categories = category_sets(&bundle);
        Self { blocked, categories, popular, segments, bundle }
    }

    /// The bundle itself.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    pub(crate) fn blocked(&self) -> &[u32] {
        &self.blocked
    }

    pub(crate) fn categories(&self, place: u32) -> CategorySet {
        self.categories[place as usize]
    }

    pub(crate) fn popular(&self) -> &[u32] {
        &self.popular
    }

    /// What the first segment that fits likes. A trait is looked up in the profile, then in the request's context.
    pub(crate) fn segment(&self, traits: &Attributes, context: &Attributes) -> Option<&[u32]> {
        let value = |name: &str| {
            let found = traits.iter().chain(context).find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        };
        let fits =
            |s: &&SegmentPlaces| s.when.iter().all(|(name, wanted)| value(name) == Some(wanted.as_str()));
        self.segments.iter().find(fits).map(|segment| segment.popular.as_slice())
    }
}

/// The most frequent categories get a bit each; the rest share bits, which only softens diversity.
fn category_sets(bundle: &Bundle) -> Vec<CategorySet> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for category in bundle.catalog.items().iter().flat_map(|item| &item.categories) {
        *counts.entry(category).or_default() += 1;
    }
    let mut by_count: Vec<_> = counts.into_iter().collect();
    by_count.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let bits: HashMap<&str, u32> = by_count.into_iter().map(|(name, _)| name).zip(0_u32..).collect();
    let set = |categories: &[String]| {
        categories
            .iter()
            .filter_map(|name| bits.get(name.as_str()))
            .fold(0, |set, bit| set | 1 << (bit % 128))
    };
    bundle.catalog.items().iter().map(|item| CategorySet(set(&item.categories))).collect()
}
