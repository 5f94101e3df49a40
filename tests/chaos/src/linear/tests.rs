use proptest::prelude::*;

use super::*;

const NO_LIMITS: Limits = Limits { steps: u64::MAX, bytes: usize::MAX };

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn operation(work: Work, began: u64, outcome: Outcome) -> Operation {
    Operation { client: 1, work, began: ms(began), outcome }
}

fn write(serials: &[Serial], began: u64, ended: u64) -> Operation {
    operation(Work::Write(serials.iter().copied().collect()), began, Outcome::Ended(ms(ended)))
}

fn lost(serials: &[Serial], began: u64) -> Operation {
    Operation { outcome: Outcome::Unknown, ..write(serials, began, 0) }
}

fn read(seen: &[Serial], began: u64, ended: u64) -> Operation {
    operation(Work::Read(seen.iter().copied().collect()), began, Outcome::Ended(ms(ended)))
}

fn accepts(operations: &[Operation]) -> bool {
    match check(operations, NO_LIMITS) {
        Verdict::Linearizable => true,
        Verdict::Not(_) => false,
        Verdict::Undecided => panic!("there were no limits"),
    }
}

#[test]
fn one_after_the_other() {
    assert!(accepts(&[]));
    assert!(accepts(&[read(&[], 0, 1), write(&[1, 2], 2, 3), read(&[1, 2], 4, 5)]));
    assert!(!accepts(&[write(&[1], 0, 1), read(&[], 2, 3)]), "an acknowledged write is not shown");
    assert!(!accepts(&[read(&[1], 0, 1), write(&[1], 2, 3)]), "it is shown before anybody sent it");
    assert!(!accepts(&[write(&[1], 0, 1), read(&[1], 2, 3), read(&[], 4, 5)]), "it is gone again");
}

#[test]
fn a_write_that_runs_may_be_seen_or_not_but_not_in_part() {
    assert!(accepts(&[write(&[1, 2], 0, 9), read(&[], 1, 2), read(&[1, 2], 3, 4)]));
    assert!(!accepts(&[write(&[1, 2], 0, 9), read(&[1], 1, 2)]), "half a write");
    assert!(!accepts(&[write(&[1, 2], 0, 9), read(&[1, 2], 1, 2), read(&[], 3, 4)]), "new, then old");
}

#[test]
fn two_readers_agree_on_the_order_of_two_writers() {
    let writes = [write(&[1], 0, 10), write(&[2], 0, 10)];
    let one_way = [read(&[1], 1, 2), read(&[1, 2], 3, 4)];
    let other_way = [read(&[2], 1, 2), read(&[1, 2], 3, 4)];
    assert!(accepts(&[&writes[..], &one_way[..]].concat()));
    assert!(accepts(&[&writes[..], &other_way[..]].concat()));
    // Each read alone is right, and no check of single facts finds this.
    assert!(!accepts(&[&writes[..], &one_way[..], &other_way[..]].concat()));
}

#[test]
fn what_was_never_answered_happens_late_or_never() {
    assert!(accepts(&[lost(&[1], 0), read(&[], 1, 2)]));
    assert!(accepts(&[lost(&[1], 0), read(&[], 1, 2), read(&[1], 3, 4)]));
    assert!(!accepts(&[lost(&[1], 0), read(&[1], 1, 2), read(&[], 3, 4)]));
    assert!(!accepts(&[read(&[1], 1, 2), lost(&[1], 3)]), "not before it was sent");
    let refused = Operation { outcome: Outcome::Refused, ..lost(&[1], 0) };
    assert!(!accepts(&[refused, read(&[1], 1, 2)]), "what was refused is never seen");
}

#[test]
fn what_ends_when_another_begins_is_concurrent() {
    assert!(accepts(&[write(&[1], 0, 1), read(&[], 1, 2)]));
}

#[test]
fn what_is_there_in_the_end_resolves_what_nobody_was_told() {
    let mut history = History::default();
    history.add(7, lost(&[1], 0));
    history.add(7, lost(&[2], 0));
    history.add(7, read(&[2], 5, 6));
    history.add(8, Operation { client: 2, ..write(&[1], 0, 1) });
    history.add(8, write(&[2], 0, 1));
    let verdicts = history.judge(|_, serial| serial == 2, NO_LIMITS);
    let expected = Verdicts { keys: 2, operations: 5, shared: 1, resolved: 2, ..Verdicts::default() };
    assert_eq!(verdicts, expected);
    // Seen, and then gone: it was there, so it never "did not happen".
    let verdicts = history.judge(|_, _| false, NO_LIMITS);
    assert_eq!(verdicts.broken.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [7]);
}

#[test]
fn a_search_that_is_cut_short_is_no_pass() {
    // Twenty writes at once, and a read that no order explains: 2^20 sets to be tried.
    let mut operations: Vec<Operation> = (1..=20).map(|serial| write(&[serial], 0, 10)).collect();
    operations.push(read(&[99], 1, 2));
    let few = Limits { steps: 10_000, bytes: usize::MAX };
    assert_eq!(check(&operations, few), Verdict::Undecided);
    assert_eq!(check(&operations, Limits { steps: u64::MAX, bytes: 10_000 }), Verdict::Undecided);
    let mut history = History::default();
    operations.into_iter().for_each(|operation| history.add(1, operation));
    assert_eq!(history.judge(|_, _| true, few).undecided, [1]);
    let mut history = History::default();
    (0..=OPERATIONS_MAX).for_each(|at| history.add(1, read(&[], at as u64, at as u64)));
    assert_eq!(history.judge(|_, _| true, few).undecided, [1], "more than are kept");
}

#[test]
fn a_refusal_says_how_far_the_best_order_comes() {
    let Verdict::Not(why) = check(&[write(&[1], 0, 1), read(&[1], 2, 3), read(&[], 4, 5)], NO_LIMITS) else {
        panic!("it is not linearizable");
    };
    assert!(why.contains("2 of 3 operations") && why.contains("read of {} from 4 ms to 5 ms"), "{why}");
}

/// Tries every order of every choice of the operations that need not have happened.
fn brute_force(operations: &[Operation]) -> bool {
    fn go(left: &[&Operation], state: Serials) -> bool {
        if left.iter().all(|operation| operation.outcome == Outcome::Unknown) {
            return true;
        }
        (0..left.len()).any(|at| {
            let next = left[at];
            let others: Vec<&Operation> = [&left[..at], &left[at + 1..]].concat();
            let ended_before =
                |other: &&Operation| matches!(other.outcome, Outcome::Ended(ended) if ended < next.began);
            if others.iter().any(ended_before) {
                return false;
            }
            match &next.work {
                Work::Write(serials) => go(&others, state.with(serials)),
                Work::Read(seen) => *seen == state && go(&others, state),
            }
        })
    }
    let happened: Vec<&Operation> = operations.iter().filter(|o| o.outcome != Outcome::Refused).collect();
    go(&happened, Serials::default())
}

/// Up to four writes of one serial each, and up to four reads of some of them, at few different times.
fn histories() -> impl Strategy<Value = Vec<Operation>> {
    let write = (0_u64..10, 0_u64..6, 0_u8..5);
    let read = (0_u64..10, 0_u64..4, 0_u64..16);
    (prop::collection::vec(write, 0..=4), prop::collection::vec(read, 0..=4)).prop_map(|(writes, reads)| {
        let writes = writes.into_iter().enumerate().map(|(at, (began, len, outcome))| {
            let outcome = match outcome {
                0 => Outcome::Unknown,
                1 => Outcome::Refused,
                _ => Outcome::Ended(ms(began + len)),
            };
            operation(Work::Write([at as u64].into_iter().collect()), began, outcome)
        });
        let reads = reads.into_iter().map(|(began, len, seen)| {
            let seen = (0..4).filter(|serial| seen & (1 << serial) != 0).collect();
            operation(Work::Read(seen), began, Outcome::Ended(ms(began + len)))
        });
        writes.chain(reads).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) })]

    #[test]
    fn it_says_what_trying_all_orders_says(operations in histories()) {
        prop_assert_eq!(accepts(&operations), brute_force(&operations));
    }
}
