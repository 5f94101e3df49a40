//! Writes that can be told apart: every event has a serial of its own, and what became of it is a line in a file.
//!
//! The file lies under the watched root, so that its lines stand in the trace at the moment they were written: what was
//! acknowledged before a power cut is a fact of the trace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use edge_store::Store;
use proto::command::{Command, Effect};
use proto::event::EventKind;
use proto::limits::TRACK_EVENTS_MAX;
use proto::{Event, EventId, ItemId, Offset, TraceId, UserId, VisitorId};
use tokio::time::{Duration, Instant};

use crate::pop::Promise;

/// The file's name below the root.
pub const MARKS: &str = "marks";
/// Visitors who do all this.
const VISITORS: u64 = 20;
/// Largest answer of the outbox.
const OUTBOX_BYTES: usize = 64 << 20;

/// What a run says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// The boot of the machine in which the process runs.
    Boot(String),
    /// All nodes run and one leads.
    Up,
    /// So many events from a serial on are acknowledged, through a node.
    Acked {
        /// The first.
        first: u64,
        /// How many.
        count: u64,
        /// Who acknowledged.
        node: u64,
    },
    /// A bundle is active.
    Revision(u64),
    /// A promise of a node.
    Promise(Promise),
    /// A write was refused by a node, or the node did not open.
    Refused {
        /// Who.
        node: u64,
        /// What it said.
        reason: String,
    },
    /// The writing is done.
    Done,
}

impl Mark {
    /// As a line.
    pub fn line(&self) -> String {
        match self {
            Mark::Boot(boot) => format!("boot {boot}\n"),
            Mark::Up => "up\n".into(),
            Mark::Acked { first, count, node } => format!("acked {first} {count} {node}\n"),
            Mark::Revision(revision) => format!("revision {revision}\n"),
            Mark::Promise(Promise::Vote { node, term, candidate }) => {
                format!("vote {node} {term} {candidate}\n")
            }
            Mark::Promise(Promise::Leads { node, term }) => format!("leads {node} {term}\n"),
            Mark::Refused { node, reason } => format!("refused {node} {}\n", reason.replace('\n', " ")),
            Mark::Done => "done\n".into(),
        }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// Where it is none of these.
    pub fn parse(line: &str) -> Result<Mark> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "refused" {
            let (node, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            return Ok(Mark::Refused { node: node.parse()?, reason: reason.into() });
        }
        if word == "boot" {
            return Ok(Mark::Boot(rest.into()));
        }
        let numbers: Vec<u64> = rest.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        Ok(match (word, numbers.as_slice()) {
            ("up", []) => Mark::Up,
            ("done", []) => Mark::Done,
            ("acked", [first, count, node]) => Mark::Acked { first: *first, count: *count, node: *node },
            ("revision", [revision]) => Mark::Revision(*revision),
            ("vote", [node, term, candidate]) => {
                Mark::Promise(Promise::Vote { node: *node, term: *term, candidate: *candidate })
            }
            ("leads", [node, term]) => Mark::Promise(Promise::Leads { node: *node, term: *term }),
            _ => bail!("no mark: {line}"),
        })
    }
}

/// The file of marks, being written.
#[derive(Debug)]
pub struct Marks(File);

impl Marks {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self(OpenOptions::new().append(true).create(true).open(root.join(MARKS))?))
    }

    /// Writes a mark in one call.
    pub fn say(&self, mark: &Mark) {
        let line = mark.line();
        let written = (&self.0).write(line.as_bytes()).expect("the marks are never made to fail");
        assert_eq!(written, line.len(), "a mark is written in one call");
    }
}

/// What was promised up to a moment.
#[derive(Debug, Clone, Default)]
pub struct Promised {
    /// The boot in which all this was; none was named: the first.
    pub boot: Option<String>,
    /// Serials of events that were acknowledged.
    pub acked: BTreeSet<u64>,
    /// The newest bundle that was active.
    pub revision: u64,
    /// The highest term in which each node voted.
    pub terms: BTreeMap<u64, u64>,
    /// Whom each node voted for in a term.
    pub votes: BTreeMap<(u64, u64), u64>,
    /// Promises that contradict each other.
    pub contradictions: Vec<String>,
}

impl Promised {
    /// Takes in a mark.
    pub fn note(&mut self, mark: &Mark) {
        match mark {
            Mark::Boot(boot) => self.boot = Some(boot.clone()),
            Mark::Acked { first, count, .. } => self.acked.extend(*first..first + count),
            Mark::Revision(revision) => self.revision = self.revision.max(*revision),
            Mark::Promise(Promise::Vote { node, term, candidate }) => self.vote(*node, *term, *candidate),
            Mark::Promise(Promise::Leads { node, term }) => self.vote(*node, *term, *node),
            // As a store that does not open says it.
            Mark::Refused { node, reason } if reason.starts_with("Corrupt") => {
                self.contradictions.push(format!("node {node}: {reason}"));
            }
            Mark::Up | Mark::Refused { .. } | Mark::Done => {}
        }
    }

    /// The same as marks, so that another run can be held to it.
    pub fn marks(&self) -> Vec<Mark> {
        let acked = self.acked.iter().map(|first| Mark::Acked { first: *first, count: 1, node: 0 });
        let votes = self.votes.iter().map(|((node, term), candidate)| {
            Mark::Promise(Promise::Vote { node: *node, term: *term, candidate: *candidate })
        });
        let boot = self.boot.iter().cloned().map(Mark::Boot);
        acked.chain(votes).chain([Mark::Revision(self.revision)]).chain(boot).collect()
    }

    fn vote(&mut self, node: u64, term: u64, candidate: u64) {
        let highest = self.terms.entry(node).or_default();
        *highest = term.max(*highest);
        let before = *self.votes.entry((node, term)).or_insert(candidate);
        if before != candidate {
            self.contradictions
                .push(format!("node {node} voted for {before} and for {candidate} in term {term}"));
        }
    }
}

/// The event of a serial.
///
/// # Errors
/// Never: names are short.
pub fn event(serial: u64) -> Result<Event> {
    let item = ItemId::new(format!("item-{}", serial % 50))?;
    Ok(Event {
        id: EventId(uuid::Uuid::from_u128(u128::from(serial))),
        visitor: VisitorId::User(UserId::new(format!("visitor-{}", serial % VISITORS))?),
        at_ms: 1,
        trace: TraceId::default(),
        kind: EventKind::Rating { item, stars: 4.0 },
    })
}

/// A command that counts these serials.
///
/// # Errors
/// Never: names are short.
pub fn track(serials: impl IntoIterator<Item = u64>) -> Result<Command> {
    let events = serials.into_iter().map(event).collect::<Result<_>>()?;
    Ok(Command::Track { events, received_at_ms: 1 })
}

/// Checks through a node that each of these serials was counted: all of them are duplicates. And that none stands in the
/// outbox twice.
///
/// # Errors
/// Where one is missing or doubled, or the node does not answer.
pub async fn all_counted(store: &Store, serials: &BTreeSet<u64>, within: Duration) -> Result<()> {
    let until = Instant::now() + within;
    let serials: Vec<u64> = serials.iter().copied().collect();
    for some in serials.chunks(TRACK_EVENTS_MAX) {
        let proposed = loop {
            match store.propose(track(some.iter().copied())?, until).await {
                Ok(proposed) => break proposed,
                Err(error) if Instant::now() < until => drop(error),
                Err(error) => return Err(error).context("no write is acknowledged any more"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let Effect::Tracked { accepted, .. } = proposed.effect else {
            bail!("not tracked: {:?}", proposed.effect)
        };
        ensure!(
            accepted == 0,
            "{accepted} acknowledged events are lost, of {}..={}",
            some[0],
            some[some.len() - 1]
        );
    }
    let read = store.read_index(until).await.context("a linearizable read")?;
    ensure!(store.wait_applied(read, within).await, "what was read is not applied");
    let outbox = store.outbox(Offset(0), usize::MAX, OUTBOX_BYTES).await?;
    let ids: BTreeSet<_> = outbox.iter().map(|(_, event)| event.id).collect();
    ensure!(ids.len() == outbox.len(), "an event stands in the outbox twice");
    Ok(())
}
