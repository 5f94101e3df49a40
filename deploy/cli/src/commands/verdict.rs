//! What becomes of a bundle that was published: on trial, and then promoted or stopped.

use std::time::Duration;

use clap::Args;
use proto::control::{RolloutStage, RolloutView};
use proto::{PopId, Revision};

use super::say;
use crate::control::Control;
use crate::table::thousands;

/// How often a trial is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a trial that goes on says so, in looks.
const SAY_EVERY: u32 = 10;
/// Looks that may fail in a row: the cloud may be started anew.
const FAILED_LOOKS_MAX: u32 = 30;

/// Whether to wait for a verdict.
#[derive(Debug, Args)]
pub struct Patience {
    /// Do not wait for the verdict: `rockpool rollout list` has it later.
    #[arg(long)]
    no_wait: bool,
}

/// Says how a publication goes on, until its verdict.
///
/// # Errors
/// Where it was stopped, or a newer one came before its verdict.
pub async fn follow(control: &Control, revision: Revision, patience: &Patience) -> anyhow::Result<()> {
    let (mut told, mut looks, mut failed) = (false, 0_u32, 0);
    loop {
        let view = match look(control, revision).await {
            Ok(view) => view,
            Err(error) if failed >= FAILED_LOOKS_MAX => return Err(error),
            Err(_) => {
                failed += 1;
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
        };
        failed = 0;
        match view.stage {
            RolloutStage::Promoted => {
                say(&format!("revision {revision} is promoted, and offered to every PoP: {}", view.reason));
                return Ok(());
            }
            RolloutStage::Stopped => anyhow::bail!(
                "revision {revision} was stopped, and its canaries get back what was promoted last: {} ({})",
                view.reason,
                counted(&view)
            ),
            RolloutStage::Superseded => {
                anyhow::bail!("revision {revision} had no verdict: {}", view.reason);
            }
            RolloutStage::Canary => {}
        }
        if view.canaries.is_empty() {
            say(&format!(
                "revision {revision} waits: no PoP is there that it could be tried on; the first that comes tries it"
            ));
            return Ok(());
        }
        if !told {
            let canaries = view.canaries.iter().map(PopId::as_str).collect::<Vec<_>>().join(", ");
            say(&format!(
                "revision {revision} is on trial at {canaries}; every other PoP keeps what it has until the verdict"
            ));
            told = true;
        } else if looks.is_multiple_of(SAY_EVERY) {
            say(&format!("on trial: {}", counted(&view)));
        }
        if patience.no_wait {
            return Ok(());
        }
        looks += 1;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(control: &Control, revision: Revision) -> anyhow::Result<RolloutView> {
    let found = control.rollouts().await?.into_iter().find(|view| view.revision == revision);
    found.ok_or_else(|| anyhow::anyhow!("the cloud knows of no rollout of revision {revision}"))
}

fn counted(view: &RolloutView) -> String {
    let (during, before) = (view.during, view.before);
    let catalog = if view.new_catalog { ", which had another catalog" } else { "" };
    format!(
        "{} answers, {} failed, {:.0} % without a model; before: {:.0} % of {}{catalog}",
        thousands(during.answers),
        thousands(during.failed),
        during.fell_back_share() * 100.0,
        before.fell_back_share() * 100.0,
        thousands(before.answers),
    )
}
