//! Bugs that were planted, to see that the harness notices: each must be caught within few seeds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::fuzz;

/// Within so many seeds a bug must be caught.
pub const SEEDS_MAX: u64 = 50;
/// Power cuts of the one run in which a bug must be caught.
const CUTS: u64 = 50;
/// What a power cut breaks: nothing acknowledged is lost, nothing promised is taken back.
const POWER: &str = "acked_write_survives";

/// Where a bug shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// In the simulation: within some seeds.
    Seeds,
    /// On real files: within one run of some power cuts.
    PowerCuts,
}

/// A bug behind a switch.
#[derive(Debug, Clone, Copy)]
pub struct Bug {
    /// The switch: a failpoint of the same name.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Where it shows.
    pub runs: Runs,
    /// What may catch it.
    pub caught_by: &'static [&'static str],
}

/// All of them.
pub const PLANTED: &[Bug] = &[
    Bug {
        name: "acknowledged_before_sync",
        what: "an append calls back when it is written, not when it is durable",
        runs: Runs::Seeds,
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
        runs: Runs::Seeds,
        caught_by: &["one_leader_per_term", "acked_write_survives", "replicas_agree"],
    },
    Bug {
        name: "hole_on_truncate",
        what: "truncating the log also removes the entry before",
        runs: Runs::Seeds,
        caught_by: &["acked_write_survives", "replicas_agree", "heals_when_faults_stop"],
    },
    Bug {
        name: "applied_without_last_applied",
        what: "effects reach the disk without the position they stand for",
        runs: Runs::Seeds,
        caught_by: &["replicas_agree", "acked_write_survives", "heals_when_faults_stop"],
    },
    Bug {
        name: "revision_not_persisted",
        what: "the active revision is not stored with the state",
        runs: Runs::Seeds,
        caught_by: &["revision_never_goes_back", "replicas_agree"],
    },
    Bug {
        name: "dedupe_window_forgotten_on_restart",
        what: "a restarted node counts what it has counted",
        runs: Runs::Seeds,
        caught_by: &["replicas_agree", "event_reaches_cloud_exactly_once"],
    },
    Bug {
        name: "snapshot_renamed_without_sync",
        what: "a snapshot gets its name before its bytes are durable",
        runs: Runs::PowerCuts,
        caught_by: &[POWER],
    },
    Bug {
        name: "client_certificate_not_checked",
        what: "whoever stands at the peers' door comes in",
        runs: Runs::Seeds,
        caught_by: &["served_model_is_published_and_signed"],
    },
    Bug {
        name: "follower_read_called_linearizable",
        what: "a follower answers a linearizable read from what it has",
        runs: Runs::Seeds,
        caught_by: &["acked_write_survives", "linearizable_reads"],
    },
    Bug {
        name: "leader_read_without_majority",
        what: "a leader answers a linearizable read without asking whether it still leads",
        runs: Runs::Seeds,
        caught_by: &["acked_write_survives", "linearizable_reads", "stale_reads_say_their_age"],
    },
    Bug {
        name: "session_token_ignored",
        what: "a read that brings a token does not wait for it",
        runs: Runs::Seeds,
        caught_by: &["read_your_writes", "acked_write_survives"],
    },
    Bug {
        name: "stale_read_called_fresh",
        what: "a node says age 0, however long it was cut off",
        runs: Runs::Seeds,
        caught_by: &["stale_reads_say_their_age"],
    },
    Bug {
        name: "retry_without_idempotency_key",
        what: "a write whose outcome is unknown is sent again under new event ids",
        runs: Runs::Seeds,
        caught_by: &["event_reaches_cloud_exactly_once", "linearizable_reads"],
    },
    Bug {
        name: "outbox_trimmed_before_acknowledgement",
        what: "the outbox forgets events before the cloud has them",
        runs: Runs::Seeds,
        caught_by: &["event_reaches_cloud_exactly_once", "heals_when_faults_stop"],
    },
    Bug {
        name: "outbox_unbounded",
        what: "events are taken although too many wait for the cloud",
        runs: Runs::Seeds,
        caught_by: &["queues_stay_bounded"],
    },
];

/// What came of one bug.
#[derive(Debug, Clone, Serialize)]
pub struct Caught {
    /// Its name.
    pub bug: String,
    /// After how many seeds, or runs of power cuts, it was caught; none: it was not.
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
                None => writeln!(f, "{:<40} NOT caught", bug.bug)?,
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
    for bug in PLANTED {
        let caught = match bug.runs {
            Runs::Seeds => catch(&program, bug, seed),
            Runs::PowerCuts => catch_by_power_cuts(&program, bug, seed)?,
        };
        said(&caught);
        bugs.push(caught);
    }
    Ok(Report { bugs })
}

/// Caught is only what breaks a promise that the bug is known to break: a crash of the harness is no catch.
fn catch(program: &Path, bug: &Bug, seed: u64) -> Caught {
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

/// The processes whose power is cut have the bug; those that look at what is left do not.
fn catch_by_power_cuts(program: &Path, bug: &Bug, seed: u64) -> anyhow::Result<Caught> {
    let mut command = Command::new(program);
    command.args(["power-cuts", "--seed", &seed.to_string(), "--count", &CUTS.to_string()]);
    // Traces of what it broke are nobody's.
    let traces = tempfile::tempdir()?;
    command.env("FAILPOINTS", format!("{}=return", bug.name)).env("TMPDIR", traces.path());
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // A report comes with every recording, and the last one holds all.
    let last = said.rsplit("power cuts from seed").next().unwrap_or_default();
    let broken = last.lines().filter(|line| line.trim_start().starts_with("BROKEN")).count() as u64;
    anyhow::ensure!(
        output.status.success() || broken > 0,
        "power cuts with {} did not run: {}",
        bug.name,
        String::from_utf8_lossy(&output.stderr)
    );
    let caught = broken > 0 && bug.caught_by.contains(&POWER);
    let by = BTreeMap::from([(POWER.to_owned(), broken)]);
    Ok(Caught { bug: bug.name.to_owned(), seeds: caught.then_some(1), by })
}
