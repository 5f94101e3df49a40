//! Caps: how many items of one answer may share a value, so that not all of them are of one brand.

use std::collections::{BTreeMap, HashMap};

use proto::bundle::Item;

/// The cap of this name is of categories.
const CATEGORY: &str = "category";

/// The caps of a bundle.
#[derive(Debug, Default)]
pub(crate) struct Caps(Vec<Cap>);

/// One cap: the values of all items, numbered.
#[derive(Debug)]
struct Cap {
    max: u16,
    /// By place: where an item's values begin in `values`; one more at the end.
    begins: Vec<u32>,
    values: Vec<u32>,
}

impl Cap {
    fn values(&self, place: u32) -> &[u32] {
        let (begin, end) = (self.begins[place as usize], self.begins[place as usize + 1]);
        &self.values[begin as usize..end as usize]
    }
}

impl Caps {
    pub(crate) fn new(items: &[Item], caps: &BTreeMap<String, u16>) -> Self {
        Self(caps.iter().map(|(name, max)| cap(items, name, *max)).collect())
    }
}

fn cap<'i>(items: &'i [Item], name: &str, max: u16) -> Cap {
    let mut numbers: HashMap<&'i str, u32> = HashMap::new();
    let (mut begins, mut values) = (vec![0], Vec::new());
    for item in items {
        let mut number = |value: &'i str| {
            let next = numbers.len() as u32;
            values.push(*numbers.entry(value).or_insert(next));
        };
        if name == CATEGORY {
            item.categories.iter().for_each(|category| number(category));
        } else {
            item.attributes.iter().filter(|(named, _)| named == name).for_each(|(_, value)| number(value));
        }
        begins.push(values.len() as u32);
    }
    Cap { max, begins, values }
}

/// What one answer holds already.
#[derive(Debug, Default)]
pub(crate) struct Taken(Vec<(usize, u32, u16)>);

impl Taken {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes an item in, if no cap is in its way.
    pub(crate) fn admit(&mut self, caps: &Caps, place: u32) -> bool {
        let mut values =
            caps.0.iter().enumerate().flat_map(|(at, cap)| cap.values(place).iter().map(move |v| (at, *v)));
        if values.any(|(at, value)| self.count(at, value) >= caps.0[at].max) {
            return false;
        }
        for (at, cap) in caps.0.iter().enumerate() {
            for value in cap.values(place) {
                match self.0.iter_mut().find(|(of, known, _)| (*of, *known) == (at, *value)) {
                    Some((_, _, count)) => *count += 1,
                    None => self.0.push((at, *value, 1)),
                }
            }
        }
        true
    }

    fn count(&self, at: usize, value: u32) -> u16 {
        self.0.iter().find(|(of, known, _)| (*of, *known) == (at, value)).map_or(0, |(_, _, count)| *count)
    }
}
