//! The machine by itself: each way out of a trial, and what holds whatever happens.

use proptest::prelude::*;
use proto::control::{Membership, NodeView, Role};

use super::*;

const NOW: u64 = 1_000_000;

fn pop(name: &str) -> PopId {
    PopId::new(name).unwrap()
}

fn config() -> Config {
    Config { canary_pops: Vec::new(), hold_s: 60, verdict_within_s: 900 }
}

fn empty() -> Rollout {
    Rollout::load(config(), [], NOW)
}

fn report(revision: u64, answers: AnswerCounts) -> NodeReport {
    NodeReport {
        role: Role::Leader,
        term: 1,
        applied: 1,
        last_log: 1,
        outbox: 0,
        revision: Revision(revision),
        retrieval: None,
        ranker: None,
        engine: "tract".into(),
        in_flight: 0,
        bundle_error: None,
        client_address: String::new(),
        unfit: Revision(0),
        answers,
    }
}

fn answers(answers: u64, failed: u64) -> AnswerCounts {
    AnswerCounts { answers, failed, fell_back: failed, took_us: answers * 1_000 }
}

fn view(name: &str, nodes: u64, seen_at_ms: u64) -> PopView {
    let node = |id| NodeView {
        node: NodeId(id),
        seen_at_ms,
        report: report(1, answers(500, 0)),
        membership: Membership::Voter,
    };
    let nodes = (1..=nodes).map(node).collect();
    PopView { pop: pop(name), upto: proto::Offset(0), nodes, ahead: None, diverged: None, lost: 0 }
}

/// Revision 1 is promoted, revision 2 on trial on `a` (nodes 1 and 2); `b` looks on.
fn on_trial() -> Rollout {
    let mut rollout = empty();
    rollout.begin_proved(Revision(1), "known", NOW);
    let plan = rollout.plan(&[view("a", 2, NOW), view("b", 2, NOW)], &BTreeSet::new(), NOW);
    rollout.begin(Revision(2), plan, NOW);
    rollout
}

/// All nodes of `a` report the same, every second of `seconds`; gives the verdict, if one fell.
fn all_say(rollout: &mut Rollout, seconds: std::ops::Range<u64>, says: &NodeReport) -> Option<RolloutView> {
    for second in seconds {
        let now = NOW + second * 1_000;
        for node in [1, 2] {
            rollout.heard(&pop("a"), NodeId(node), says, now);
        }
        if let Some(view) = rollout.judge(now) {
            return Some(view);
        }
    }
    None
}

#[test]
fn a_good_bundle_is_promoted_once_every_canary_has_held_it() {
    let mut rollout = on_trial();
    assert_eq!(rollout.offered(&pop("a")), Some(Revision(2)));
    assert_eq!(rollout.offered(&pop("b")), Some(Revision(1)), "the others keep what they have");
    assert_eq!(all_say(&mut rollout, 0..60, &report(2, answers(50, 0))), None);
    let view = all_say(&mut rollout, 60..61, &report(2, answers(60, 0))).unwrap();
    assert_eq!((view.stage, view.during.answers, view.before.answers), (RolloutStage::Promoted, 120, 1_000));
    assert_eq!(rollout.offered(&pop("b")), Some(Revision(2)));
    assert!(!rollout.needs_recovery());
}

#[test]
fn a_node_that_does_not_follow_holds_it_back() {
    let mut rollout = on_trial();
    for second in 0..899 {
        rollout.heard(&pop("a"), NodeId(1), &report(2, answers(50, 0)), NOW + second * 1_000);
        rollout.heard(&pop("a"), NodeId(2), &report(1, answers(50, 0)), NOW + second * 1_000);
        assert_eq!(rollout.judge(NOW + second * 1_000), None, "second {second}");
    }
    let view = rollout.judge(NOW + 900_000).unwrap();
    assert_eq!(view.stage, RolloutStage::Stopped);
    assert!(view.reason.contains("node 2 of a"), "{}", view.reason);
    assert!(rollout.needs_recovery());
    assert_eq!(rollout.offered(&pop("a")), Some(Revision(1)), "a stopped revision is offered to nobody");
}

#[test]
fn a_refusal_stops_it_at_once() {
    let mut rollout = on_trial();
    let refuses =
        NodeReport { unfit: Revision(2), bundle_error: Some("NaN".into()), ..report(1, answers(5, 0)) };
    rollout.heard(&pop("a"), NodeId(2), &refuses, NOW);
    let view = rollout.judge(NOW).unwrap();
    assert_eq!(view.stage, RolloutStage::Stopped);
    assert_eq!(view.reason, "node 2 of a refuses it: NaN");
}

#[test]
fn what_another_pop_says_or_what_was_refused_before_does_not_count() {
    let mut rollout = on_trial();
    let older = NodeReport { unfit: Revision(1), ..report(2, answers(5, 0)) };
    rollout.heard(&pop("a"), NodeId(1), &older, NOW);
    let elsewhere = NodeReport { unfit: Revision(2), ..report(1, answers(5, 5)) };
    rollout.heard(&pop("b"), NodeId(1), &elsewhere, NOW);
    assert_eq!(rollout.judge(NOW), None);
}

#[test]
fn worse_answers_stop_it() {
    let mut rollout = on_trial();
    let view = all_say(&mut rollout, 0..60, &report(2, answers(50, 10))).unwrap();
    assert_eq!((view.stage, view.ended_at_ms), (RolloutStage::Stopped, Some(NOW)));
    assert!(view.reason.contains("failed for 20 of 100"), "{}", view.reason);
}

#[test]
fn silence_is_no_proof() {
    let mut rollout = on_trial();
    assert_eq!(rollout.judge(NOW + 899_999), None);
    assert_eq!(rollout.judge(NOW + 900_000).unwrap().stage, RolloutStage::Stopped);
    // One that spoke, and then fell silent, has held nothing since.
    let mut rollout = on_trial();
    assert_eq!(all_say(&mut rollout, 0..10, &report(2, answers(60, 0))), None);
    assert_eq!(rollout.judge(NOW + 200_000), None);
    assert_eq!(all_say(&mut rollout, 200..260, &report(2, answers(60, 0))), None, "it begins anew");
    assert_eq!(
        all_say(&mut rollout, 260..261, &report(2, answers(60, 0))).unwrap().stage,
        RolloutStage::Promoted
    );
}

#[test]
fn a_node_that_begins_anew_proves_it_anew() {
    let mut rollout = on_trial();
    assert_eq!(all_say(&mut rollout, 0..59, &report(2, answers(90, 0))), None);
    assert_eq!(all_say(&mut rollout, 59..100, &report(2, answers(60, 0))), None, "its counts began anew");
    assert!(all_say(&mut rollout, 100..120, &report(2, answers(61, 0))).is_some());
}

#[test]
fn a_newer_bundle_supersedes_and_is_measured_by_what_was_before_both() {
    let mut rollout = on_trial();
    all_say(&mut rollout, 0..5, &report(2, answers(90, 0)));
    let mut later = view("a", 2, NOW + 5_000);
    later.nodes[0].report =
        report(2, AnswerCounts { answers: 90, failed: 0, fell_back: 90, took_us: 1 << 40 });
    let plan = rollout.plan(&[later], &BTreeSet::new(), NOW + 5_000);
    assert_eq!(plan.before, answers(1_000, 0));
    let changed = rollout.begin(Revision(3), plan, NOW + 5_000);
    let stages: Vec<_> = changed.iter().map(|view| (view.revision.0, view.stage)).collect();
    assert_eq!(stages, [(2, RolloutStage::Superseded), (3, RolloutStage::Canary)]);
    assert_eq!(rollout.offered(&pop("a")), Some(Revision(3)));
}

#[test]
fn the_first_pop_that_speaks_is_the_canary_where_none_was_there() {
    let mut rollout = empty();
    let plan = rollout.plan(&[view("gone", 3, NOW - SILENT_MS - 1)], &BTreeSet::new(), NOW);
    assert_eq!(plan, Plan::default(), "a PoP that is gone is no canary");
    rollout.begin(Revision(1), plan, NOW);
    assert_eq!(rollout.judge(NOW + 10_000_000), None, "time does not run while nobody is there");
    assert_eq!(rollout.offered(&pop("b")), None);
    assert_eq!(rollout.arrived(&pop("b"), NOW + 10_000_000).unwrap().canaries, [pop("b")]);
    assert_eq!(rollout.arrived(&pop("a"), NOW + 10_000_001), None);
    assert_eq!((rollout.offered(&pop("b")), rollout.offered(&pop("a"))), (Some(Revision(1)), None));
    assert_eq!(rollout.judge(NOW + 10_000_000 + 899_999), None);
    // With nothing to go back to, a stopped bundle leaves nothing to recover.
    assert_eq!(rollout.judge(NOW + 10_000_000 + 900_000).unwrap().stage, RolloutStage::Stopped);
    assert!(!rollout.needs_recovery());
}

#[test]
fn the_settings_choose_canaries_else_the_first_by_id() {
    let pops = [view("a", 1, NOW), view("b", 1, NOW)];
    assert_eq!(empty().plan(&pops, &BTreeSet::new(), NOW).canaries, [pop("a")]);
    assert_eq!(empty().plan(&pops[1..], &BTreeSet::from([pop("0")]), NOW).canaries, [pop("0")]);
    let chosen = Config { canary_pops: vec![pop("b"), pop("z")], ..config() };
    let rollout = Rollout::load(chosen, [], NOW);
    let plan = rollout.plan(&pops, &BTreeSet::new(), NOW);
    assert_eq!((plan.canaries, plan.nodes), (vec![pop("b"), pop("z")], vec![(pop("b"), NodeId(1))]));
}

#[test]
fn a_person_decides_only_what_is_on_trial() {
    let mut rollout = on_trial();
    assert_eq!(rollout.decide(Revision(1), RolloutStage::Stopped, "no", NOW), Err(NotOnTrial));
    let view = rollout.decide(Revision(2), RolloutStage::Promoted, "seen enough", NOW).unwrap();
    assert_eq!((view.stage, rollout.promoted()), (RolloutStage::Promoted, Some(Revision(2))));
    assert_eq!(rollout.decide(Revision(2), RolloutStage::Stopped, "no", NOW), Err(NotOnTrial));
}

#[test]
fn three_answers_are_no_proof() {
    // Neither that it is good …
    let mut rollout = on_trial();
    let few = AnswerCounts { answers: 3, failed: 0, fell_back: 0, took_us: 3_000 };
    assert_eq!(all_say(&mut rollout, 0..899, &report(2, few)), None, "more may come");
    let view = all_say(&mut rollout, 900..901, &report(2, few)).unwrap();
    assert_eq!(view.stage, RolloutStage::Promoted);
    assert!(view.reason.contains("6 answers are too few to compare"), "{}", view.reason);
    // … nor that it is bad, until no more will come.
    let mut rollout = on_trial();
    let failing = AnswerCounts { failed: 3, ..few };
    assert_eq!(all_say(&mut rollout, 0..899, &report(2, failing)), None);
    let view = all_say(&mut rollout, 900..901, &report(2, failing)).unwrap();
    assert_eq!(view.stage, RolloutStage::Stopped);
    assert!(view.reason.contains("failed for 6 of 6"), "{}", view.reason);
    // Where nobody asks at all, only that it opens can be proved, and the verdict says so.
    let mut rollout = on_trial();
    let view = all_say(&mut rollout, 0..61, &report(2, AnswerCounts::default())).unwrap();
    assert_eq!(view.stage, RolloutStage::Promoted);
    assert!(view.reason.contains("nobody asked"), "{}", view.reason);
}

#[test]
fn only_members_prove() {
    let members = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    // One that left before: it is no part of the plan.
    let mut rollout = empty();
    rollout.members(&pop("a"), members(&[1]));
    let plan = rollout.plan(&[view("a", 2, NOW)], &BTreeSet::new(), NOW);
    assert_eq!((plan.nodes, plan.before), (vec![(pop("a"), NodeId(1))], answers(500, 0)));
    // One that leaves during the trial neither holds it back nor refuses it.
    let mut rollout = on_trial();
    for second in 0..120 {
        let now = NOW + second * 1_000;
        rollout.heard(&pop("a"), NodeId(1), &report(2, answers(150, 0)), now);
        rollout.heard(&pop("a"), NodeId(2), &report(1, answers(150, 0)), now);
        assert_eq!(rollout.judge(now), None, "node 2 does not follow");
    }
    rollout.members(&pop("a"), members(&[1]));
    let refuses = NodeReport { unfit: Revision(2), ..report(1, answers(150, 0)) };
    rollout.heard(&pop("a"), NodeId(2), &refuses, NOW + 120_000);
    assert_eq!(rollout.judge(NOW + 120_000).unwrap().stage, RolloutStage::Promoted);
}

#[test]
fn the_number_of_a_bundle_is_no_proof() {
    let mut rollout = on_trial();
    let says = report(2, answers(90, 0));
    assert_eq!(all_say(&mut rollout, 0..1, &says), None);
    assert_eq!(rollout.taken(), None);
    // Another bundle has this number there, from before the cloud was restored.
    rollout.stands(&pop("a"), NodeId(1), true, Some(Revision(5)));
    rollout.stands(&pop("a"), NodeId(2), true, None);
    assert_eq!(all_say(&mut rollout, 1..100, &says), None);
    assert_eq!(rollout.taken(), Some(Revision(5)), "it is numbered anew, above that");
    rollout.stands(&pop("a"), NodeId(1), false, None);
    rollout.stands(&pop("a"), NodeId(2), false, None);
    assert_eq!(all_say(&mut rollout, 100..101, &says).unwrap().stage, RolloutStage::Promoted);
}

#[test]
fn what_was_counted_is_seen_while_a_trial_runs() {
    let mut rollout = on_trial();
    all_say(&mut rollout, 0..5, &report(2, answers(40, 0)));
    assert_eq!(rollout.trial_until_now().unwrap().during, answers(80, 0));
    assert_eq!(empty().trial_until_now(), None);
}

#[test]
fn with_another_catalog_fallbacks_are_not_compared() {
    let falls_back = report(2, AnswerCounts { answers: 90, failed: 0, fell_back: 90, took_us: 90_000 });
    assert_eq!(all_say(&mut on_trial(), 0..5, &falls_back).unwrap().stage, RolloutStage::Stopped);
    let mut rollout = empty();
    rollout.begin_proved(Revision(1), "known", NOW);
    let plan = rollout.plan(&[view("a", 2, NOW)], &BTreeSet::new(), NOW);
    rollout.begin(Revision(2), Plan { new_catalog: true, ..plan }, NOW);
    assert_eq!(all_say(&mut rollout, 0..60, &falls_back), None);
    assert_eq!(all_say(&mut rollout, 60..61, &falls_back).unwrap().stage, RolloutStage::Promoted);
}

/// What may happen, in any order.
#[derive(Debug, Clone)]
enum Step {
    Publish,
    Report { pop: usize, node: u64, failed: bool, refuses: bool, follows: bool },
    Later(u64),
    Restart,
    Decide(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let report = (0_usize..3, 1_u64..4, any::<bool>(), any::<u8>(), any::<bool>()).prop_map(
        |(pop, node, failed, refuses, follows)| Step::Report {
            pop,
            node,
            failed: failed && refuses % 3 == 0,
            refuses: refuses == 0,
            follows,
        },
    );
    prop_oneof![
        2 => Just(Step::Publish),
        20 => report,
        10 => (1_u64..400_000).prop_map(Step::Later),
        1 => Just(Step::Restart),
        1 => any::<bool>().prop_map(Step::Decide),
    ]
}

/// A rollout with what its driver keeps for it.
struct World {
    rollout: Rollout,
    stored: BTreeMap<Revision, RolloutView>,
    /// What each PoP's nodes serve.
    serves: [Revision; 3],
    now: u64,
}

impl World {
    fn new() -> Self {
        Self { rollout: empty(), stored: BTreeMap::new(), serves: [Revision(0); 3], now: NOW }
    }

    fn next(&self) -> Revision {
        Revision(self.stored.keys().next_back().map_or(1, |last| last.0 + 1))
    }

    fn store(&mut self, changed: impl IntoIterator<Item = RolloutView>) {
        for view in changed {
            if let Some(known) = self.stored.get(&view.revision) {
                assert_eq!(known.stage, RolloutStage::Canary, "a verdict is final: {known:?} {view:?}");
            }
            self.stored.insert(view.revision, view);
        }
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Publish => {
                let plan = self.rollout.plan(&[], &BTreeSet::new(), now);
                let changed = self.rollout.begin(self.next(), plan, now);
                self.store(changed);
            }
            Step::Report { pop: at, node, failed, refuses, follows } => {
                let pop = pop(["a", "b", "c"][at]);
                let arrived = self.rollout.arrived(&pop, now);
                self.store(arrived);
                let offered = self.rollout.offered(&pop).unwrap_or_default();
                let mut says = report(0, answers(10, if failed { 5 } else { 0 }));
                if refuses {
                    says.unfit = offered;
                } else if follows {
                    // As edges do: never back.
                    self.serves[at] = self.serves[at].max(offered);
                }
                says.revision = self.serves[at];
                self.rollout.heard(&pop, NodeId(node), &says, now);
            }
            Step::Later(ms) => self.now += ms,
            Step::Restart => self.rollout = Rollout::load(config(), self.stored.values().cloned(), now),
            Step::Decide(promote) => {
                let stage = if promote { RolloutStage::Promoted } else { RolloutStage::Stopped };
                let trial = self.rollout.trial().map(|view| view.revision);
                let changed = trial.and_then(|revision| self.rollout.decide(revision, stage, "", now).ok());
                self.store(changed);
            }
        }
        let verdict = self.rollout.judge(self.now);
        self.store(verdict);
        if self.rollout.needs_recovery() {
            let (revision, now) = (self.next(), self.now);
            let changed = self.rollout.begin_proved(revision, "recovery", now);
            self.store(changed);
        }
    }

    fn check(&self, promoted_before: Option<Revision>) {
        assert!(self.rollout.promoted() >= promoted_before, "what is promoted never goes back");
        let on_trial: Vec<_> =
            self.stored.values().filter(|view| view.stage == RolloutStage::Canary).collect();
        assert!(on_trial.len() <= 1, "one trial at a time");
        for name in ["a", "b", "c"] {
            let Some(offered) = self.rollout.offered(&pop(name)) else { continue };
            let view = &self.stored[&offered];
            let canary = view.stage == RolloutStage::Canary && view.canaries.contains(&pop(name));
            assert!(canary || view.stage == RolloutStage::Promoted, "{name} is offered {view:?}");
        }
        if let (Some(promoted), Some(stopped)) = (self.rollout.promoted(), self.rollout.stopped) {
            let healed = promoted > stopped || self.rollout.trial.is_some();
            assert!(healed, "nobody is left on a stopped revision");
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_only_what_is_proved_goes_to_all(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in steps {
            let before = world.rollout.promoted();
            world.take(step);
            world.check(before);
        }
        // Every trial ends, if somebody is there and time goes on.
        world.take(Step::Report { pop: 0, node: 1, failed: false, refuses: false, follows: false });
        world.take(Step::Later(900_000));
        prop_assert!(world.rollout.trial().is_none());
    }
}
