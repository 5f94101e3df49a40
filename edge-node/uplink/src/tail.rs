//! The leader's tail: what committed goes to the cloud, in order, in batches.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{Code, ErrorReply, Event, Offset};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batcher::{Batcher, Outbox, Step};
use crate::link::{CloudLink, PullError};

/// What the tail sees of the store.
#[async_trait]
pub trait Commits: Send + Sync {
    /// What the outbox holds; changes with every commit. While this node leads, it holds all that was ever committed.
    fn outbox(&self) -> watch::Receiver<Outbox>;
    /// Committed events after an offset, in order and without holes, within both limits.
    async fn events(&self, after: Offset, len_max: usize, bytes_max: usize)
    -> Result<Vec<Event>, ErrorReply>;
    /// Writes the cloud's position back through Raft, so that the outbox may forget.
    async fn acknowledge(&self, upto: Offset) -> Result<(), ErrorReply>;
}

/// Why a step failed. All are retried.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error("the outbox cannot be read or written: {0}")]
    Store(ErrorReply),
}

/// Runs until shutdown; works only while `leader` is true.
pub async fn tail(
    commits: Arc<dyn Commits>,
    mut leader: watch::Receiver<bool>,
    link: CloudLink,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            led = leader.wait_for(|leads| *leads) => if led.is_err() { return },
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            // Nobody says any more who leads: the node is ending.
            lost = leader.wait_for(|leads| !leads) => if lost.is_err() { return },
            () = lead(&*commits, &link) => {}
        }
        // Another node leads, and says for itself how it stands.
        link.set_diverged(None);
    }
}

/// One leadership: asks where the cloud stands, then sends until cancelled.
async fn lead(commits: &dyn Commits, link: &CloudLink) {
    let mut tail = Tail { batcher: Batcher::default(), outbox: commits.outbox(), written_at: Instant::now() };
    let mut failures = 0;
    loop {
        link.connected().await;
        match tail.step(commits, link).await {
            Ok(()) => failures = 0,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, failures, "uplink step failed");
                link.metrics().failures.inc();
                tail.batcher.forget();
                tokio::time::sleep(link.pause(failures)).await;
                failures += 1;
            }
        }
    }
}

struct Tail {
    batcher: Batcher,
    outbox: watch::Receiver<Outbox>,
    written_at: Instant,
}

impl Tail {
    async fn step(&mut self, commits: &dyn Commits, link: &CloudLink) -> Result<(), StepError> {
        let outbox = *self.outbox.borrow_and_update();
        match self.batcher.next(outbox) {
            Step::AskPosition => {
                let upto = position(link.ask(&UplinkRequest::Position).await?)?;
                self.batcher.stands_at(upto);
                if link.diverged().is_none() {
                    tracing::info!(%upto, "the cloud says where this PoP stands");
                }
            }
            Step::Send { after } => match self.send(after, commits, link).await {
                // The cloud holds other events at these offsets: another PoP's, or this one's before it lost its data.
                Err(StepError::Pull(error)) if error.code() == Code::Conflict => {
                    self.diverged(&error, link).await;
                    return Ok(());
                }
                sent => {
                    sent?;
                    link.set_diverged(None);
                }
            },
            Step::Wait => {
                link.set_diverged(None);
                self.wait(outbox, commits, link).await?;
            }
            Step::Diverged(divergence) => {
                self.diverged(&divergence, link).await;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Looks again after a while: a person may have put it right.
    async fn diverged(&mut self, why: &(dyn std::error::Error + Sync), link: &CloudLink) {
        if link.set_diverged(Some(why.to_string())) {
            tracing::error!(%why, "cloud and PoP contradict each other: the uplink stops");
        }
        tokio::time::sleep(Duration::from_millis(link.config().report_every_ms)).await;
        self.batcher.forget();
    }

    async fn send(
        &mut self,
        after: Offset,
        commits: &dyn Commits,
        link: &CloudLink,
    ) -> Result<(), StepError> {
        let config = link.config();
        if self.waiting(after) < config.batch_len_max {
            tokio::time::sleep(Duration::from_millis(config.linger_ms)).await;
        }
        // No more than the outbox is known to hold: else the cloud would seem to be ahead of the PoP.
        let len_max = self.waiting(after).min(config.batch_len_max);
        let events =
            commits.events(after, len_max, config.batch_bytes_max).await.map_err(StepError::Store)?;
        let count = events.len() as u64;
        // A planted bug, to see that it is caught: tests/chaos/README.md.
        if fail::eval("outbox_trimmed_before_acknowledgement", |_| ()).is_some() {
            self.batcher.acknowledged(Offset(after.0 + count));
            self.write_back(commits).await?;
        }
        let timer = link.metrics().append_seconds.start_timer();
        let reply = link.ask(&UplinkRequest::Append { first: Offset(after.0 + 1), events }).await?;
        timer.observe_duration();
        let upto = position(reply)?;
        link.metrics().events.inc_by(upto.0.saturating_sub(after.0).min(count));
        self.batcher.acknowledged(upto);
        if self.written_at.elapsed() >= Duration::from_millis(config.acknowledge_every_ms) {
            self.write_back(commits).await?;
        }
        Ok(())
    }

    /// Events after `after` that the outbox is known to hold.
    fn waiting(&self, after: Offset) -> usize {
        usize::try_from(self.outbox.borrow().last.0.saturating_sub(after.0)).unwrap_or(usize::MAX)
    }

    /// Nothing to send. The last position is written back once things are quiet, or the outbox would keep its end.
    async fn wait(
        &mut self,
        outbox: Outbox,
        commits: &dyn Commits,
        link: &CloudLink,
    ) -> Result<(), StepError> {
        let quiet = Duration::from_millis(link.config().acknowledge_every_ms);
        tokio::select! {
            _ = self.outbox.changed() => Ok(()),
            () = tokio::time::sleep(quiet), if self.batcher.write_back(outbox).is_some() => {
                self.write_back(commits).await
            }
        }
    }

    async fn write_back(&mut self, commits: &dyn Commits) -> Result<(), StepError> {
        let outbox = *self.outbox.borrow();
        if let Some(upto) = self.batcher.write_back(outbox) {
            commits.acknowledge(upto).await.map_err(StepError::Store)?;
            self.batcher.wrote_back(upto);
            self.written_at = Instant::now();
        }
        Ok(())
    }
}

fn position(reply: UplinkReply) -> Result<Offset, PullError> {
    match reply {
        UplinkReply::Ack { upto, .. } => Ok(upto),
        _ => Err(PullError::Unexpected { asked: "Position or Append" }),
    }
}
