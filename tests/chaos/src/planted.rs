//! Bugs that were planted, to see that the harness notices: each must be caught within few seeds.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::fuzz;

/// Within so many seeds a bug must be caught.
pub const SEEDS_MAX: u64 = 50;

/// A bug behind a switch.
#[derive(Debug, Clone, Copy)]
pub struct Bug {
    /// The switch: a failpoint of the same name.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// What may catch it.
    pub caught_by: &'static [&'static str],
}

/// The bugs that the simulation must catch.
pub const SIMULATED: &[Bug] = &[
    Bug {
        name: "acknowledged_before_sync",
        what: "an append calls back when it is written, not when it is durable",
        caught_by: &[
            "acked_write_survives",
            "linearizable_reads",
            "replicas_agree",
            "event_reaches_cloud_exactly_once",
        ],
    },
    Bug {
        name: "vote_not_persisted",
        what: "a vote is granted and not written",
        caught_by: &["one_leader_per_term", "acked_write_survives", "replicas_agree"],
    },
    Bug {
        name: "hole_on_truncate",
        what: "truncating the log also removes the entry before",
        caught_by: &["acked_write_survives", "replicas_agree", "heals_when_faults_stop"],
    },
    Bug {
        name: "applied_without_last_applied",
        what: "effects reach the disk without the position they stand for",
        caught_by: &["replicas_agree", "acked_write_survives", "heals_when_faults_stop"],
    },
    Bug {
        name: "revision_not_persisted",
        what: "the active revision is not stored with the state",
        caught_by: &["revision_never_goes_back", "replicas_agree"],
    },
    Bug {
        name: "dedupe_window_forgotten_on_restart",
        what: "a restarted node counts what it has counted",
        caught_by: &["replicas_agree", "event_reaches_cloud_exactly_once"],
    },
    Bug {
        name: "snapshot_without_outbox",
        what: "a snapshot leaves out the events that the cloud lacks",
        caught_by: &["replicas_agree", "event_reaches_cloud_exactly_once", "heals_when_faults_stop"],
    },
    Bug {
        name: "follower_read_called_linearizable",
        what: "a follower answers a linearizable read from what it has",
        caught_by: &["acked_write_survives", "linearizable_reads"],
    },
    Bug {
        name: "leader_read_without_majority",
        what: "a leader answers a linearizable read without asking whether it still leads",
        caught_by: &["acked_write_survives", "linearizable_reads", "stale_reads_say_their_age"],
    },
    Bug {
        name: "session_token_ignored",
        what: "a read that brings a token does not wait for it",
        caught_by: &["read_your_writes", "acked_write_survives"],
    },
    Bug {
        name: "stale_read_called_fresh",
        what: "a node says age 0, however long it was cut off",
        caught_by: &["stale_reads_say_their_age"],
    },
    Bug {
        name: "retry_without_idempotency_key",
        what: "a write whose outcome is unknown is sent again under new event ids",
        caught_by: &["event_reaches_cloud_exactly_once", "linearizable_reads"],
    },
    Bug {
        name: "outbox_trimmed_before_acknowledgement",
        what: "the outbox forgets events before the cloud has them",
        caught_by: &["event_reaches_cloud_exactly_once", "heals_when_faults_stop"],
    },
    Bug {
        name: "lost_batch_taken_for_sent",
        what: "after a failure the uplink goes on without asking where the cloud stands",
        caught_by: &["heals_when_faults_stop", "event_reaches_cloud_exactly_once"],
    },
    Bug {
        name: "outbox_unbounded",
        what: "events are taken although too many wait for the cloud",
        caught_by: &["queues_stay_bounded"],
    },
];

/// What came of one bug.
#[derive(Debug, Clone, Serialize)]
pub struct Caught {
    /// Its name.
    pub bug: String,
    /// After how many seeds it was caught; none: it was not.
    pub seeds: Option<u64>,
    /// By which promises, and how often.
    pub by: BTreeMap<String, u64>,
}

/// What came of all bugs.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// One a bug.
    pub bugs: Vec<Caught>,
}

impl Report {
    /// Bugs that were caught.
    pub fn caught(&self) -> usize {
        self.bugs.iter().filter(|bug| bug.seeds.is_some()).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bug in &self.bugs {
            let by: Vec<_> = bug.by.iter().map(|(name, count)| format!("{name} ×{count}")).collect();
            match bug.seeds {
                Some(seeds) => {
                    writeln!(f, "{:<40} caught after {seeds} seeds by {}", bug.bug, by.join(", "))?
                }
                None => writeln!(f, "{:<40} NOT caught within {SEEDS_MAX} seeds", bug.bug)?,
            }
        }
        write!(f, "caught {} of {}", self.caught(), self.bugs.len())
    }
}

/// Switches on one bug after the other, each until it is caught.
///
/// # Errors
/// Where this program cannot be started again.
pub fn run(seed: u64, mut said: impl FnMut(&Caught)) -> anyhow::Result<Report> {
    let program = std::env::current_exe()?;
    let mut bugs = Vec::new();
    for bug in SIMULATED {
        let caught = catch(&program, bug, seed);
        said(&caught);
        bugs.push(caught);
    }
    Ok(Report { bugs })
}

/// Caught is only what breaks a promise that the bug is known to break: a crash of the harness is no catch.
fn catch(program: &std::path::Path, bug: &Bug, seed: u64) -> Caught {
    let mut caught = Caught { bug: bug.name.to_owned(), seeds: None, by: BTreeMap::new() };
    for at in 0..SEEDS_MAX {
        let outcome = fuzz::simulate(program, seed.wrapping_add(at), Some(bug.name));
        for violation in &outcome.violations {
            *caught.by.entry(violation.invariant.clone()).or_default() += 1;
        }
        if outcome.violations.iter().any(|violation| bug.caught_by.contains(&violation.invariant.as_str())) {
            caught.seeds = Some(at + 1);
            break;
        }
    }
    caught
}
