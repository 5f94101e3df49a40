//! Erasures: the leader asks the cloud which visitors are to be erased, and has Raft erase them on all nodes.

use std::time::Duration;

use anyhow::Context as _;
use edge_store::Store;
use edge_uplink::CloudLink;
use proto::command::{Command, Effect};
use proto::uplink::{Erasure, UplinkReply, UplinkRequest};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it asks.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long one erasure may take to be written.
const WITHIN: Duration = Duration::from_secs(5);

/// Runs until shutdown.
pub async fn follow(
    store: Store,
    cloud: CloudLink,
    mut leads: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    let follow = async {
        loop {
            if leads.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            cloud.connected().await;
            match carry_out(&store, &cloud).await {
                // There may be more.
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::debug!(error = format!("{error:#}"), "erasures wait"),
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    shutdown.run_until_cancelled(follow).await;
}

/// Carries out the next erasures. False: there are none.
async fn carry_out(store: &Store, cloud: &CloudLink) -> anyhow::Result<bool> {
    let asked = UplinkRequest::Erasures { after: store.erasures() };
    let UplinkReply::Erasures(erasures) = cloud.ask(&asked).await? else {
        anyhow::bail!("the cloud answered Erasures with something else");
    };
    for Erasure { number, visitor, at_ms } in &erasures {
        let command = Command::Erase { visitor: visitor.clone(), at_ms: *at_ms, number: *number };
        let written = store.propose(command, Instant::now() + WITHIN).await;
        if let Effect::Refused(reply) = written.context("an erasure is not written")?.effect {
            return Err(reply).context("an erasure was refused");
        }
        tracing::info!(target: "audit", erasure = number, "a visitor was erased");
    }
    Ok(!erasures.is_empty())
}
