//! A bundle made ready for requests: ids resolved to places in the catalog, once.

use std::collections::HashMap;

use inference::Bundle;
use proto::ItemId;
use proto::event::Attributes;

use crate::caps::Caps;
use crate::diversity::CategorySet;

/// A bundle made ready for requests. Items are spoken of by their place in the catalog.
pub struct Prepared {
    bundle: Bundle,
    blocked: Vec<u32>,
    categories: Vec<CategorySet>,
    popular: Vec<u32>,
    segments: Vec<SegmentPlaces>,
    new: Vec<u32>,
    caps: Caps,
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
        let segments: Vec<_> = segments
            .map(|segment| SegmentPlaces { when: segment.when.clone(), popular: places(&segment.popular) })
            .collect();
        let categories = category_sets(&bundle);
        let new = new_items(&bundle, &blocked, &popular, &segments);
        let caps = Caps::new(catalog.items(), &bundle.rules.caps);
        Self { blocked, categories, popular, segments, new, caps, bundle }
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

    /// What nobody has dealt with, so that it is found by exploration alone.
    pub(crate) fn new_items(&self) -> &[u32] {
        &self.new
    }

    pub(crate) fn caps(&self) -> &Caps {
        &self.caps
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

/// What no model knows and no list has: new in the catalog, or never met by anybody.
fn new_items(bundle: &Bundle, blocked: &[u32], popular: &[u32], segments: &[SegmentPlaces]) -> Vec<u32> {
    let mut found = vec![false; bundle.catalog.len()];
    let lists = segments.iter().flat_map(|segment| &segment.popular).chain(popular).chain(blocked);
    lists.for_each(|place| found[*place as usize] = true);
    let known = |place: &u32| {
        let index = bundle.retrieval.as_ref().map(|stage| stage.indices[*place as usize]);
        found[*place as usize] || index.flatten().is_some()
    };
    (0..).take(bundle.catalog.len()).filter(|place| !known(place)).collect()
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
