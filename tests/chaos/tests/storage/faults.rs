//! A disk that is full, and one that cannot sync: of one node of three, while it runs. The worst one: the leader.

use std::collections::BTreeSet;

use chaos::driver::{Driver, Orders, Place, Stir};
use chaos::pop::Promise;
use chaos::power;
use chaos::power::check::check;
use chaos::power::recording::records;
use chaos::serials::{Mark, Promised};
use chaos::trace::Kind;

use crate::{number, scratch};

fn leader(marks: &[Mark]) -> Option<u64> {
    let leads = |mark: &Mark| match mark {
        Mark::Promise(Promise::Leads { node, term }) => Some((*term, *node)),
        _ => None,
    };
    marks.iter().filter_map(leads).max().map(|(_, node)| node)
}

fn acked(marks: &[Mark], by: impl Fn(u64) -> bool) -> usize {
    marks.iter().filter(|mark| matches!(mark, Mark::Acked { node, .. } if by(*node))).count()
}

/// Breaks the leader's disk with a rule about a part of its folder, and returns what is there to be looked at: place, broken node, driver.
fn broken_leader(dir: &std::path::Path, rule: &str, part: &str, seed: u64) -> (Place, u64, Driver) {
    println!("SEED={seed}");
    let place = Place::new(dir).unwrap();
    let orders = Orders { stir: Stir::Snapshots, ..Orders::busy(3, seed) };
    let mut driver = Driver::start(&place, &orders).unwrap();
    let marks = driver.until("it writes", |marks| acked(marks, |_| true) > 30).unwrap();
    let broken = leader(&marks).unwrap();
    place.faults(&format!("{rule} node-{broken}/{part}\n")).unwrap();
    let before = marks.len();
    driver
        .until("the others go on", |marks| {
            leader(marks) != Some(broken)
                && acked(&marks[before.min(marks.len())..], |node| node != broken) > 40
        })
        .unwrap();
    (place, broken, driver)
}

/// Whoever writes through the node hears why it cannot, and so does whoever reads its log.
fn says_why(place: &Place, broken: u64, why: &str) {
    let says = |mark: &Mark| matches!(mark, Mark::Refused { node, reason } if *node == broken && reason.contains(why));
    let marks = place.marks().unwrap();
    let refused: Vec<_> = marks.iter().filter(|mark| matches!(mark, Mark::Refused { .. })).collect();
    assert!(marks.iter().any(says), "{refused:?}");
    let log = place.log().unwrap();
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(why)), "{log}");
}

/// Starts the node again, and holds the PoP to what was acknowledged.
async fn recovers(place: &Place, broken: u64, mut driver: Driver) -> Promised {
    let before = place.marks().unwrap().len();
    driver.tell(&format!("restart {broken}")).unwrap();
    let again = |marks: &[Mark]| acked(&marks[before..], |node| node == broken) > 10;
    driver.until("the node acknowledges again after a restart", again).unwrap();
    driver.tell("quit").unwrap();
    assert!(driver.ended().unwrap().success());
    let mut promised = Promised::default();
    place.marks().unwrap().iter().for_each(|mark| promised.note(mark));
    let outcome = check(&place.root(), 3, 1, BTreeSet::new(), &promised).await.unwrap();
    assert!(outcome.refused.is_empty() && outcome.broken.is_none(), "{outcome:?}");
    promised
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_its_node_and_no_other() {
    let dir = scratch();
    let (place, broken, driver) = broken_leader(dir.path(), "write 28", "", number("SEED", 21));
    says_why(&place, broken, "No space left on device");
    place.faults("").unwrap();
    recovers(&place, broken, driver).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_synced_is_never_acknowledged_from_again() {
    let dir = scratch();
    let (place, broken, mut driver) = broken_leader(dir.path(), "sync 5", "log/", number("SEED", 22));
    says_why(&place, broken, "Input/output error");
    // The disk says that all is well again. The kernel has forgotten what it could not write; the node must not.
    place.faults("").unwrap();
    let before = place.marks().unwrap().len();
    driver.until("the others go on", |marks| acked(&marks[before..], |node| node != broken) > 40).unwrap();
    let trace = std::fs::read(place.trace()).unwrap();
    let records = records(&trace);
    let own = |path: &[u8]| path.starts_with(format!("node-{broken}/log/").as_bytes());
    let failed =
        records.iter().position(|(_, record)| record.kind == Kind::SyncFailed && own(record.path)).unwrap();
    let synced = records[failed..].iter().find(|(_, record)| record.kind == Kind::Sync && own(record.path));
    assert_eq!(synced, None, "a log that could not be synced is synced again as if nothing had been");
    let restarted = records.len();
    recovers(&place, broken, driver).await;
    // What it could not sync was in the page cache when it started again, and perhaps nowhere else.
    let trace = std::fs::read(place.trace()).unwrap();
    let report = power::cut_one(&trace, broken, restarted, 12, number("SEED", 22)).await.unwrap();
    println!("{report}");
    assert!(report.is_clean() && report.refused == 0, "{report}");
}
