use std::collections::HashMap;

use inference::testing::{self, SignedBundle};
use inference::{Bundle, Engine, Signer};
use proto::bundle::{ArtifactKind, Rules, Segment};
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
