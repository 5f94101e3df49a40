//! What is durable when: counted, call by call.

use chaos::driver::{Driver, Orders, Place, Stir};
use chaos::pop::Promise;
use chaos::power::check::{Acknowledged, acknowledged};
use chaos::power::recording::{mark, records};
use chaos::serials::Mark;
use chaos::trace::{Kind, Record};

use crate::{number, scratch};

/// Fewer than there are entries between two snapshots: those purge, and that is synced too.
const WRITES: u64 = 30;

/// The trace of a PoP in which one writer writes, and nothing else happens.
fn quiet(nodes: u64, seed: u64) -> Vec<u8> {
    println!("SEED={seed}");
    let dir = scratch();
    let place = Place::new(dir.path()).unwrap();
    let orders = Orders { writes: WRITES, writers: 1, stir: Stir::Nothing, ..Orders::busy(nodes, seed) };
    assert!(Driver::start(&place, &orders).unwrap().ended().unwrap().success());
    std::fs::read(place.trace()).unwrap()
}

fn position(records: &[(u64, Record<'_>)], wanted: impl Fn(&Mark) -> bool) -> usize {
    let is = |record: &Record<'_>| mark(record).unwrap().is_some_and(|mark| wanted(&mark));
    records.iter().position(|(_, record)| is(record)).unwrap()
}

fn log_calls(records: &[(u64, Record<'_>)], node: u64, kind: Kind) -> u64 {
    let log = format!("node-{node}/log/r-");
    records
        .iter()
        .filter(|(_, record)| record.kind == kind && record.path.starts_with(log.as_bytes()))
        .count() as u64
}

#[test]
fn a_group_is_one_fdatasync_on_each_node() {
    for nodes in [1, 3] {
        let trace = quiet(nodes, number("SEED", 31) + nodes);
        let records = records(&trace);
        let (up, done) =
            (position(&records, |mark| *mark == Mark::Up), position(&records, |mark| *mark == Mark::Done));
        let leads = |mark: &Mark| matches!(mark, Mark::Promise(Promise::Leads { .. }));
        let Some(Mark::Promise(Promise::Leads { node: leader, .. })) =
            mark(&records[position(&records, leads)].1).unwrap()
        else {
            unreachable!("looked for")
        };
        for node in 1..=nodes {
            let syncs = log_calls(&records[up..done], node, Kind::Sync);
            println!("{nodes} nodes, {WRITES} writes: node {node} called fdatasync {syncs} times");
            if node == leader {
                assert_eq!(syncs, WRITES, "the leader: one a group");
            } else {
                // Two groups that come together share one.
                assert!((WRITES / 2..=WRITES).contains(&syncs), "a follower: {syncs}");
            }
        }
    }
}

#[test]
fn what_is_acknowledged_is_on_a_majority_of_disks() {
    let trace = quiet(3, number("SEED", 41));
    let founded = acknowledged(&records(&trace), 3).unwrap();
    assert_eq!(founded, Acknowledged { count: WRITES, unfounded: Vec::new() });
}

/// Raft-log's record of a vote: kind, term, whether the node leads by it, candidate.
fn vote_record(term: u64, leads: bool, candidate: u64) -> Vec<u8> {
    [&0_u32.to_be_bytes()[..], &term.to_be_bytes(), &[u8::from(leads)], &candidate.to_be_bytes()].concat()
}

#[test]
fn a_vote_is_one_fdatasync_before_it_is_given() {
    let trace = quiet(3, number("SEED", 51));
    let records = records(&trace);
    let mut votes = 0;
    for (given, (_, record)) in records.iter().enumerate() {
        let (node, term, candidate) = match mark(record).unwrap() {
            Some(Mark::Promise(Promise::Vote { node, term, candidate })) => (node, term, candidate),
            Some(Mark::Promise(Promise::Leads { node, term })) => (node, term, node),
            _ => continue,
        };
        let vote = vote_record(term, false, candidate);
        let log = format!("node-{node}/log/r-");
        let writes = |record: &Record<'_>| {
            record.kind == Kind::Write
                && record.path.starts_with(log.as_bytes())
                && record.bytes.windows(vote.len()).any(|bytes| bytes == vote)
        };
        let written = records[..given].iter().position(|(_, record)| writes(record));
        let written =
            written.unwrap_or_else(|| panic!("node {node} voted in term {term} and did not write it"));
        let syncs = log_calls(&records[written..given], node, Kind::Sync);
        if candidate == node {
            // Its vote for itself, and that it leads by it.
            assert!(syncs >= 1, "node {node} leads by a vote that is on no disk");
        } else {
            assert_eq!(syncs, 1, "node {node}, term {term}");
        }
        votes += 1;
    }
    assert!(votes >= 2, "a vote, and a leader");
}
