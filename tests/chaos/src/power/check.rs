//! What the stores make of folders after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edge_store::Store;
use tokio::time::{Instant, sleep};

use super::disk::File;
use super::recording::{Moment, mark};
use crate::pop::{FIRST_BOOT, Pop, Settings};
use crate::serials::{Mark, Promised, all_counted, event};
use crate::trace::{Kind, Record};

/// Electing, applying a log and comparing takes a fraction of it, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// A node that was opened tells its term at once.
const SOON: Duration = Duration::from_secs(3);
/// Pause between two looks at it.
const PAUSE: Duration = Duration::from_millis(2);

/// What became of the nodes.
#[derive(Debug)]
pub struct Outcome {
    /// Nodes that did not open, and why.
    pub refused: BTreeMap<u64, String>,
    /// What was promised and is not so.
    pub broken: Option<String>,
}

impl Outcome {
    /// Too many nodes refused: the PoP as a whole has lost its data.
    pub fn lost_majority(&self, nodes: u64) -> bool {
        self.refused.len() as u64 * 2 >= nodes
    }
}

/// What the acknowledgements of a trace rested on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Writes that were acknowledged.
    pub count: u64,
    /// Those of which less than a majority of the disks held anything then.
    pub unfounded: Vec<String>,
}

/// Looks at the disks at the moment of each acknowledgement: a majority must hold the write for sure, in a log or in a
/// snapshot. No store is asked.
///
/// # Errors
/// Where the trace contradicts itself, or a call was not followed.
pub fn acknowledged(records: &[(u64, Record<'_>)], nodes: u64) -> Result<Acknowledged> {
    let (mut moment, mut found) = (Moment::start(), Acknowledged::default());
    let begun = records.iter().position(|(_, record)| record.kind == Kind::Start).unwrap_or(0);
    for (index, (_, record)) in records.iter().enumerate().skip(begun) {
        let Some(Mark::Acked { first, .. }) = mark(record)? else { continue };
        moment.advance(records, index)?;
        let id = *event(first)?.id.0.as_bytes();
        let holds = |file: &&File<'_>| file.synced.windows(id.len()).any(|bytes| bytes == id);
        let in_folder = |node: u64, name: &str| {
            moment.disk.synced_files(&format!("node-{node}/{name}")).iter().rev().any(holds)
        };
        let holders =
            (1..=nodes).filter(|node| in_folder(*node, "log") || in_folder(*node, "snapshots")).count();
        found.count += 1;
        if holders as u64 * 2 <= nodes {
            found
                .unfounded
                .push(format!("record {index}: event {first} was acknowledged when {holders} disks held it"));
        }
    }
    Ok(found)
}

/// Starts the nodes of a folder again, some of them after a power cut, and holds them to what was promised.
///
/// # Errors
/// Where the harness itself fails.
pub async fn check(
    dir: &Path,
    nodes: u64,
    seed: u64,
    rebooted: BTreeSet<u64>,
    promised: &Promised,
) -> Result<Outcome> {
    let after = Arc::new(Mutex::new(promised.clone()));
    let notes = Arc::clone(&after);
    let witness = Arc::new(move |promise| {
        notes.lock().unwrap_or_else(PoisonError::into_inner).note(&Mark::Promise(promise));
    });
    let boot = promised.boot.clone().unwrap_or_else(|| FIRST_BOOT.into());
    let mut pop = Pop::new(dir, Settings { boot, rebooted, ..Settings::busy(nodes, seed, witness) });
    let held = hold(&mut pop, nodes, promised, &after).await;
    let refused = pop.refused().iter().map(|(node, error)| {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        (*node, format!("{error}{}", cause.unwrap_or_default()))
    });
    let outcome =
        Outcome { refused: refused.collect(), broken: held.err().map(|error| format!("{error:#}")) };
    pop.stop_all().await;
    Ok(outcome)
}

async fn hold(pop: &mut Pop, nodes: u64, promised: &Promised, after: &Mutex<Promised>) -> Result<()> {
    // First each by itself: a term must be what the node remembers, not what it hears.
    pop.partition();
    for node in 1..=nodes {
        pop.boot(node).await?;
    }
    for (node, store) in pop.stores() {
        remembers(node, &store, promised.terms.get(&node).copied().unwrap_or(0)).await?;
    }
    pop.heal();
    if pop.refused().len() as u64 * 2 >= nodes {
        // Without a majority there is nothing to ask.
        return Ok(());
    }
    pop.form().await.context("forming")?;
    let (_, leader) = pop.leader(PATIENCE).await?;
    all_counted(&leader, &promised.acked, PATIENCE).await?;
    let revision = leader.changes().borrow().revision.0;
    ensure!(revision >= promised.revision, "bundle {} was active, {revision} is now", promised.revision);
    pop.agree(PATIENCE).await?;
    let after = after.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(after.contradictions.is_empty(), "{}", after.contradictions.join("; "));
    Ok(())
}

async fn remembers(node: u64, store: &Store, voted: u64) -> Result<()> {
    let until = Instant::now() + SOON;
    while store.status().term < voted {
        let term = store.status().term;
        ensure!(Instant::now() < until, "node {node} voted in term {voted}, and is in term {term} now");
        sleep(PAUSE).await;
    }
    Ok(())
}
