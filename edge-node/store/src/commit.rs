//! Group commit: commands of many callers share one Raft entry.
//!
//! ```text
//! propose ─▶ queue ─┐
//! try_note ─▶ queue ┴▶ gather: what is there when a group may go ─▶ route ─▶ this node leads: Raft
//!                                                                       └▶ another does: PeerRequest::Propose
//! ```
//!
//! Few groups are on their way at once: while they are, the next one fills. A follower's group joins the leader's queue
//! and shares an entry with the others'. What surely was not written is tried again until its deadline; what may have
//! been written is tried again only where that does no harm.

mod group;
mod route;

use std::sync::Arc;
use std::time::Duration;

use proto::command::{Command, Effect};
use proto::limits::{RECOMMEND_COUNT_MAX, TRACK_EVENTS_MAX};
use proto::purge::PURGE_KEYS_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::{GROUP_BYTES_CEILING, GROUP_LEN_CEILING, StoreConfig};
use crate::error::StoreError;
use crate::metrics::Metrics;
use crate::{Applied, planted, runtime, weight};

use group::{Group, Proposal};
pub use route::Router;

/// When to come back to a full queue: a few groups later.
const RETRY_AFTER_MS: u32 = 50;
/// Longest deadline; a later one counts as this.
pub const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Log index of an entry, and an effect a command.
pub type Written = (u64, Vec<Effect>);

/// Takes proposals and notes.
#[derive(Debug, Clone)]
pub struct Committer {
    proposals: mpsc::Sender<Proposal>,
    notes: mpsc::Sender<Command>,
    bytes: Arc<Semaphore>,
    outbox_len_max: u64,
    applied: watch::Receiver<Applied>,
    metrics: Metrics,
}

impl Committer {
    /// Starts gathering; ends when cancelled.
    pub fn start(
        config: &StoreConfig,
        router: Router,
        applied: watch::Receiver<Applied>,
        stop: CancellationToken,
    ) -> Self {
        let metrics = router.metrics().clone();
        let (proposals, proposed) = mpsc::channel(config.queue_len_max);
        let (notes, noted) = mpsc::channel(config.note_queue_len_max);
        let gatherer = Gatherer {
            proposed,
            noted,
            held: None,
            len_max: config.group_commit_len_max,
            bytes_max: config.group_commit_bytes_max,
            linger: Duration::from_millis(config.note_linger_ms),
            in_flight: Arc::new(Semaphore::new(config.groups_in_flight_max)),
            router: Arc::new(router),
            metrics: metrics.clone(),
        };
        runtime::spawn(gatherer.run(stop));
        let bytes = Arc::new(Semaphore::new(config.queue_bytes_max));
        Self { proposals, notes, bytes, outbox_len_max: config.outbox_len_max, applied, metrics }
    }

    /// Writes commands, in order, in one entry.
    pub async fn propose(
        &self,
        commands: Vec<Command>,
        forwarded: bool,
        deadline: Instant,
    ) -> Result<Written, StoreError> {
        let timer = self.metrics.commit_seconds.start_timer();
        let deadline = deadline.min(Instant::now() + DEADLINE_MAX);
        let weight = self.admit(&commands)?;
        let permits = u32::try_from(weight).map_err(|_| too_large(weight))?;
        let Ok(bytes) = Arc::clone(&self.bytes).try_acquire_many_owned(permits) else {
            return Err(self.overloaded("too many bytes wait to be written"));
        };
        let (done, answer) = oneshot::channel();
        let proposal = Proposal { commands, weight, forwarded, deadline, done, _bytes: bytes };
        match self.proposals.try_send(proposal) {
            Ok(()) => self.metrics.queue_len.inc(),
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(self.overloaded("too many proposals wait to be written"));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return Err(StoreError::Closed("shutting down".into()));
            }
        }
        let written = match timeout_at(deadline, answer).await {
            Ok(Ok(written)) => written?,
            Ok(Err(_)) => return Err(StoreError::Closed("shutting down".into())),
            Err(_) => return Err(StoreError::Unknown("its deadline passed")),
        };
        timer.observe_duration();
        Ok(written)
    }

    /// Lets a command ride along with the next group. False where too many wait.
    pub fn try_note(&self, command: Command) -> bool {
        let fits = check(&command).is_ok() && self.notes.try_send(command).is_ok();
        if fits {
            self.metrics.queue_len.inc();
        } else {
            self.metrics.notes_dropped.inc();
        }
        fits
    }

    /// Proposals and notes that wait.
    pub fn queue_len(&self) -> usize {
        let waiting = |max: usize, free: usize| max - free;
        waiting(self.proposals.max_capacity(), self.proposals.capacity())
            + waiting(self.notes.max_capacity(), self.notes.capacity())
    }

    /// Checks what came, and measures it.
    fn admit(&self, commands: &[Command]) -> Result<usize, StoreError> {
        if commands.is_empty() || commands.len() > GROUP_LEN_CEILING {
            return Err(StoreError::Invalid(format!(
                "{} commands, 1 to {GROUP_LEN_CEILING} are due",
                commands.len()
            )));
        }
        commands.iter().try_for_each(check)?;
        let tracks = commands.iter().any(|command| matches!(command, Command::Track { .. }))
            && !planted::on("outbox_unbounded");
        let applied = *self.applied.borrow();
        if tracks && applied.last_offset.0 - applied.acknowledged.0 >= self.outbox_len_max {
            let what = "too many events wait for the cloud";
            return Err(StoreError::Overloaded { what, retry_after_ms: 1_000 });
        }
        let weight = commands.iter().map(weight::command).sum();
        if weight > GROUP_BYTES_CEILING { Err(too_large(weight)) } else { Ok(weight) }
    }

    fn overloaded(&self, what: &'static str) -> StoreError {
        self.metrics.overloaded.inc();
        StoreError::Overloaded { what, retry_after_ms: RETRY_AFTER_MS }
    }
}

fn too_large(len: usize) -> StoreError {
    StoreError::TooLarge { len, max: GROUP_BYTES_CEILING }
}

fn check(command: &Command) -> Result<(), StoreError> {
    let (what, len, max) = match command {
        Command::Track { events, .. } => ("events", events.len(), TRACK_EVENTS_MAX),
        Command::Served { items, .. } => ("items", items.len(), RECOMMEND_COUNT_MAX),
        Command::Purge { keys, .. } => ("things to purge", keys.len(), PURGE_KEYS_MAX),
        Command::Activate { .. } | Command::Acknowledge { .. } | Command::Erase { .. } => return Ok(()),
    };
    if len > max {
        Err(StoreError::Invalid(format!("{len} {what}, at most {max} are allowed")))
    } else {
        Ok(())
    }
}

struct Gatherer {
    proposed: mpsc::Receiver<Proposal>,
    noted: mpsc::Receiver<Command>,
    /// Did not fit the group before.
    held: Option<Proposal>,
    len_max: usize,
    bytes_max: usize,
    linger: Duration,
    in_flight: Arc<Semaphore>,
    router: Arc<Router>,
    metrics: Metrics,
}

impl Gatherer {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let gathered = async {
                // First the turn, then the group: while others are on their way, this one fills.
                let turn = Arc::clone(&self.in_flight).acquire_owned().await.ok()?;
                let group = self.gather().await?;
                Some((turn, group))
            };
            let gathered = tokio::select! {
                () = stop.cancelled() => return,
                gathered = gathered => gathered,
            };
            let Some((turn, group)) = gathered else { return };
            runtime::spawn(send(Arc::clone(&self.router), group, turn));
        }
    }

    async fn gather(&mut self) -> Option<Group> {
        let mut group = Group::default();
        let first = match self.held.take() {
            Some(held) => Some(held),
            None => self.first(&mut group).await?,
        };
        group.proposals.extend(first);
        self.fill(&mut group);
        self.metrics.group_len.observe(group.len() as f64);
        self.metrics
            .queue_len
            .sub(i64::try_from(group.proposals.len() + group.notes.len()).unwrap_or(i64::MAX));
        Some(group)
    }

    /// Waits for a proposal, or for notes that have waited long enough.
    async fn first(&mut self, group: &mut Group) -> Option<Option<Proposal>> {
        let note = tokio::select! {
            biased;
            proposal = self.proposed.recv() => return proposal.map(Some),
            note = self.noted.recv() => note?,
        };
        group.notes.push(note);
        tokio::select! {
            biased;
            proposal = self.proposed.recv() => proposal.map(Some),
            () = sleep_until(Instant::now() + self.linger) => Some(None),
        }
    }

    fn fill(&mut self, group: &mut Group) {
        while group.len() < self.len_max {
            let Ok(proposal) = self.proposed.try_recv() else { break };
            let fits = group.len() + proposal.commands.len() <= self.len_max
                && group.weight() + proposal.weight <= self.bytes_max;
            if !fits {
                self.held = Some(proposal);
                break;
            }
            group.proposals.push(proposal);
        }
        while group.len() < self.len_max && group.weight() < self.bytes_max {
            let Ok(note) = self.noted.try_recv() else { break };
            group.notes.push(note);
        }
    }
}

async fn send(router: Arc<Router>, group: Group, _turn: OwnedSemaphorePermit) {
    router.send(group).await;
}
