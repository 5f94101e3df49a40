//! `rockpool status`: PoPs, leaders, lag, revision, model versions, queue depths, on one screen.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use proto::control::{Membership, PopView, Role};

use super::admin::Cloud;
use super::say;
use crate::table::{table, thousands};

/// A node that was not heard of for this long is marked.
const SILENT_MS: u64 = 5_000;

/// What to show.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    cloud: Cloud,
}

/// Runs it.
pub async fn run(command: Status) -> anyhow::Result<()> {
    let control = command.cloud.control()?;
    let (pops, counts) = (control.pops().await?, control.event_counts().await?);
    say(&screen(&pops, now_ms()));
    say(&format!("\nevents in the cloud: {}", thousands(counts.total)));
    for pop in pops.iter().filter(|pop| pop.lost > 0) {
        say(&format!("events of {} that were given up after a restore: {}", pop.pop, thousands(pop.lost)));
    }
    Ok(())
}

/// What a person must act on; one line a PoP, before all else.
fn warnings(pops: &[PopView]) -> Vec<String> {
    let warning = |pop: &PopView| match (&pop.ahead, &pop.diverged) {
        (Some(ahead), _) => Some(format!(
            "{} is ahead of this cloud: {ahead}. `rockpool cloud accept-loss --pop {}` gives that up and goes on",
            pop.pop, pop.pop
        )),
        (None, Some(why)) => Some(format!("{} sends no events: {why}", pop.pop)),
        (None, None) => None,
    };
    pops.iter().filter_map(warning).collect()
}

/// The screen, as text.
pub fn screen(pops: &[PopView], now_ms: u64) -> String {
    if pops.is_empty() {
        return "no PoP has reported to this cloud yet".to_owned();
    }
    let mut rows = Vec::new();
    for pop in pops {
        let committed = pop.nodes.iter().map(|node| node.report.applied).max().unwrap_or(0);
        for node in &pop.nodes {
            let report = &node.report;
            let silent_ms = now_ms.saturating_sub(node.seen_at_ms);
            let silent = (silent_ms > SILENT_MS).then(|| format!("silent for {} s", silent_ms / 1000));
            let role = match (node.membership, report.role) {
                (Membership::Left | Membership::Revoked | Membership::Waiting, _) => {
                    let place = match node.membership {
                        Membership::Revoked => "revoked",
                        Membership::Waiting => "waits to join",
                        _ => "no member",
                    };
                    silent.map_or_else(|| place.to_owned(), |silent| format!("{place}, {silent}"))
                }
                _ if silent.is_some() => silent.unwrap_or_default(),
                (_, Role::Leader) => "leader".to_owned(),
                (_, Role::Follower) => "follower".to_owned(),
                (_, Role::Candidate) => "candidate".to_owned(),
                (_, Role::Learner) => "learner".to_owned(),
            };
            rows.push(vec![
                format!("{}/{}", pop.pop, node.node),
                role,
                report.term.to_string(),
                thousands(report.applied),
                thousands(committed.saturating_sub(report.applied)),
                thousands(report.outbox),
                report.in_flight.to_string(),
                report.revision.to_string(),
                report.retrieval.clone().unwrap_or_else(|| "–".to_owned()),
                report.ranker.clone().unwrap_or_else(|| "–".to_owned()),
                report.engine.clone(),
                report.bundle_error.clone().unwrap_or_default(),
            ]);
        }
    }
    let head = [
        "node",
        "role",
        "term",
        "applied",
        "lag",
        "outbox",
        "in flight",
        "revision",
        "retrieval",
        "ranker",
        "engine",
        "refused",
    ];
    let mut lines = warnings(pops);
    lines.push(table(&head, &rows));
    lines.join("\n")
}

/// Milliseconds since 1970 UTC.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
