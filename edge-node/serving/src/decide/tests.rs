use std::collections::HashMap;

use inference::testing::{self, SignedBundle};
use inference::{Bundle, Engine, Signer};
use proto::bundle::{ArtifactKind, Catalog, Item, RuleSettings, Rules, Segment};
use proto::profile::{Interaction, Profile, Seen, Signal};
use proto::{ItemId, UserId, VisitorId};

use super::*;

const ITEMS: usize = 60;
const CANDIDATES: usize = 40;

/// Allows the stages it names.
struct Only(&'static [Stage]);

impl Budget for Only {
    fn allows(&self, stage: Stage) -> bool {
        self.0.contains(&stage)
    }
}

const BOTH: Only = Only(&[Stage::Retrieve, Stage::Rank]);
const NONE: Only = Only(&[]);

fn id(n: usize) -> ItemId {
    ItemId::new(format!("i{n}")).unwrap()
}

/// The tiny models with these rules, without the kinds in `without`.
fn prepared(rules: &Rules, without: &[ArtifactKind]) -> Prepared {
    let signer = Signer::from_seed(&[7; 32]);
    let mut files: HashMap<_, _> = testing::bundle(&signer, 1, ITEMS, 1).artifacts;
    files.insert(ArtifactKind::Rules, serde_json::to_vec(rules).unwrap());
    files.retain(|kind, _| !without.contains(kind));
    let bundle = SignedBundle::new(&signer, 1, files);
    let opened = Bundle::open(bundle.manifest.clone(), |kind| bundle.artifact(kind), &Engine::tract());
    Prepared::new(opened.unwrap())
}

/// `i0` to `i29` are popular, `i30` to `i34` with women.
fn rules() -> Rules {
    let women = vec![("gender".to_owned(), "F".to_owned())];
    let segment = Segment { name: "women".into(), when: women, popular: (30..35).map(id).collect() };
    Rules { popular: (0..30).map(id).collect(), segments: vec![segment], ..Rules::default() }
}

fn visitor() -> VisitorId {
    VisitorId::User(UserId::new("somebody").unwrap())
}

fn view(clicked: &[usize]) -> View {
    let click =
        |n: &usize| Interaction { item: id(*n), signal: Signal::Click, stars: 0.0, at_ms: 1_000 + *n as u64 };
    let profile = Profile { interactions: clicked.iter().map(click).collect(), ..Profile::default() };
    View { visitor: visitor(), profile, applied: 1 }
}

fn ask(count: u16) -> Recommend {
    let slot = "home".parse().unwrap();
    Recommend { visitor: visitor(), slot, count, token: None, context: Vec::new(), exclude: Vec::new() }
}

fn run(prepared: &Prepared, view: &View, ask: &Recommend, budget: &dyn Budget) -> Decision {
    decide(prepared, view, ask, CANDIDATES, 2_000, budget, &mut Scratch::default())
}

fn items(decision: &Decision) -> Vec<&str> {
    decision.items.iter().map(|ranked| ranked.item.as_str()).collect()
}

#[test]
fn each_stage_falls_back_to_the_next() {
    let all = prepared(&rules(), &[]);
    let (known, new) = (view(&[3, 7]), view(&[]));
    let served = |view: &View, budget: &dyn Budget| run(&all, view, &ask(5), budget).served_by;
    assert_eq!(served(&known, &BOTH), Some(ServedBy::Ranked));
    assert_eq!(served(&known, &Only(&[Stage::Retrieve])), Some(ServedBy::Retrieved));
    assert_eq!(served(&known, &NONE), Some(ServedBy::Popular));
    assert_eq!(served(&new, &BOTH), Some(ServedBy::Popular), "nothing to retrieve by");
    assert_eq!(served(&view(&[]), &BOTH), Some(ServedBy::Popular));
    // A model that the bundle does not have is no failure.
    let no_ranker = prepared(&rules(), &[ArtifactKind::RankerModel, ArtifactKind::RankerCard]);
    let decision = run(&no_ranker, &known, &ask(5), &BOTH);
    assert_eq!((decision.served_by, decision.failed.is_none()), (Some(ServedBy::Retrieved), true));
    let nothing = run(&prepared(&Rules::default(), &[]), &new, &ask(5), &BOTH);
    assert_eq!((nothing.served_by, nothing.items.len()), (None, 0));
}

#[test]
fn every_item_says_why_and_the_best_come_first() {
    let all = prepared(&rules(), &[]);
    let ranked = run(&all, &view(&[3, 7]), &ask(10), &BOTH);
    assert_eq!(ranked.items.len(), 10);
    assert!(
        ranked.items.iter().all(|item| item.reason == Reason::Taste && (0.0..=1.0).contains(&item.score))
    );
    assert_eq!(ranked.items[0].score, 1.0);
    let popular = run(&all, &view(&[]), &ask(10), &BOTH);
    assert!(popular.items.iter().all(|item| item.reason == Reason::Popular));
    assert_eq!(items(&popular)[..3], ["i0", "i1", "i2"]);
    // Other models, another order: the ranker has a say.
    let retrieved = run(&all, &view(&[3, 7]), &ask(10), &Only(&[Stage::Retrieve]));
    assert_ne!(items(&retrieved), items(&ranked));
}

#[test]
fn a_new_visitor_gets_what_the_segment_likes_then_what_all_like() {
    let all = prepared(&rules(), &[]);
    let women = vec![("gender".to_owned(), "F".to_owned())];
    let mut by_profile = view(&[]);
    by_profile.profile.traits = women.clone();
    let by_context = Recommend { context: women, ..ask(7) };
    for decision in [run(&all, &by_profile, &ask(7), &BOTH), run(&all, &view(&[]), &by_context, &BOTH)] {
        assert_eq!(decision.served_by, Some(ServedBy::Segment));
        assert_eq!(items(&decision), ["i30", "i31", "i32", "i33", "i34", "i0", "i1"]);
        let reasons: Vec<_> = decision.items.iter().map(|item| item.reason).collect();
        assert_eq!(reasons[..5], [Reason::Segment; 5]);
        assert_eq!(reasons[5..], [Reason::Popular; 2]);
    }
}

#[test]
fn blocked_consumed_tired_and_excluded_items_are_never_offered() {
    let rules = Rules { blocked: vec![id(0), id(40)], seen_max: 3, ..rules() };
    let all = prepared(&rules, &[]);
    let mut view = view(&[1, 41]);
    view.profile.seen = vec![
        Seen { item: id(2), served: 9, seen: 3 },
        Seen { item: id(42), served: 9, seen: 4 },
        Seen { item: id(5), served: 9, seen: 2 },
    ];
    let ask = Recommend { exclude: vec![id(4), id(43)], ..ask(100) };
    for budget in [&BOTH, &Only(&[Stage::Retrieve]), &NONE] {
        let decision = run(&all, &view, &ask, budget);
        let offered = items(&decision);
        for unwanted in ["i0", "i40", "i1", "i41", "i2", "i42", "i4", "i43"] {
            assert!(!offered.contains(&unwanted), "{unwanted} in {offered:?}");
        }
        assert!(offered.contains(&"i5"), "seen, but not too often: {offered:?}");
        let mut different = offered.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), offered.len(), "none twice");
    }
}

/// A profile of these ratings.
fn rated(ratings: &[(usize, f32)]) -> View {
    let rating = |(n, (item, stars)): (usize, &(usize, f32))| Interaction {
        item: id(*item),
        signal: Signal::Rating,
        stars: *stars,
        at_ms: 1_000 + n as u64,
    };
    let mut view = view(&[]);
    view.profile.interactions = ratings.iter().enumerate().map(rating).collect();
    view
}

#[test]
fn one_star_does_not_say_what_five_stars_say() {
    let all = prepared(&rules(), &[]);
    let only = Only(&[Stage::Retrieve]);
    let retrieved = |ratings: &[(usize, f32)]| run(&all, &rated(ratings), &ask(10), &only);
    let (liked, mixed) = (retrieved(&[(3, 5.0), (7, 5.0)]), retrieved(&[(3, 5.0), (7, 1.0)]));
    assert_ne!(items(&liked), items(&mixed));
    // What is disliked is not offered again, and says nothing of what to look for.
    let unwanted = Recommend { exclude: vec![id(7)], ..ask(10) };
    let without = run(&all, &rated(&[(3, 5.0)]), &unwanted, &only);
    assert_eq!(items(&mixed), items(&without));
    assert!(!items(&mixed).contains(&"i7"));
    // Nothing liked: nothing to retrieve by.
    assert_eq!(run(&all, &rated(&[(3, 1.0)]), &ask(5), &BOTH).served_by, Some(ServedBy::Popular));
    // The latest rating counts, wherever the first one was.
    assert_eq!(items(&retrieved(&[(3, 5.0), (7, 5.0), (7, 1.0)])), items(&mixed));
    assert_eq!(
        items(&retrieved(&[(3, 5.0), (7, 1.0), (7, 5.0)])),
        items(&retrieved(&[(3, 5.0), (7, 5.0), (7, 5.0)]))
    );
}

#[test]
fn a_slot_larger_than_the_catalog_gets_all_that_may_be_offered() {
    let all = prepared(&rules(), &[]);
    let decision = run(&all, &view(&[3]), &ask(200), &BOTH);
    assert_eq!((decision.items.len(), decision.served_by), (ITEMS - 1, Some(ServedBy::Ranked)));
    let popular = run(&all, &view(&[]), &ask(200), &BOTH);
    assert_eq!(popular.items.len(), 30);
}

#[test]
fn a_model_that_fails_leaves_the_answer_to_the_stage_before() {
    // More candidates than a ranker takes: the catalog is as large as that.
    let signer = Signer::from_seed(&[7; 32]);
    let bundle = testing::bundle(&signer, 1, 5_000, 1);
    let opened = Bundle::open(bundle.manifest.clone(), |kind| bundle.artifact(kind), &Engine::tract());
    let all = Prepared::new(opened.unwrap());
    let decision = decide(&all, &view(&[3]), &ask(10), 5_000, 2_000, &BOTH, &mut Scratch::default());
    assert_eq!(decision.failed.as_ref().map(|(stage, _)| *stage), Some(Stage::Rank));
    assert_eq!((decision.served_by, decision.items.len()), (Some(ServedBy::Retrieved), 10));
}

#[test]
fn scratch_memory_carries_nothing_from_one_request_to_the_next() {
    let all = prepared(&rules(), &[]);
    let mut scratch = Scratch::default();
    let known = view(&[3, 7]);
    let first = decide(&all, &known, &ask(10), CANDIDATES, 2_000, &BOTH, &mut scratch);
    decide(&all, &view(&[20, 21, 22]), &ask(30), CANDIDATES, 2_000, &BOTH, &mut scratch);
    decide(&all, &view(&[]), &ask(30), CANDIDATES, 2_000, &NONE, &mut scratch);
    let again = decide(&all, &known, &ask(10), CANDIDATES, 2_000, &BOTH, &mut scratch);
    assert_eq!(items(&first), items(&again));
}

/// The tiny models of the first items, with a catalog that has `more` on top: `n0` and so on, Drama but for every third.
fn with_new(rules: &Rules, more: usize) -> Prepared {
    let signer = Signer::from_seed(&[7; 32]);
    let mut files: HashMap<_, _> = testing::bundle(&signer, 1, ITEMS, 1).artifacts;
    let mut catalog: Catalog = serde_json::from_slice(&files[&ArtifactKind::Catalog]).unwrap();
    catalog.items.extend((0..more).map(|n| Item {
        id: ItemId::new(format!("n{n}")).unwrap(),
        title: format!("New {n}"),
        categories: vec![if n % 3 == 0 { "Comedy".into() } else { "Drama".into() }],
        attributes: vec![("brand".into(), format!("b{}", n % 2))],
        image: None,
    }));
    files.insert(ArtifactKind::Catalog, serde_json::to_vec(&catalog).unwrap());
    files.insert(ArtifactKind::Rules, serde_json::to_vec(rules).unwrap());
    let bundle = SignedBundle::new(&signer, 1, files);
    let opened = Bundle::open(bundle.manifest.clone(), |kind| bundle.artifact(kind), &Engine::tract());
    Prepared::new(opened.unwrap())
}

fn at(prepared: &Prepared, view: &View, ask: &Recommend, now_ms: u64) -> Decision {
    decide(prepared, view, ask, CANDIDATES, now_ms, &BOTH, &mut Scratch::default())
}

fn falls(decision: &Decision) -> bool {
    let within = decision.items.iter().all(|item| (0.0..=1.0).contains(&item.score));
    within && decision.items.windows(2).all(|pair| pair[0].score >= pair[1].score)
}

#[test]
fn scores_come_in_the_order_of_the_items() {
    let all = with_new(&rules(), 9);
    let women = vec![("gender".to_owned(), "F".to_owned())];
    for (clicked, count, lambda) in [
        (vec![3, 7], 10, 0.85),
        (vec![3, 7], 10, 0.3),
        (vec![5], 100, 0.5),
        (vec![], 100, 0.85),
        (vec![9, 41, 12], 45, 0.0),
    ] {
        let mut bundle_rules = rules();
        bundle_rules.diversity_lambda = lambda;
        let of_lambda = prepared(&bundle_rules, &[]);
        for budget in [&BOTH, &Only(&[Stage::Retrieve]), &NONE] {
            for all in [&all, &of_lambda] {
                let ask = Recommend { context: women.clone(), ..ask(count) };
                let decision = run(all, &view(&clicked), &ask, budget);
                assert!(falls(&decision), "{clicked:?} {count} {lambda}: {:?}", decision.items);
                assert!(!decision.items.is_empty());
            }
        }
    }
}

#[test]
fn new_items_get_their_share_and_no_more() {
    let settings = RuleSettings { explore_share: 0.2, ..RuleSettings::default() };
    let all = with_new(&rules().with(settings), 30);
    let new = |decision: &Decision| {
        decision
            .items
            .iter()
            .filter(|item| item.reason == Reason::New)
            .map(|r| r.item.to_string())
            .collect::<Vec<_>>()
    };
    let mut shown = std::collections::BTreeSet::new();
    for now_ms in 0..200 {
        for view in [view(&[]), view(&[3, 7])] {
            let decision = at(&all, &view, &ask(10), now_ms);
            let new = new(&decision);
            assert_eq!((decision.items.len(), new.len()), (10, 2));
            assert!(new.iter().all(|item| item.starts_with('n')));
            assert_ne!(decision.items[9].reason, Reason::New, "among the others, not behind them");
            shown.extend(new);
        }
    }
    assert!(shown.len() > 25, "nearly all are shown to somebody at some time: {shown:?}");
    // The same question has the same answer.
    assert_eq!(items(&at(&all, &view(&[3]), &ask(10), 7)), items(&at(&all, &view(&[3]), &ask(10), 7)));
    // Also for one place, now and then; and with no share, never.
    let single = (0..400).filter(|now| !new(&at(&all, &view(&[3]), &ask(1), *now)).is_empty()).count();
    assert!((50..110).contains(&single), "{single} of 400");
    let none = with_new(&rules().with(RuleSettings { explore_share: 0.0, ..RuleSettings::default() }), 30);
    assert!((0..50).all(|now| new(&at(&none, &view(&[3]), &ask(100), now)).is_empty()));
    // By default there is some.
    let default = with_new(&rules(), 30);
    assert_eq!(new(&at(&default, &view(&[3]), &ask(10), 1)).len(), 1);
}

#[test]
fn new_items_like_those_that_were_liked_come_first() {
    let all = with_new(&rules().with(RuleSettings { explore_share: 0.2, ..RuleSettings::default() }), 30);
    let catalog = &all.bundle().catalog;
    let of = |category: &str| {
        let has = |place: &usize| catalog.items()[*place].categories.iter().any(|c| c == category);
        (0..ITEMS).filter(has).take(4).collect::<Vec<_>>()
    };
    let comedies = |view: &View| {
        let shown = (0..100).flat_map(|now| at(&all, view, &ask(10), now).items);
        let new = shown.filter(|item| item.reason == Reason::New);
        new.map(|item| catalog.item(catalog.place(item.item.as_str()).unwrap()).unwrap())
            .filter(|item| item.categories[0] == "Comedy")
            .count()
    };
    let loves: Vec<_> = of("Comedy").into_iter().map(|item| (item, 5.0)).collect();
    let hates: Vec<_> = of("Comedy").into_iter().map(|item| (item, 0.0)).collect();
    let (loved, unknown, hated) = (comedies(&rated(&loves)), comedies(&view(&[])), comedies(&rated(&hates)));
    assert!(loved > 190 && hated < 10 && (30..110).contains(&unknown), "{loved}, {unknown}, {hated} of 200");
}

#[test]
fn whoever_has_met_everything_is_not_answered_with_nothing() {
    let rules = Rules { blocked: vec![id(0)], ..rules() };
    let all = prepared(&rules, &[]);
    let mut everything = view(&(0..ITEMS).collect::<Vec<_>>());
    let bought = &mut everything.profile.interactions[5];
    bought.signal = Signal::Conversion;
    let disliked = &mut everything.profile.interactions[6];
    (disliked.signal, disliked.stars) = (Signal::Rating, 1.0);
    let exclude = vec![id(7)];
    let decision = run(&all, &everything, &Recommend { exclude, ..ask(100) }, &BOTH);
    assert_eq!(items(&decision)[..4], ["i1", "i2", "i3", "i4"], "what was met longest ago comes first");
    assert_eq!(items(&decision).last(), Some(&"i5"), "what was bought comes last");
    assert_eq!(decision.items.len(), ITEMS - 3);
    for never in ["i0", "i6", "i7"] {
        assert!(!items(&decision).contains(&never), "{never}");
    }
    assert_eq!((decision.served_by, decision.items[0].reason), (Some(ServedBy::Popular), Reason::Again));
    assert!(falls(&decision));
    // What was only seen too often comes again, too.
    let rules = Rules { popular: vec![id(1)], seen_max: 1, ..Rules::default() };
    let mut tired = view(&[]);
    tired.profile.seen = vec![Seen { item: id(1), served: 3, seen: 3 }];
    assert_eq!(items(&run(&prepared(&rules, &[]), &tired, &ask(5), &BOTH)), ["i1"]);
}

#[test]
fn what_was_bought_comes_again_if_the_rules_say_so() {
    let ask = ask(100);
    let mut buyer = view(&[1, 41, 3]);
    for at in [0, 1] {
        buyer.profile.interactions[at].signal = Signal::Conversion;
    }
    let offered = |repeat_bought| {
        let rules = rules().with(RuleSettings { repeat_bought, ..RuleSettings::default() });
        let decision = run(&prepared(&rules, &[]), &buyer, &ask, &BOTH);
        ["i1", "i41", "i3"].map(|item| items(&decision).contains(&item))
    };
    assert_eq!(offered(false), [false, false, false]);
    assert_eq!(offered(true), [true, true, false], "a click is no purchase");
    // Unless it was returned with one star.
    let again = Interaction { item: id(1), signal: Signal::Rating, stars: 1.0, at_ms: 9_000 };
    buyer.profile.interactions.push(again);
    let rules = rules().with(RuleSettings { repeat_bought: true, ..RuleSettings::default() });
    assert!(!items(&run(&prepared(&rules, &[]), &buyer, &ask, &BOTH)).contains(&"i1"));
}

#[test]
fn a_cap_holds_for_every_stage_together() {
    let caps = [("brand".to_owned(), 1), ("category".to_owned(), 3)].into();
    let settings = RuleSettings { caps, explore_share: 0.5, ..RuleSettings::default() };
    let all = with_new(&rules().with(settings), 30);
    let catalog = &all.bundle().catalog;
    for clicked in [&[3, 7][..], &[]] {
        for budget in [&BOTH, &NONE] {
            let decision = run(&all, &view(clicked), &ask(20), budget);
            let mut counts = HashMap::<(&str, &str), usize>::new();
            for ranked in &decision.items {
                let item = catalog.item(catalog.place(ranked.item.as_str()).unwrap()).unwrap();
                item.categories.iter().for_each(|c| *counts.entry(("category", c)).or_default() += 1);
                let brands = item.attributes.iter().filter(|(name, _)| name == "brand");
                brands.for_each(|(_, brand)| *counts.entry(("brand", brand)).or_default() += 1);
            }
            assert!(counts.iter().all(|((by, _), n)| *n <= if *by == "brand" { 1 } else { 3 }), "{counts:?}");
            assert!(counts.values().any(|n| *n == 3), "{counts:?}");
        }
    }
    // A cap of what no item has is none.
    let caps = [("colour".to_owned(), 1)].into();
    let free = prepared(&rules().with(RuleSettings { caps, ..RuleSettings::default() }), &[]);
    assert_eq!(run(&free, &view(&[3]), &ask(40), &BOTH).items.len(), 40);
}

#[test]
fn a_stage_that_had_no_time_is_named_and_one_that_was_not_needed_is_not() {
    let all = prepared(&rules(), &[]);
    let late = |view: &View, budget: &dyn Budget| run(&all, view, &ask(5), budget).late;
    assert_eq!(late(&view(&[3]), &BOTH), None);
    assert_eq!(late(&view(&[3]), &NONE), Some(Stage::Retrieve));
    assert_eq!(late(&view(&[3]), &Only(&[Stage::Retrieve])), Some(Stage::Rank));
    assert_eq!(late(&view(&[]), &NONE), None, "a visitor without a past needs no model");
}
