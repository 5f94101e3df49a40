//! Rules that need no model: what is popular overall, and among visitors alike. They serve unknown visitors, and
//! everybody when no model can.

use std::collections::{BTreeMap, BTreeSet};

use proto::bundle::{Rules, Segment};
use proto::ids::ItemId;
use proto::profile::DISLIKED_STARS_MAX;

use crate::{Dataset, Interaction};

/// Items of a popular list.
pub const POPULAR_LEN: usize = 200;
/// Most segments.
pub const SEGMENTS_MAX: usize = 64;
/// A segment has at least so many visitors: fewer say little, and might be recognised.
pub const SEGMENT_VISITORS_MIN: usize = 20;
/// A trait makes segments if it has from 2 to so many values …
const TRAIT_VALUES_MAX: usize = 24;
/// … and at least this share of visitors (one in) has it.
const TRAIT_COVER: usize = 2;
/// Weight of the overall shares in a segment's own, in interactions: small segments borrow from all.
const PRIOR_INTERACTIONS: f64 = 2000.0;

/// What a dislike counts, in interactions: being widely known is no reason to be offered to all, but better than nothing.
const DISLIKE: f64 = 0.01;

/// Popular lists of a data set: overall by number of interactions that are no dislikes, then for pairs of values of the two traits with the
/// fewest values (for MovieLens: gender and age band), then for single values of every trait that can be told apart.
/// Segments that say more come first, as the first that matches counts.
pub fn rules(data: &Dataset) -> Rules {
    let mut overall = vec![0.0; data.items.len()];
    for interaction in &data.interactions {
        overall[interaction.item as usize] += weight(interaction);
    }
    let mut segments = Vec::new();
    let traits = telling_traits(data);
    if let [first, second, ..] = traits.as_slice() {
        segments.extend(grouped(data, &[first, second]));
    }
    for name in &traits {
        segments.extend(grouped(data, &[name]));
    }
    let segments = segments
        .into_iter()
        .take(SEGMENTS_MAX)
        .map(|group| Segment {
            name: group.when.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(", "),
            popular: popular_in(data, &group, &overall),
            when: group.when,
        })
        .collect();
    Rules { popular: best(data, &overall), segments, ..Rules::default() }
}

fn weight(interaction: &Interaction) -> f64 {
    if interaction.stars.is_some_and(|stars| stars <= DISLIKED_STARS_MAX) { DISLIKE } else { 1.0 }
}

/// Visitors that share values of some traits.
struct Group {
    when: Vec<(String, String)>,
    visitors: Vec<u32>,
}

/// Traits with few values that most visitors have; fewest values first, then by name.
fn telling_traits(data: &Dataset) -> Vec<String> {
    let mut values: BTreeMap<&str, (BTreeSet<&str>, usize)> = BTreeMap::new();
    for visitor in &data.visitors {
        for (name, value) in &visitor.traits {
            let (seen, count) = values.entry(name).or_default();
            *count += 1;
            if seen.len() <= TRAIT_VALUES_MAX {
                seen.insert(value);
            }
        }
    }
    let mut telling: Vec<(usize, &str)> = values
        .iter()
        .filter(|(_, (seen, count))| {
            (2..=TRAIT_VALUES_MAX).contains(&seen.len()) && count * TRAIT_COVER >= data.visitors.len()
        })
        .map(|(name, (seen, _))| (seen.len(), *name))
        .collect();
    telling.sort_unstable();
    telling.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// Groups of visitors with equal values of `names`, largest first.
fn grouped(data: &Dataset, names: &[&String]) -> Vec<Group> {
    let mut groups: BTreeMap<Vec<&str>, Vec<u32>> = BTreeMap::new();
    for (at, visitor) in (0..).zip(&data.visitors) {
        let value = |name: &&String| visitor.traits.iter().find(|(n, _)| n == *name).map(|(_, v)| v.as_str());
        if let Some(key) = names.iter().map(value).collect::<Option<Vec<&str>>>() {
            groups.entry(key).or_default().push(at);
        }
    }
    let mut groups: Vec<Group> = groups
        .into_iter()
        .filter(|(_, visitors)| visitors.len() >= SEGMENT_VISITORS_MIN)
        .map(|(key, visitors)| Group {
            when: names.iter().map(|n| (*n).clone()).zip(key.into_iter().map(str::to_owned)).collect(),
            visitors,
        })
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.visitors.len()));
    groups
}

fn popular_in(data: &Dataset, group: &Group, overall: &[f64]) -> Vec<ItemId> {
    let mut member = vec![false; data.visitors.len()];
    for &visitor in &group.visitors {
        member[visitor as usize] = true;
    }
    let prior = PRIOR_INTERACTIONS / overall.iter().sum::<f64>().max(1.0);
    let mut scores: Vec<f64> = overall.iter().map(|count| count * prior).collect();
    for interaction in data.interactions.iter().filter(|i| member[i.visitor as usize]) {
        scores[interaction.item as usize] += weight(interaction);
    }
    best(data, &scores)
}

/// The items with the highest scores above 0; ties in catalog order.
fn best(data: &Dataset, scores: &[f64]) -> Vec<ItemId> {
    let mut order: Vec<usize> = (0..scores.len()).filter(|&at| scores[at] > 0.0).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a])); // stable: ties stay in catalog order
    order.truncate(POPULAR_LEN);
    order.into_iter().map(|at| data.items[at].id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use proto::bundle::Item;
    use proto::ids::UserId;

    use super::*;
    use crate::Visitor;

    /// 30 women who like item 1, 40 men who like item 2; everybody likes item 0; item 3 was never touched.
    fn two_tastes() -> Dataset {
        let item = |n: u32| Item {
            id: ItemId::new(n.to_string()).unwrap(),
            title: n.to_string(),
            categories: Vec::new(),
            attributes: Vec::new(),
            image: None,
        };
        let visitors = (0..70_u32).map(|n| Visitor {
            id: UserId::new(n.to_string()).unwrap(),
            traits: vec![
                ("age".into(), n.to_string()),
                ("gender".into(), if n < 30 { "F" } else { "M" }.into()),
                ("plan".into(), "free".into()),
            ],
        });
        let both = |n: u32| [(n, 0), (n, if n < 30 { 1 } else { 2 })];
        let interactions = (0..70).flat_map(both).map(|(visitor, item)| Interaction {
            visitor,
            item,
            act: crate::Act::Click,
            stars: None,
            at_ms: u64::from(visitor),
        });
        let (visitors, interactions) = (visitors.collect(), interactions.collect());
        let acts = crate::Acts { visitors, interactions, shown: Vec::new() };
        Dataset::ordered("two tastes".into(), (0..4).map(item).collect(), acts, Vec::new())
    }

    fn ids(list: &[ItemId]) -> Vec<&str> {
        list.iter().map(ItemId::as_str).collect()
    }

    #[test]
    fn popular_overall_and_by_segment() {
        let rules = rules(&two_tastes());
        assert_eq!(ids(&rules.popular), ["0", "2", "1"]);
        // `age` has too many values and `plan` too few to tell visitors apart.
        let named: Vec<&str> = rules.segments.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(named, ["M", "F"]);
        assert_eq!(rules.segments[1].when, [("gender".to_owned(), "F".to_owned())]);
    }

    #[test]
    fn what_everybody_knows_and_dislikes_is_not_popular() {
        let mut data = two_tastes();
        for interaction in data.interactions.iter_mut().filter(|interaction| interaction.item == 0) {
            interaction.stars = Some(1.0);
        }
        assert_eq!(ids(&rules(&data).popular), ["2", "1", "0"]);
        data.interactions.iter_mut().for_each(|interaction| interaction.stars = Some(1.0));
        assert_eq!(ids(&rules(&data).popular), ["0", "2", "1"], "better than nothing");
    }

    #[test]
    fn a_segment_leans_to_its_own_taste() {
        let data = two_tastes();
        let women = Group { when: Vec::new(), visitors: (0..30).collect() };
        // Without the prior item 2 would be missing; with it, it comes last, though more popular overall than item 1
        // once the segment's own interactions outweigh the prior.
        let mut scores = popular_in(&data, &women, &[70.0, 30.0, 30.0, 0.0]);
        assert_eq!(ids(&scores), ["0", "1", "2"]);
        scores.truncate(1);
        assert_eq!(ids(&scores), ["0"]);
    }
}
