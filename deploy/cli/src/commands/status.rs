//! `rockpool status`: PoPs, leaders, lag, revision, model versions, queue depths, on one screen.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use proto::control::{PopView, Role};

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
    Ok(())
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
            let role = match (silent_ms > SILENT_MS, report.role) {
                (true, _) => format!("silent for {} s", silent_ms / 1000),
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
    table(&head, &rows)
}

/// Milliseconds since 1970 UTC.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
