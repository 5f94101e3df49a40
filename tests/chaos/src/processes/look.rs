//! Looks at one node again and again, over its admin port and its door, as long as it lives.

use std::time::Duration;

use proto::control::Role;
use proto::{Digest, NodeId, Offset, Revision};
use rockpool::control::NodeAdmin;
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::client::{Door, Way};
use super::watch::{Node, Watch};
use crate::invariants::{Fact, Lengths};

/// How often a node is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// One look in so many also compares digests and queues.
const LOOK_CLOSELY: u32 = 10;
/// How long a node may take to say how it is. One that is stopped does not.
const SAYS_WITHIN: Duration = Duration::from_secs(2);
/// How long a node may take to answer a read without the cloud: the machine is shared with everything else.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Entries that a leader may hold beyond what is applied: `edge-store` refuses at 512, and a few groups are on their way.
const UNAPPLIED_MAX: u64 = 512 + 64;
/// Defaults of `store.queue_len_max` and `store.outbox_len_max`.
const QUEUE_MAX: u64 = 8_192;
const OUTBOX_MAX: u64 = 1_000_000;

/// What a node says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Its part.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// Log index applied.
    pub applied: u64,
    /// Highest log index held.
    pub last_log: u64,
    /// Events that wait for the cloud.
    pub outbox: u64,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Offset of the last event.
    pub last_offset: Offset,
    /// What the cloud holds.
    pub acknowledged: Offset,
}

#[derive(Deserialize)]
struct State {
    index: u64,
    digest: Digest,
}

/// A node's status, if it says it in time.
pub async fn status(node: &Node) -> Option<Status> {
    let admin = NodeAdmin::new(&node.admin).ok()?;
    timeout(SAYS_WITHIN, admin.status()).await.ok()?.ok()
}

/// Whether a node says that it serves.
pub async fn ready(node: &Node) -> bool {
    let Ok(admin) = NodeAdmin::new(&node.admin) else { return false };
    matches!(timeout(SAYS_WITHIN, admin.ready()).await, Ok(Ok(())))
}

/// Looks at a node until its life ends.
pub async fn look(node: Node, way: Way, watch: Watch) {
    let Ok(admin) = NodeAdmin::new(&node.admin) else { return };
    let mut door = Door::new(way);
    let (mut count, mut has_answered): (u32, bool) = (0, false);
    while watch.lives(&node) {
        sleep(LOOK_EVERY).await;
        count = count.wrapping_add(1);
        let Ok(Ok(status)) = timeout(SAYS_WITHIN, admin.status::<Status>()).await else { continue };
        if !watch.lives(&node) {
            return;
        }
        look_at(&watch, &node, &status);
        if count.is_multiple_of(LOOK_CLOSELY) {
            look_closely(&watch, &node, &admin, &status).await;
            if !has_answered {
                has_answered = door.offered(&node, 0, None).await.is_some();
            } else if watch.cloud_away() {
                ask_without_cloud(&watch, &node, &mut door).await;
            }
        }
    }
}

fn look_at(watch: &Watch, node: &Node, status: &Status) {
    if status.role == Role::Leader {
        watch.observe(&Fact::Leads { node: node.node, term: status.term });
    }
    // A node says which bundle it serves from, not which one its state names at this index: of revisions this says nothing.
    let (index, revision) = (status.applied, Revision(0));
    watch.observe(&Fact::Applied { node: node.node, life: node.life, index, revision });
}

async fn look_closely(watch: &Watch, node: &Node, admin: &NodeAdmin, status: &Status) {
    // A follower that catches up holds what it was sent; what a leader takes is its own to bound.
    let leads = status.role == Role::Leader;
    let unapplied = if leads { status.last_log.saturating_sub(status.applied) } else { 0 };
    if let Ok(Ok(metrics)) = timeout(SAYS_WITHIN, admin.metrics()).await
        && let Some(queue) = metric(&metrics, "rockpool_store_queue_len")
    {
        let lengths = Lengths {
            queue: (queue, QUEUE_MAX),
            unapplied: (unapplied, UNAPPLIED_MAX),
            outbox: (status.outbox, OUTBOX_MAX),
        };
        watch.observe(&Fact::Waits { node: node.node, lengths });
    }
    say_digest(watch, node, admin).await;
}

fn metric(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Takes in a node's digest, if it says it in time.
pub async fn say_digest(watch: &Watch, node: &Node, admin: &NodeAdmin) {
    if let Ok(Ok(State { index, digest })) = timeout(SAYS_WITHIN, admin.get("/v1/digest")).await {
        watch.observe(&Fact::Digest { node: node.node, index, digest });
    }
}

/// A node that has answered before in this life, and was left alone meanwhile, must answer.
async fn ask_without_cloud(watch: &Watch, node: &Node, door: &mut Door) {
    let before = watch.nodes().into_iter().find(|now| now.node == node.node);
    let Some(before) = before.filter(|now| now.life == node.life) else { return };
    let asked = async {
        while door.offered(node, 0, None).await.is_none() {
            sleep(LOOK_EVERY).await;
        }
    };
    let answered = timeout(ANSWERS_WITHIN, asked).await.is_ok();
    if answered || watch.undisturbed(&before) {
        watch.observe(&Fact::AskedWithoutCloud { node: node.node, answered });
    }
}
