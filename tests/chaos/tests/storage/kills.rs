//! SIGKILL in the place of any call that changes the disk, again and again on the same folders.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;

use chaos::driver::{Driver, Orders, Place};
use chaos::power::check::check;
use chaos::serials::{Mark, Promised};

use crate::{number, scratch};

/// Serials between two processes.
const SERIALS: u64 = 1_000_000;

async fn killed_again_and_again(nodes: u64, rounds: u64, seed: u64) {
    println!("SEED={seed}, {nodes} nodes");
    let (dir, mut random) = (scratch(), fastrand::Rng::with_seed(seed));
    let place = Place::new(dir.path()).unwrap();
    for round in 0..rounds {
        let kill_at = Some(random.u64(1..300 * nodes));
        let first = 1 + round * SERIALS;
        let orders = Orders { first, kill_at, ..Orders::busy(nodes, random.u64(..)) };
        let status = Driver::start(&place, &orders).unwrap().ended().unwrap();
        assert_eq!(status.signal(), Some(9), "round {round}: it writes until it is killed");
        let mut promised = Promised::default();
        for mark in place.marks().unwrap() {
            let opened = !matches!(&mark, Mark::Refused { reason, .. } if reason.contains("Corrupt"));
            assert!(opened, "round {round}: {mark:?}");
            promised.note(&mark);
        }
        assert_eq!(promised.contradictions, Vec::<String>::new(), "round {round}");
        let outcome = check(&place.root(), nodes, random.u64(..), BTreeSet::new(), &promised).await.unwrap();
        assert!(outcome.refused.is_empty() && outcome.broken.is_none(), "round {round}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_killed_at_any_call_has_all_that_it_acknowledged() {
    killed_again_and_again(1, number("KILLS", 8), number("SEED", 11)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_killed_at_any_call_have_all_that_they_acknowledged() {
    killed_again_and_again(3, number("KILLS", 4), number("SEED", 12)).await;
}
