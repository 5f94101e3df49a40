//! Changes of members: one at a time, and each is seen through, because a node that neither joined nor left is in nobody's
//! interest.

use std::time::Duration;

use proto::NodeId;
use proto::peer::MemberChange;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{Fault, Undo};
use crate::sim::machine::address;
use crate::sim::world::World;

/// How long a change of members may take once nothing stands in its way.
const CHANGE_WITHIN: Duration = Duration::from_secs(130);

/// And with everybody who has to be asked again.
const SEEN_THROUGH_WITHIN: Duration = Duration::from_secs(600);

/// A change that is not seen through.
#[derive(Debug)]
pub struct Change {
    what: MemberChange,
    /// Somebody who was asked for it.
    task: Option<JoinHandle<bool>>,
}

impl World {
    /// One change of members at a time; the next waits until the one before is seen through.
    pub(super) async fn change_members(&mut self, fault: Fault) -> Option<String> {
        if let Some(change) = self.ongoing.change.as_mut() {
            if change.task.as_ref().is_none_or(JoinHandle::is_finished) {
                self.see_through_once().await;
            }
            return None;
        }
        let change = match fault {
            Fault::MemberJoins if self.machines.len() < 6 => {
                let node = self.add_machine();
                self.boot(node).await;
                MemberChange::Join { node: NodeId(node), address: address(node) }
            }
            Fault::MemberLeaves if self.machines.len() > 3 => {
                MemberChange::Leave { node: NodeId(self.any_running()?) }
            }
            _ => return None,
        };
        let what = format!("{change:?}");
        let task = self.ask_for(&change);
        self.ongoing.change = Some(Change { what: change, task });
        Some(what)
    }

    /// Asks some node for a change; none where no other node runs.
    fn ask_for(&self, change: &MemberChange) -> Option<JoinHandle<bool>> {
        let subject = change.node().0;
        let running = self.running();
        let (_, process) = running.iter().find(|(node, _)| *node != subject)?;
        let (store, asked) = (process.store.clone(), change.clone());
        Some(process.host.spawn(async move { store.member(asked).await.is_ok() }))
    }

    /// Waits for the change that is asked for. One whose outcome is unknown is asked for again.
    async fn see_through_once(&mut self) {
        let Some(Change { what, task }) = self.ongoing.change.take() else { return };
        let done = match task {
            Some(task) => matches!(timeout(CHANGE_WITHIN, task).await, Ok(Ok(true))),
            None => false,
        };
        self.watch.note(|| format!("{what:?}: {done}"));
        match what {
            MemberChange::Leave { node } if done => self.remove(node.0),
            MemberChange::Join { .. } | MemberChange::Move { .. } if done => {}
            what => {
                let task = self.ask_for(&what);
                self.ongoing.change = Some(Change { what, task });
            }
        }
    }

    /// As long as it may take; a change that does not come to its end leaves a node that has not healed.
    pub(super) async fn see_change_through(&mut self) {
        let until = Instant::now() + SEEN_THROUGH_WITHIN;
        while self.ongoing.change.is_some() && Instant::now() < until {
            self.restart_ended().await;
            self.see_through_once().await;
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The node has left: its machine is switched off for good.
    fn remove(&mut self, node: u64) {
        self.kill(node);
        self.machines.remove(&node);
        self.ongoing
            .undo
            .retain(|(_, undo)| !matches!(undo, Undo::Boot(n, _) | Undo::Flap(n, ..) | Undo::CutPower(n) if *n == node));
    }
}
