//! Each promise is broken once: an oracle that cannot fail proves nothing.

use proto::{Digest, EventId, Offset, Revision};

use super::*;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn event(number: u128) -> EventId {
    EventId(uuid::Uuid::from_u128(number))
}

/// Feeds facts, one a millisecond, and returns which promises were broken.
fn broken(facts: &[Fact<'_>]) -> Vec<String> {
    let mut oracle = Oracle::new();
    for (ms, fact) in (0..).zip(facts) {
        oracle.observe(at(ms), fact);
    }
    oracle.end(at(facts.len() as u64));
    let mut names: Vec<_> = oracle.violations().iter().map(|violation| violation.invariant.clone()).collect();
    names.dedup();
    names
}

fn sent(serial: Serial) -> Fact<'static> {
    Fact::Sent { visitor: 1, serial, id: event(serial.into()) }
}

fn acknowledged(serial: Serial) -> Fact<'static> {
    Fact::Acknowledged { visitor: 1, serial }
}

fn taken(offset: u64, id: u128) -> Fact<'static> {
    Fact::Taken { offset: Offset(offset), id: event(id) }
}

fn read(consistency: Consistency, began: u64, seen: &[Serial]) -> Fact<'_> {
    Fact::Read(Read { node: 1, visitor: 1, began: at(began), consistency, seen })
}

fn applied(node: Node, life: u64, index: u64, revision: u64) -> Fact<'static> {
    Fact::Applied { node, life, index, revision: Revision(revision) }
}

#[test]
fn what_keeps_all_promises_breaks_none() {
    let good = [
        sent(1),
        acknowledged(1),
        sent(2),
        read(Consistency::Linearizable, 2, &[1]),
        read(Consistency::Session, 3, &[1]),
        acknowledged(2),
        read(Consistency::Local { age: Some(at(2)) }, 6, &[1]),
        read(Consistency::Linearizable, 6, &[1, 2]),
        taken(1, 1),
        taken(2, 2),
        applied(1, 1, 5, 1),
        applied(2, 1, 4, 1),
        applied(1, 2, 3, 0),
        Fact::Leads { node: 1, term: 1 },
        Fact::Leads { node: 2, term: 2 },
        Fact::Published { revision: Revision(1), manifest: Digest([1; 32]) },
        Fact::Serves { node: 1, revision: Revision(1), manifest: Digest([1; 32]), signed: true },
        Fact::AskedWithoutCloud { node: 1, answered: true },
        Fact::Healed(Healed { leader: true, ..Healed::default() }),
    ];
    assert_eq!(broken(&good), Vec::<String>::new());
}

#[test]
fn every_promise_can_be_broken() {
    let lengths = Lengths { queue: (9, 8), unapplied: (0, 1), outbox: (0, 1) };
    let manifest = Digest([1; 32]);
    let cases: Vec<(&str, Vec<Fact<'_>>)> = vec![
        (
            "acked_write_survives",
            vec![sent(1), acknowledged(1), taken(1, 1), read(Consistency::Linearizable, 3, &[])],
        ),
        (
            "replicas_agree",
            vec![
                Fact::Digest { node: 1, index: 7, digest: Digest([1; 32]) },
                Fact::Digest { node: 2, index: 7, digest: Digest([2; 32]) },
            ],
        ),
        ("applied_never_regresses", vec![applied(1, 1, 7, 0), applied(1, 1, 6, 0)]),
        ("one_leader_per_term", vec![Fact::Leads { node: 1, term: 3 }, Fact::Leads { node: 2, term: 3 }]),
        (
            "linearizable_reads",
            vec![
                sent(1),
                read(Consistency::Linearizable, 1, &[1]),
                sent(2),
                read(Consistency::Linearizable, 3, &[]),
            ],
        ),
        ("linearizable_reads", vec![read(Consistency::Local { age: None }, 0, &[9])]),
        ("read_your_writes", vec![sent(1), acknowledged(1), taken(1, 1), read(Consistency::Session, 3, &[])]),
        (
            "stale_reads_say_their_age",
            vec![
                sent(1),
                acknowledged(1),
                taken(1, 1),
                read(Consistency::Local { age: Some(at(5)) }, 10, &[]),
            ],
        ),
        ("event_reaches_cloud_exactly_once", vec![sent(1), acknowledged(1)]),
        ("event_reaches_cloud_exactly_once", vec![sent(1), taken(2, 1)]),
        ("event_reaches_cloud_exactly_once", vec![taken(1, 1)]),
        ("order_per_visitor_kept", vec![sent(1), sent(2), taken(1, 2), taken(2, 1)]),
        (
            "order_per_visitor_kept",
            vec![sent(1), sent(2), read(Consistency::Local { age: None }, 0, &[2, 1])],
        ),
        (
            "served_model_is_published_and_signed",
            vec![
                Fact::Published { revision: Revision(1), manifest },
                Fact::Serves { node: 1, revision: Revision(1), manifest, signed: false },
            ],
        ),
        (
            "served_model_is_published_and_signed",
            vec![Fact::Serves { node: 1, revision: Revision(1), manifest, signed: true }],
        ),
        ("revision_never_goes_back", vec![applied(1, 1, 5, 2), applied(1, 1, 6, 1)]),
        ("revision_never_goes_back", vec![applied(1, 1, 5, 2), applied(2, 1, 6, 1)]),
        ("reads_answer_while_cloud_is_gone", vec![Fact::AskedWithoutCloud { node: 1, answered: false }]),
        ("queues_stay_bounded", vec![Fact::Waits { node: 1, lengths }]),
        ("heals_when_faults_stop", vec![Fact::Healed(Healed::default())]),
        (
            "heals_when_faults_stop",
            vec![Fact::Healed(Healed { leader: true, lagging: vec![2], ..Healed::default() })],
        ),
    ];
    for (name, facts) in cases {
        assert_eq!(broken(&facts), [name], "{facts:?}");
    }
}

#[test]
fn the_same_event_twice_in_the_cloud_is_a_violation() {
    // A retry that lost its idempotency key: another id for the same serial.
    let again = Fact::Sent { visitor: 1, serial: 1, id: event(77) };
    let twice = [sent(1), again, acknowledged(1), taken(1, 1), taken(2, 77)];
    assert!(broken(&twice).contains(&"event_reaches_cloud_exactly_once".to_owned()));
    let one_offset_each = [sent(1), taken(1, 1), taken(2, 1)];
    assert!(broken(&one_offset_each).contains(&"event_reaches_cloud_exactly_once".to_owned()));
}
