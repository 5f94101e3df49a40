//! What admins ask of nodes in a run: that the leader hands over, that a node joins or leaves.

use std::time::Duration;

use anyhow::Context as _;
use proto::peer::MemberChange;
use rockpool::control::NodeAdmin;
use tokio::time::{Instant, sleep, timeout};

use super::stage::Stage;
use super::watch::Watch;

/// How long one answer to a change of members is waited for. Who is stopped does not give it.
const CHANGE_ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long a change of members may take, with everything that stands in its way.
const CHANGE_WITHIN: Duration = Duration::from_secs(180);

/// Asks the leader to hand over.
///
/// # Errors
/// Where the leader's admin token cannot be read.
pub async fn transfer(stage: &Stage) -> anyhow::Result<Option<String>> {
    let Ok(Ok(leader)) = timeout(Duration::from_secs(2), stage.deployment.leader()).await else {
        return Ok(None);
    };
    let (admin, token) = (stage.deployment.admin(leader)?, stage.deployment.node_token(leader)?);
    // It may be cut off, and not able to.
    let done = matches!(timeout(Duration::from_secs(5), admin.transfer(&token)).await, Ok(Ok(())));
    Ok(done.then(|| format!("from node {leader}")))
}

/// Asks one node after the other, until one says that the change is done.
///
/// # Errors
/// Where none does in time.
pub async fn see_through(watch: &Watch, dir: &std::path::Path, change: &MemberChange) -> anyhow::Result<()> {
    let subject = change.node();
    let until = Instant::now() + CHANGE_WITHIN;
    let mut last = String::from("nobody could be asked");
    while Instant::now() < until {
        for node in watch.nodes().into_iter().filter(|node| node.node != subject.0) {
            let asked = async {
                let token = service_token(dir, node.node)?;
                NodeAdmin::new(&node.admin)?.member(change, &token).await
            };
            match timeout(CHANGE_ANSWER_WITHIN, asked).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last = format!("node {}: {error:#}", node.node),
                Err(_) => last = format!("node {} did not answer", node.node),
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{change:?} was not done within {} s: {last}", CHANGE_WITHIN.as_secs())
}

fn service_token(dir: &std::path::Path, node: u64) -> anyhow::Result<String> {
    let path = dir.join(format!("node-{node}")).join("admin.token");
    let token = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(token.trim().to_owned())
}
