//! What a ranker learns from: ratings where there are enough, else impressions and what came of them, else items that
//! visitors met beside items drawn at random.

use std::collections::{HashMap, HashSet};

use dataset::{Dataset, Interaction};
use inference::features::LIKED_STARS;

use super::rows::RowsError;
use crate::rng::Rng;
use crate::split::Vocabulary;

/// Where labels come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lesson {
    /// Rated interactions; liked from [`LIKED_STARS`] on.
    Ratings,
    /// What visitors were shown; liked if they took it up within a day.
    Impressions,
    /// What visitors met, each beside [`NEGATIVES`] items that they never met.
    Sampled,
}

/// Drawn items for each one that was met.
pub const NEGATIVES: usize = 4;
/// An impression counts as taken up if the visitor met the item within this time after it, in milliseconds.
const TAKEN_UP_WITHIN_MS: u64 = 24 * 60 * 60 * 1000;
/// Fewest trials to learn from.
const TRIALS_MIN: usize = 100;
/// Fewest trials of each outcome.
const OUTCOMES_MIN: usize = 10;
/// Ratings are the lesson if at least one interaction in so many is rated.
const RATED_ONE_IN: usize = 10;
/// Most trials; of more, the latest.
pub const TRIALS_MAX: usize = 2_000_000;
/// Draws until one that the visitor never met.
const DRAWS_MAX: usize = 16;
/// The negatives are the same in every run.
const SEED: u64 = 7;

/// Somebody could take up an item, and did or did not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// Index of the visitor.
    pub visitor: u32,
    /// Index of the item.
    pub item: u32,
    /// When, in milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// What came of it.
    pub liked: bool,
}

/// Trials in order of time.
pub struct Trials {
    /// Where they come from.
    pub lesson: Lesson,
    /// By time; where times are equal, in the order of the data.
    pub list: Vec<Trial>,
    /// Of each trial, how many interactions came before it: those of its own moment only if it is one itself.
    pub before: Vec<usize>,
}

impl Lesson {
    /// What the label says, for a card and a report.
    pub fn label(self) -> String {
        match self {
            Self::Ratings => "rating of 4 stars or more".to_owned(),
            Self::Impressions => "an impression that the visitor took up within a day".to_owned(),
            Self::Sampled => {
                format!(
                    "an item that the visitor met, against {NEGATIVES} that they never met, drawn at random"
                )
            }
        }
    }

    /// What its trials are, for a card and a report.
    pub fn rows(self) -> &'static str {
        match self {
            Self::Ratings => "rated interactions",
            Self::Impressions => "impressions",
            Self::Sampled => "interactions and sampled negatives",
        }
    }

    /// What it says nothing about, for a card.
    pub fn limits(self) -> &'static str {
        match self {
            Self::Ratings => {
                "Learned from items that visitors chose to rate themselves, so it says nothing of whether they would take up an \
                 item at all."
            }
            Self::Impressions => {
                "Learned from what was shown, so it favours what was shown before; the place in the slot is not corrected for."
            }
            Self::Sampled => {
                "Learned without knowing what visitors saw and left: that an item was never met may mean that nobody offered it. \
                 Its answers order candidates; they are no probabilities of a click."
            }
        }
    }
}

/// The trials of a data set.
///
/// # Errors
/// Where there are too few, or all came out alike.
pub fn trials(data: &Dataset, vocabulary: &Vocabulary) -> Result<Trials, RowsError> {
    let rated = data.interactions.iter().filter(|i| i.stars.is_some()).count();
    if rated * RATED_ONE_IN >= data.interactions.len() {
        let trials = of_ratings(data);
        if enough(&trials.list) {
            return Ok(trials);
        }
    }
    let trials = of_impressions(data);
    if enough(&trials.list) {
        return Ok(trials);
    }
    let trials = of_samples(data, vocabulary);
    if enough(&trials.list) {
        return Ok(trials);
    }
    let liked = trials.list.iter().filter(|trial| trial.liked).count();
    Err(RowsError::TooFew { liked, others: trials.list.len() - liked })
}

fn enough(trials: &[Trial]) -> bool {
    let liked = trials.iter().filter(|trial| trial.liked).count();
    trials.len() >= TRIALS_MIN && liked.min(trials.len() - liked) >= OUTCOMES_MIN
}

fn liked(interaction: &Interaction) -> bool {
    interaction.stars.is_none_or(|stars| stars >= LIKED_STARS)
}

fn of_ratings(data: &Dataset) -> Trials {
    let rated = data.interactions.iter().enumerate().filter(|(_, i)| i.stars.is_some());
    let (list, before) = rated
        .map(|(at, i)| (Trial { visitor: i.visitor, item: i.item, at_ms: i.at_ms, liked: liked(i) }, at))
        .unzip();
    latest(Trials { lesson: Lesson::Ratings, list, before })
}

/// An interaction answers the last impression of its item before it.
fn of_impressions(data: &Dataset) -> Trials {
    let mut places: HashMap<(u32, u32), Vec<usize>> = HashMap::new();
    for (at, shown) in data.shown.iter().enumerate().filter(|(_, shown)| !shown.dismissed) {
        places.entry((shown.visitor, shown.item)).or_default().push(at);
    }
    let mut taken_up = vec![false; data.shown.len()];
    for interaction in data.interactions.iter().filter(|i| liked(i)) {
        let Some(places) = places.get(&(interaction.visitor, interaction.item)) else { continue };
        let before = places.partition_point(|&at| data.shown[at].at_ms <= interaction.at_ms);
        let last = before.checked_sub(1).map(|last| places[last]);
        if let Some(at) = last.filter(|&at| interaction.at_ms - data.shown[at].at_ms <= TAKEN_UP_WITHIN_MS) {
            taken_up[at] = true;
        }
    }
    let trial = |(shown, taken_up): (&dataset::Shown, bool)| Trial {
        visitor: shown.visitor,
        item: shown.item,
        at_ms: shown.at_ms,
        liked: taken_up,
    };
    by_time(data, Lesson::Impressions, data.shown.iter().zip(taken_up).map(trial).collect())
}

/// What was met, beside what never was; what was rated low or sent away is no like either.
fn of_samples(data: &Dataset, vocabulary: &Vocabulary) -> Trials {
    let mut met: HashSet<(u32, u32)> = data.interactions.iter().map(|i| (i.visitor, i.item)).collect();
    met.extend(data.shown.iter().filter(|shown| shown.dismissed).map(|shown| (shown.visitor, shown.item)));
    let mut rng = Rng::new(SEED);
    let mut list = Vec::new();
    let from = data.interactions.len().saturating_sub(TRIALS_MAX / (NEGATIVES + 1));
    for interaction in &data.interactions[from..] {
        let &Interaction { visitor, item, at_ms, .. } = interaction;
        list.push(Trial { visitor, item, at_ms, liked: liked(interaction) });
        if vocabulary.is_empty() || !liked(interaction) {
            continue;
        }
        for _ in 0..NEGATIVES {
            let mut draws = (0..DRAWS_MAX).map(|_| vocabulary.items[rng.below(vocabulary.len())]);
            let never_met = draws.find(|item| !met.contains(&(visitor, *item)));
            list.extend(never_met.map(|item| Trial { visitor, item, at_ms, liked: false }));
        }
    }
    let dismissed = data.shown.iter().filter(|shown| shown.dismissed);
    list.extend(dismissed.map(|s| Trial { visitor: s.visitor, item: s.item, at_ms: s.at_ms, liked: false }));
    by_time(data, Lesson::Sampled, list)
}

fn by_time(data: &Dataset, lesson: Lesson, mut list: Vec<Trial>) -> Trials {
    list.sort_by_key(|trial| trial.at_ms); // stable: equal times keep their order
    let before = list.iter().map(|t| data.interactions.partition_point(|i| i.at_ms < t.at_ms)).collect();
    latest(Trials { lesson, list, before })
}

fn latest(mut trials: Trials) -> Trials {
    let beyond = trials.list.len().saturating_sub(TRIALS_MAX);
    trials.list.drain(..beyond);
    trials.before.drain(..beyond);
    trials
}

#[cfg(test)]
mod tests {
    use dataset::{Act, Shown};

    use super::*;
    use crate::testing::circles;

    fn lesson_of(data: &Dataset) -> Trials {
        trials(data, &Vocabulary::new(data, 1, 1000)).unwrap()
    }

    fn without_ratings() -> Dataset {
        let mut data = circles(30, 12);
        data.interactions.iter_mut().for_each(|i| (i.stars, i.act) = (None, Act::Click));
        data
    }

    #[test]
    fn ratings_teach_where_they_tell_something_apart() {
        let mut data = circles(30, 12);
        let trials = lesson_of(&data);
        assert_eq!((trials.lesson, trials.list.len()), (Lesson::Ratings, data.interactions.len()));
        assert!(trials.before.iter().enumerate().all(|(at, &before)| at == before));
        data.interactions.iter_mut().for_each(|i| i.stars = Some(5.0));
        assert_eq!(lesson_of(&data).lesson, Lesson::Sampled, "all ratings are 5");
        data.interactions.iter_mut().skip(20).for_each(|i| i.stars = None);
        assert_eq!(lesson_of(&data).lesson, Lesson::Sampled, "too few ratings");
    }

    #[test]
    fn sampled_negatives_were_never_met() {
        let data = without_ratings();
        let trials = lesson_of(&data);
        assert_eq!(trials.lesson, Lesson::Sampled);
        let met: HashSet<(u32, u32)> = data.interactions.iter().map(|i| (i.visitor, i.item)).collect();
        assert!(trials.list.iter().all(|t| t.liked == met.contains(&(t.visitor, t.item))));
        assert_eq!(trials.list.len(), data.interactions.len() * (NEGATIVES + 1));
        assert!(trials.list.is_sorted_by_key(|t| t.at_ms));
        assert_eq!(trials.list, lesson_of(&data).list, "the same in every run");
    }

    #[test]
    fn impressions_that_were_not_taken_up_are_the_negatives() {
        let mut data = without_ratings();
        let day = TAKEN_UP_WITHIN_MS;
        for interaction in data.interactions.clone() {
            let Interaction { visitor, item, at_ms, .. } = interaction;
            let at_ms = at_ms + 10 * day;
            let shown = |item: u32, at_ms| Shown { visitor, item: item % 40, at_ms, dismissed: false };
            // Twice before it was clicked: the later one is answered. Another item was left.
            data.shown.extend([shown(item, at_ms - 2), shown(item, at_ms - 1), shown(item + 20, at_ms - 1)]);
        }
        data.interactions.iter_mut().for_each(|i| i.at_ms += 10 * day);
        data.shown.sort_by_key(|shown| shown.at_ms);
        let trials = lesson_of(&data);
        assert_eq!((trials.lesson, trials.list.len()), (Lesson::Impressions, data.shown.len()));
        let liked = trials.list.iter().filter(|trial| trial.liked).count();
        assert_eq!(liked, data.interactions.len());

        // Dismissed, or taken up only days later: not liked.
        data.shown.iter_mut().for_each(|shown| shown.at_ms -= 5 * day);
        let trials = lesson_of(&data);
        assert_eq!(trials.lesson, Lesson::Sampled, "no impression was taken up in time");
    }

    #[test]
    fn too_little_is_an_error_that_counts() {
        let mut data = without_ratings();
        data.interactions.truncate(5);
        let error = trials(&data, &Vocabulary::new(&data, 1, 1000)).err().unwrap().to_string();
        assert!(error.contains("5 that were liked"), "{error}");
        // One item: nothing else to compare with.
        let mut data = without_ratings();
        data.interactions.iter_mut().for_each(|i| i.item = 0);
        assert!(trials(&data, &Vocabulary::new(&data, 1, 1000)).is_err());
    }
}
