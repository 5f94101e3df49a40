//! `rockpool rollout …`: how far each bundle has come, and a person's verdict over the one on trial.

use clap::{Args, Subcommand};
use proto::PopId;
use proto::control::{AnswerCounts, RolloutView};

use super::admin::Cloud;
use super::{say, utc};
use crate::table::{table, thousands};

/// Rollouts: a bundle is tried on canary PoPs, then promoted to all or stopped.
#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// List how far each bundle has come, and why.
    List {
        /// Which cloud.
        #[command(flatten)]
        cloud: Cloud,
    },
    /// Offer the bundle on trial to every PoP, before its verdict.
    Promote(Verdict),
    /// Stop the bundle on trial: its canaries get the last promoted contents.
    Stop(Verdict),
}

/// A verdict by hand.
#[derive(Debug, Args)]
pub struct Verdict {
    #[command(flatten)]
    cloud: Cloud,
    /// The revision on trial.
    revision: u64,
    /// Why, for the audit log.
    #[arg(long, default_value = "")]
    reason: String,
}

/// Runs it.
pub async fn run(command: Rollout) -> anyhow::Result<()> {
    match command {
        Rollout::List { cloud } => say(&screen(&cloud.control()?.rollouts().await?)),
        Rollout::Promote(Verdict { cloud, revision, reason }) => {
            let view = cloud.control()?.promote(revision, &reason).await?;
            say(&format!("revision {} is offered to every PoP", view.revision));
        }
        Rollout::Stop(Verdict { cloud, revision, reason }) => {
            let view = cloud.control()?.stop_rollout(revision, &reason).await?;
            say(&format!("revision {} is stopped, and never offered again", view.revision));
        }
    }
    Ok(())
}

/// The list, as text.
fn screen(rollouts: &[RolloutView]) -> String {
    let head = [
        "revision",
        "stage",
        "canaries",
        "since (UTC)",
        "answers",
        "failed",
        "without a model",
        "before",
        "why",
    ];
    let rows: Vec<_> = rollouts.iter().map(row).collect();
    table(&head, &rows)
}

fn row(rollout: &RolloutView) -> Vec<String> {
    let share = |counts: AnswerCounts| match counts.answers {
        0 => "–".to_owned(),
        _ => format!("{:.0} %", counts.fell_back_share() * 100.0),
    };
    vec![
        rollout.revision.to_string(),
        rollout.stage.as_str().to_owned(),
        rollout.canaries.iter().map(PopId::as_str).collect::<Vec<_>>().join(" "),
        utc(rollout.ended_at_ms.unwrap_or(rollout.began_at_ms)),
        thousands(rollout.during.answers),
        thousands(rollout.during.failed),
        share(rollout.during),
        share(rollout.before),
        rollout.reason.clone(),
    ]
}
