//! After the faults: has everything healed, and is everything everywhere?

use std::collections::BTreeSet;
use std::time::Duration;

use proto::control::{EventView, Role};
use rockpool::control::NodeAdmin;
use tokio::time::sleep;

use super::client::{Client, Door, name, read_linearizable, serial};
use super::look::{Status, ready, say_digest, status};
use super::stage::Stage;
use crate::invariants::{Fact, Healed, Serial, Visitor};
use crate::linear::Verdicts;

/// Within which everything must have healed after the last fault.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Writes go on: a replica that is so many entries behind does not lag, and so many events are on their way to the cloud.
const LAG_MAX: u64 = 100;
/// How often a read is asked for before its node is said not to answer.
const READS_MAX: u32 = 10;
/// Most events of one visitor that the cloud is asked for.
const EVENTS_MAX: u32 = 1_000;

/// Waits until everything has healed under load, and says how it is.
pub async fn heal(stage: &Stage, prover: &mut Client) {
    let since = stage.watch.now();
    loop {
        let healed = healed(stage, prover, since).await;
        let whole = Healed { leader: true, after: healed.after, ..Healed::default() };
        if healed == whole || healed.after >= HEALED_WITHIN {
            stage.watch.note(&format!("{healed:?}"));
            stage.watch.observe(&Fact::Healed(healed));
            return;
        }
        sleep(POLL).await;
    }
}

async fn statuses(stage: &Stage) -> Vec<(u64, Option<Status>)> {
    let mut statuses = Vec::new();
    for node in stage.watch.nodes() {
        statuses.push((node.node, status(&node).await));
    }
    statuses
}

async fn healed(stage: &Stage, prover: &mut Client, since: Duration) -> Healed {
    let statuses = statuses(stage).await;
    // A node that does not say how it is, is not healed.
    let down = statuses.iter().filter(|(_, status)| status.is_none());
    let mut refusing: Vec<u64> = down.map(|(node, _)| *node).collect();
    let said: Vec<(u64, &Status)> = statuses.iter().filter_map(|(n, s)| Some((*n, s.as_ref()?))).collect();
    let leaders = said.iter().filter(|(_, status)| status.role == Role::Leader).count();
    let first = said.first().and_then(|(_, status)| status.leader);
    let leader = leaders == 1 && first.is_some() && said.iter().all(|(_, status)| status.leader == first);
    if leader {
        for node in stage.watch.nodes() {
            if !prover.write_through(&node).await {
                refusing.push(node.node);
            }
        }
    }
    for node in stage.watch.nodes() {
        // One that has no bundle yet shows nothing.
        if !refusing.contains(&node.node) && !ready(&node).await {
            refusing.push(node.node);
        }
    }
    let highest = said.iter().map(|(_, status)| status.applied).max().unwrap_or(0);
    let lagging = said.iter().filter(|(_, status)| status.applied + LAG_MAX < highest);
    let lagging = lagging.map(|(node, _)| *node).collect();
    let outbox = said.iter().map(|(_, status)| status.last_offset.0 - status.acknowledged.0).min();
    let outbox = outbox.filter(|outbox| *outbox > LAG_MAX).unwrap_or(0);
    Healed { leader, refusing, lagging, outbox, after: stage.watch.now().saturating_sub(since) }
}

/// The number under which the judge itself reads.
const JUDGE: u64 = 0;

/// Nobody writes any more: all must be everywhere, once, and what clients saw must have an order.
///
/// # Errors
/// Where the cloud does not say what it took.
pub async fn judge(stage: &Stage) -> anyhow::Result<Verdicts> {
    drain(stage).await;
    for node in stage.watch.nodes() {
        say_digest(&stage.watch, &node, &NodeAdmin::new(&node.admin)?).await;
        let mut door = Door::new(stage.way.clone());
        for visitor in stage.watch.visitors() {
            let mut tries = 0;
            while !read_linearizable(&mut door, &stage.watch, JUDGE, &node, visitor).await {
                tries += 1;
                if tries == READS_MAX {
                    let refusing = vec![node.node];
                    stage.watch.observe(&Fact::Healed(Healed {
                        leader: true,
                        refusing,
                        ..Healed::default()
                    }));
                    break;
                }
            }
        }
    }
    let taken = taken(stage).await?;
    let watch = stage.watch.clone();
    // The search may take its time, and others wait for this thread.
    Ok(tokio::task::spawn_blocking(move || watch.judge(|visitor, serial| taken.contains(&(visitor, serial))))
        .await?)
}

/// Waits until all nodes have the same, and the cloud has it too.
async fn drain(stage: &Stage) {
    let since = stage.watch.now();
    loop {
        let statuses = statuses(stage).await;
        let said: Vec<&Status> = statuses.iter().filter_map(|(_, status)| status.as_ref()).collect();
        let equal = said.len() == statuses.len() && said.windows(2).all(|p| p[0].applied == p[1].applied);
        let sent = said.iter().all(|status| status.last_offset == status.acknowledged);
        let after = stage.watch.now().saturating_sub(since);
        if equal && sent || after >= HEALED_WITHIN {
            let outbox = said.iter().map(|s| s.last_offset.0 - s.acknowledged.0).max().unwrap_or(0);
            let lagging = if equal { Vec::new() } else { statuses.iter().map(|(node, _)| *node).collect() };
            let healed = Healed { leader: true, refusing: Vec::new(), lagging, outbox, after };
            stage.watch.observe(&Fact::Healed(healed));
            return;
        }
        sleep(POLL).await;
    }
}

/// What the cloud took, in the order of its offsets. Whatever it has beyond that of known visitors is a hole in them.
/// Returns whose events these are, and which.
async fn taken(stage: &Stage) -> anyhow::Result<BTreeSet<(Visitor, Serial)>> {
    let control = stage.deployment.control()?;
    let (mut events, mut held) = (Vec::new(), BTreeSet::new());
    for visitor in stage.watch.visitors() {
        let path = format!("/v1/events?visitor={}&limit={EVENTS_MAX}", name(visitor));
        let of_visitor = control.get::<Vec<EventView>>(&path).await?;
        let serials = of_visitor.iter().filter_map(|event| serial(event.item.as_ref()?));
        held.extend(serials.map(|serial| (visitor, serial)));
        events.extend(of_visitor);
    }
    events.sort_by_key(|event| event.offset);
    for event in &events {
        stage.watch.observe(&Fact::Taken { offset: event.offset, id: event.id });
    }
    let total = control.event_counts().await?.total;
    anyhow::ensure!(
        total == events.len() as u64,
        "the cloud counts {total} events, and shows {}: nobody of this run sent the others",
        events.len()
    );
    Ok(held)
}
