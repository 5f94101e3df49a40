//! The store's parts, put together.

mod place;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Config, ReadPolicy, SnapshotPolicy};
use proto::command::Command;
use proto::peer::{PeerReply, PeerRequest, RaftCall};
use proto::{Code, ErrorReply, NodeId, codec};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use transport::Dialer;

use crate::commit::{Committer, Router, Written};
use crate::config::StoreConfig;
use crate::durable::Folder;
use crate::error::StoreError;
use crate::freshness::Freshness;
use crate::leadership;
use crate::log::LogStore;
use crate::membership::Members;
use crate::metrics::Metrics;
use crate::network::{
    Ballot, Inbox, Lane, Network, Outside, Part, Peers, Pins, Promises, SnapshotAnswer, Taken,
};
use crate::state::{Machine, StateConfig};
use crate::types::{Raft, Snapshot};
use crate::{Leadership, Status, planted, runtime, start};

/// How long a leader tries to write what another node sent.
const FORWARD_WITHIN: Duration = Duration::from_secs(10);
/// How long a part of a snapshot may take, installing included.
const SNAPSHOT_PART_MS: u64 = 60_000;
/// Entries in one append.
const APPEND_LEN_MAX: u64 = 512;
/// What is in memory goes to sled this often at least.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// The store's parts.
#[derive(Debug)]
pub struct Inner {
    pub raft: Raft,
    pub machine: Machine,
    pub committer: Committer,
    pub members: Members,
    pub leadership: watch::Receiver<Leadership>,
    pub metrics: Metrics,
    pub freshness: Freshness,
    pub stop: CancellationToken,
    log: LogStore,
    peers: Arc<Peers>,
    pins: Arc<Pins>,
    promises: Arc<Promises>,
    outside: Outside,
    inbox: Inbox,
    retry_pause: Duration,
}

/// What lies in a node's folder.
struct Opened {
    log: LogStore,
    machine: Machine,
    pins: Pins,
    promises: Promises,
}

impl Inner {
    /// Opens the folder, starts the threads, starts Raft.
    pub async fn open(
        config: StoreConfig,
        dialer: Arc<dyn Dialer>,
        registry: &prometheus::Registry,
    ) -> Result<Self, StoreError> {
        config.check()?;
        let metrics = Metrics::new(registry)?;
        let stop = CancellationToken::new();
        let opened = open_storage(config.clone(), metrics.clone());
        let Opened { log, machine, pins, promises } = opened.await?;
        let (pins, promises, outside) = (Arc::new(pins), Arc::new(promises), Outside::default());
        let peers = Arc::new(Peers::new(config.pop.clone(), config.node, dialer));
        let members = machine.members()?;
        start::check(&config, &members, &peers, start::Held::of(&log)).await?;
        let network = Network {
            peers: Arc::clone(&peers),
            pins: Arc::clone(&pins),
            promises: Arc::clone(&promises),
            outside: outside.clone(),
            hot: Arc::clone(machine.hot()),
            append_timeout: Duration::from_millis(config.election_min_ms),
        };
        let raft_config = Arc::new(raft_config(&config)?);
        let raft = Raft::new(config.node.0, raft_config, network, log.clone(), machine.clone()).await;
        let raft = raft.map_err(|fatal| StoreError::Closed(fatal.to_string()))?;
        let leadership = leadership::follow(raft.clone(), Arc::clone(&peers), metrics.clone(), stop.clone());
        let retry_pause = config.retry_pause();
        let router =
            Router::new(raft.clone(), Arc::clone(&peers), leadership.clone(), retry_pause, metrics.clone());
        let committer = Committer::start(&config, router, machine.changes().clone(), stop.clone());
        let members = Members {
            raft: raft.clone(),
            peers: Arc::clone(&peers),
            hot: Arc::clone(machine.hot()),
            leadership: leadership.clone(),
            changing: Default::default(),
            joining: Default::default(),
        };
        let inbox = Inbox::new(Arc::clone(machine.snapshots()), config.snapshot_bytes_max);
        runtime::spawn(housekeeping(machine.clone(), log.clone(), Arc::clone(&promises), stop.clone()));
        runtime::spawn(end_with_log(raft.clone(), log.clone(), stop.clone()));
        let freshness = Freshness::default();
        Ok(Self {
            raft,
            machine,
            committer,
            members,
            leadership,
            metrics,
            freshness,
            stop,
            log,
            peers,
            pins,
            promises,
            outside,
            inbox,
            retry_pause,
        })
    }

    /// Answers a peer.
    pub async fn handle(&self, from: NodeId, request: PeerRequest) -> PeerReply {
        self.peers.heard(from);
        if !self.may_ask(from, &request) {
            return PeerReply::NoMember;
        }
        let reply = match request {
            PeerRequest::Raft { call, body } => {
                self.handle_raft(from, call, &body).await.map(PeerReply::Raft)
            }
            PeerRequest::Propose(commands) => self.handle_propose(commands).await,
            PeerRequest::ReadIndex => self.read_index_as_leader().await.map(PeerReply::ReadIndex),
            PeerRequest::Member(change) => {
                self.members.change_as_leader(&change).await.map(|()| PeerReply::Done)
            }
            PeerRequest::Applied { index, within_ms } => {
                let within = Duration::from_millis(within_ms.into()).min(FORWARD_WITHIN);
                let late = || StoreError::Unknown("the index was not applied here in time");
                self.wait_applied(index, within).await.then_some(PeerReply::Done).ok_or_else(late)
            }
            PeerRequest::Standing => {
                return PeerReply::Standing {
                    last_log: self.log.last_index(),
                    removed: self.was_removed(from),
                };
            }
            PeerRequest::Promised => return PeerReply::Promised(self.promises.of(from)),
            PeerRequest::Artifact { .. } => {
                return PeerReply::Error(ErrorReply::new(Code::Invalid, "artifacts are not the store's"));
            }
        };
        reply.unwrap_or_else(|error| match error {
            StoreError::NotLeader(leader) => PeerReply::NotLeader(leader),
            error => PeerReply::Error(error.into()),
        })
    }

    /// Writes commands, in order, in one entry. What cannot be written because Raft has ended says why it has.
    pub async fn propose(
        &self,
        commands: Vec<Command>,
        forwarded: bool,
        deadline: Instant,
    ) -> Result<Written, StoreError> {
        let written = self.committer.propose(commands, forwarded, deadline).await;
        written.map_err(|error| match (error, self.failure()) {
            (StoreError::Closed(_), Some(reason)) => StoreError::Closed(reason),
            (error, _) => error,
        })
    }

    async fn handle_propose(&self, commands: Vec<Command>) -> Result<PeerReply, StoreError> {
        let leadership = *self.leadership.borrow();
        if !leadership.is_leader {
            return Err(StoreError::NotLeader(leadership.leader));
        }
        let (index, effects) = self.propose(commands, true, Instant::now() + FORWARD_WITHIN).await?;
        Ok(PeerReply::Proposed { index, effects })
    }

    async fn handle_raft(&self, from: NodeId, call: RaftCall, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let body = self.pins.open_from(from, sealed).await?;
        let reply = match call {
            RaftCall::Append => {
                let request = codec::decode_any(body).map_err(malformed)?;
                codec::encode_any(&self.raft.append_entries(request).await.map_err(ended)?)
            }
            RaftCall::Vote => {
                let Ballot { pre, request } = codec::decode_any(body).map_err(malformed)?;
                let response =
                    if pre { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
                codec::encode_any(&response.map_err(ended)?)
            }
            RaftCall::Snapshot => codec::encode_any(&self.take_part(from, body).await?),
            RaftCall::Transfer => {
                let request = codec::decode_any(body).map_err(malformed)?;
                codec::encode_any(&self.raft.handle_transfer_leader(request).await.map_err(ended)?)
            }
        };
        Ok(self.pins.seal(&reply))
    }

    async fn take_part(&self, from: NodeId, body: &[u8]) -> Result<SnapshotAnswer, StoreError> {
        let part: Part = codec::decode_any(body).map_err(malformed)?;
        let (vote, meta) = (part.vote, part.meta.clone());
        match self.inbox.take(from, part).await? {
            Taken::Part(received) => Ok(SnapshotAnswer::More(received)),
            Taken::Whole(snapshot) => {
                let installed = self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
                Ok(SnapshotAnswer::Done(installed.map_err(ended)?))
            }
        }
    }

    /// Waits until this node has applied a log index; false where it has not within the time.
    pub async fn wait_applied(&self, index: u64, within: Duration) -> bool {
        let hot = self.machine.hot();
        if hot.applied() >= index || planted::on("session_token_ignored") {
            return true;
        }
        let wait = self.machine.waiters().wait(index, || hot.applied());
        timeout(within, wait).await.unwrap_or(false)
    }

    /// Waits until every member has applied a log index. Who has not said so within the time.
    pub async fn everyone_applied(&self, index: u64, within: Duration) -> Vec<NodeId> {
        let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let request = PeerRequest::Applied { index, within_ms };
        let asked = leadership::members(&self.raft).into_iter().map(|member| {
            let request = &request;
            async move {
                let applied = if member.node == self.peers.node() {
                    self.wait_applied(index, within).await
                } else {
                    let address = Arc::from(member.address);
                    let asked = self.peers.call(member.node, &address, Lane::Raft, request, within).await;
                    matches!(asked, Ok(PeerReply::Done))
                };
                (!applied).then_some(member.node)
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// ReadIndex, wherever the leader is (Ongaro 2014, 6.4).
    pub async fn read_index(&self, deadline: Instant) -> Result<u64, StoreError> {
        if planted::on("follower_read_called_linearizable") {
            return Ok(self.machine.hot().applied());
        }
        let mut leadership = self.leadership.clone();
        loop {
            let present = *leadership.borrow_and_update();
            let asked = async {
                match present.leader {
                    _ if present.is_leader => self.read_index_as_leader().await.ok(),
                    Some(leader) => {
                        let answer = self.ask_read_index(leader, deadline);
                        leadership::while_it_leads(self.leadership.clone(), present, answer).await.flatten()
                    }
                    None => None,
                }
            };
            match timeout_at(deadline, asked).await {
                Ok(Some(index)) => return Ok(index),
                Err(_) => return Err(StoreError::NoLeader),
                Ok(None) if leadership::change(&mut leadership, self.retry_pause).await => {}
                Ok(None) => return Err(StoreError::Closed("Raft has ended".into())),
            }
        }
    }

    async fn ask_read_index(&self, leader: NodeId, deadline: Instant) -> Option<u64> {
        let address = leadership::address(&self.raft, leader)?;
        let left = deadline.saturating_duration_since(Instant::now());
        match self.peers.call(leader, &address, Lane::Raft, &PeerRequest::ReadIndex, left).await {
            Ok(PeerReply::ReadIndex(index)) => {
                self.outside.forget();
                Some(index)
            }
            Ok(PeerReply::NoMember) => {
                self.outside.learn();
                None
            }
            _ => None,
        }
    }

    async fn read_index_as_leader(&self) -> Result<u64, StoreError> {
        if planted::on("leader_read_without_majority") && self.leadership.borrow().is_leader {
            return Ok(self.machine.hot().applied());
        }
        let asked = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
        let linearizer = asked.map_err(|_| StoreError::NotLeader(self.leadership.borrow().leader))?;
        Ok(linearizer.read_log_id().log_id().index)
    }

    /// Why Raft has ended, or is about to.
    pub fn failure(&self) -> Option<String> {
        if let Some(reason) = &*self.log.failure().borrow() {
            return Some(format!("the log cannot be written: {reason}"));
        }
        let metrics = self.raft.metrics();
        let state = metrics.borrow_watched().running_state.clone();
        state.err().map(|fatal| fatal.to_string())
    }

    /// How the store is.
    pub fn status(&self) -> Status {
        let applied = *self.machine.changes().borrow();
        let leadership = leadership::now(&self.raft);
        let (last_log, committed, snapshot) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let index = |id: &Option<crate::types::LogId>| id.map_or(0, |id| id.index);
            let committed = index(&metrics.local_committed).max(index(&metrics.cluster_committed));
            (metrics.last_log_index.unwrap_or(0), committed, index(&metrics.snapshot))
        };
        Status {
            term: leadership.term,
            last_log,
            applied: applied.index,
            committed: committed.max(applied.index),
            snapshot,
            leader: leadership.leader,
            role: leadership.role,
            members: leadership::members(&self.raft),
            outbox_len: applied.last_offset.0 - applied.acknowledged.0,
            last_offset: applied.last_offset,
            acknowledged: applied.acknowledged,
            revision: applied.revision,
            queue_len: self.committer.queue_len(),
        }
    }

    /// Ends everything, in the order of who needs whom.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "Raft did not end well");
        }
        self.peers.close().await;
        if let Err(error) = self.machine.stop().await {
            tracing::error!(%error, "the state did not end well: it will be rebuilt from snapshot and log");
        }
        if let Err(error) = self.log.stop().await {
            tracing::error!(%error, "the log did not end well");
        }
        note(Arc::clone(&self.promises)).await;
    }
}

/// Reads log and state on threads of their own: both may take a while.
async fn open_storage(config: StoreConfig, metrics: Metrics) -> Result<Opened, StoreError> {
    let open = move || {
        let folder = Folder::open(&config.dir, &config.pop, config.node)?;
        let pins = Pins::open(&folder.pins, folder.incarnation)?;
        let promises = Promises::open(&folder.promises)?;
        let durable = Arc::new(AtomicU64::new(0));
        let log = LogStore::open(
            &folder,
            config.log_chunk_bytes_max,
            &config.boot_id,
            Arc::clone(&durable),
            metrics.clone(),
        )?;
        let (cache_bytes, proven, boot) = (config.cache_bytes, log.last_index(), config.boot_id);
        let machine = Machine::open(StateConfig { folder, cache_bytes, proven, boot, durable }, metrics)?;
        Ok(Opened { log, machine, pins, promises })
    };
    runtime::blocking(open).await?
}

fn raft_config(config: &StoreConfig) -> Result<Config, StoreError> {
    let raft = Config {
        cluster_name: config.pop.to_string(),
        heartbeat_interval: config.heartbeat_ms,
        election_timeout_min: config.election_min_ms,
        election_timeout_max: config.election_max_ms,
        install_snapshot_timeout: SNAPSHOT_PART_MS,
        max_payload_entries: APPEND_LEN_MAX,
        replication_lag_threshold: config.snapshot_every.saturating_add(config.log_keep),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every),
        max_in_snapshot_log_to_keep: config.log_keep,
        purge_batch_size: (config.log_keep / 4).max(1),
        enable_pre_vote: Some(true),
        // A leader that hears no majority falls silent by turns. One that is deaf but not dumb would else keep its followers from
        // electing another for good (openraft, docs/protocol/check_quorum).
        quorum_loss_probe_interval: Some(2 * config.election_max_ms),
        // A leader that restarts asks to be elected: what it had may be old.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        ..Config::default()
    };
    raft.validate().map_err(|_| StoreError::Config("Raft's intervals do not fit each other"))
}

/// Lets memory go to sled, the committed index to the log and what others promised to its file, even when nothing more comes.
async fn housekeeping(machine: Machine, log: LogStore, promises: Arc<Promises>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(FLUSH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {
                if let Err(error) = machine.flush().await {
                    tracing::error!(%error, "the state cannot be written");
                }
                if log.note_committed().await.is_err() {
                    return;
                }
                let members = machine.hot().members();
                promises.keep_only(|node| !members.removed.contains(&node));
                note(Arc::clone(&promises)).await;
            }
        }
    }
}

async fn note(promises: Arc<Promises>) {
    match runtime::blocking(move || promises.write()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) | Err(error) => tracing::debug!(%error, "what other nodes promised is not written"),
    }
}

/// Ends Raft once the log takes no more writes: a leader that cannot write must not go on leading, nor wait for its next write to
/// find out.
async fn end_with_log(raft: Raft, log: LogStore, stop: CancellationToken) {
    let mut failure = log.failure();
    tokio::select! {
        () = stop.cancelled() => return,
        failed = failure.wait_for(Option::is_some) => if failed.is_err() { return },
    }
    if let Err(error) = raft.shutdown().await {
        tracing::error!(%error, "Raft did not end well");
    }
}

fn malformed(error: codec::CodecError) -> StoreError {
    StoreError::Remote(error.into())
}

fn ended(error: impl std::fmt::Display) -> StoreError {
    StoreError::Closed(error.to_string())
}
