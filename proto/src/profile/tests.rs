use super::*;
use crate::ids::{EventId, TraceId, UserId};

const NOW: u64 = 1_760_000_000_000;
/// The year 2019.
const LONG_AGO: u64 = 1_560_000_000_000;

fn item(name: impl ToString) -> ItemId {
    ItemId::new(name.to_string()).unwrap()
}

fn event(at_ms: u64, kind: EventKind) -> Event {
    let visitor = VisitorId::User(UserId::new("ada").unwrap());
    Event { id: EventId(uuid::Uuid::nil()), visitor, at_ms, trace: TraceId(0), kind }
}

fn click(name: impl ToString, at_ms: u64) -> Event {
    event(at_ms, EventKind::Click { item: item(name), slot: "home".parse().unwrap(), answer: None })
}

fn identify(plan: &str, at_ms: u64) -> Event {
    let attributes = vec![("plan".to_owned(), plan.to_owned())];
    event(at_ms, EventKind::Custom { name: "identify".into(), attributes })
}

fn of(events: impl IntoIterator<Item = Event>) -> Profile {
    let mut profile = Profile::default();
    events.into_iter().for_each(|event| profile.record(&event));
    profile
}

fn items(profile: &Profile) -> Vec<&str> {
    profile.interactions.iter().map(|met| met.item.as_str()).collect()
}

#[test]
fn a_late_event_does_not_become_the_newest() {
    let profile = of([click("a", NOW), click("b", NOW + 1), click("of 2019", LONG_AGO)]);
    assert_eq!(items(&profile), ["of 2019", "a", "b"]);
    assert_eq!((profile.events, profile.version), (3, 3));
    let equal = of([click("a", NOW), click("b", NOW), click("c", NOW)]);
    assert_eq!(items(&equal), ["a", "b", "c"], "of one time: as they came");
}

#[test]
fn a_long_past_does_not_push_out_what_is_fresh() {
    let mut profile = of([click("fresh", NOW)]);
    (0..2 * PROFILE_RING_LEN as u64).for_each(|n| profile.record(&click(n, LONG_AGO + n)));
    assert_eq!(profile.interactions.len(), PROFILE_RING_LEN);
    assert_eq!(items(&profile).last(), Some(&"fresh"));
    assert_eq!(items(&profile)[0], "201", "the oldest fell off");
    let version = profile.version;
    profile.record(&click("older than all", LONG_AGO - 1));
    assert_eq!((profile.interactions.len(), profile.version), (PROFILE_RING_LEN, version));
    assert!(!items(&profile).contains(&"older than all"));
    assert!(profile.interactions.is_sorted_by_key(|met| met.at_ms));
}

#[test]
fn a_past_that_comes_twice_is_one_past() {
    let past = || (0..5).map(|n| click(n % 3, LONG_AGO + n / 2));
    let (once, twice) = (of(past()), of(past().chain(past())));
    assert_eq!(once.interactions, twice.interactions);
    assert_eq!(once.version, twice.version);
}

#[test]
fn a_late_identify_does_not_overrule_a_fresh_one() {
    let profile = of([identify("paid", NOW), identify("free", LONG_AGO)]);
    assert_eq!(profile.traits, [("plan".to_owned(), "paid".to_owned())]);
    let profile = of([identify("free", LONG_AGO), identify("paid", NOW)]);
    assert_eq!(profile.traits, [("plan".to_owned(), "paid".to_owned())]);
    let mut imported = Profile::from(Profile1 { traits: profile.traits, ..Profile1::default() });
    imported.record(&identify("gone", NOW));
    assert_eq!(imported.traits, [("plan".to_owned(), "gone".to_owned())]);
}

#[test]
fn one_star_is_a_dislike_and_five_are_none() {
    let rated = |stars| Interaction { item: item("a"), signal: Signal::Rating, stars, at_ms: NOW };
    assert!([0.0, 1.0, 2.0].into_iter().all(|stars| rated(stars).disliked()));
    assert!([2.5, 3.0, 5.0].into_iter().all(|stars| !rated(stars).disliked()));
    let clicked = Interaction { signal: Signal::Click, ..rated(0.0) };
    assert!(!clicked.disliked(), "a click has no stars");
}

#[test]
fn what_was_erased_does_not_come_back_late() {
    let mut profile = of([click("a", NOW), identify("paid", NOW)]);
    profile.serve(&[item("b")], NOW);
    profile.erase(NOW + 10);
    let erased = profile.clone();
    assert_eq!((items(&erased), erased.seen.len(), erased.traits.len(), erased.events), (vec![], 0, 0, 0));
    for late in [click("late", NOW + 10), identify("late", NOW)] {
        profile.record(&late);
    }
    profile.serve(&[item("b")], NOW + 10);
    assert_eq!(profile, erased);
    profile.record(&click("new", NOW + 11));
    profile.serve(&[item("b")], NOW + 11);
    assert_eq!((items(&profile), profile.seen.len()), (vec!["new"], 1));
    // An erasure that comes again takes nothing of what came after it.
    let after = profile.clone();
    profile.erase(NOW + 10);
    assert_eq!(profile, after);
    // One that a PoP hears of late leaves what the visitor certainly did after it.
    let certain = NOW + 20 + EVENT_FUTURE_MS_MAX + 1;
    profile.record(&click("later", certain));
    profile.record(&identify("free", certain));
    profile.erase(NOW + 20);
    assert_eq!((items(&profile), profile.traits.len(), profile.erased_at_ms), (vec!["later"], 1, NOW + 20));
}
