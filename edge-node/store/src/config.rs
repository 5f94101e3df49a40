//! What can be set of a store, checked before anything starts.

use std::path::PathBuf;
use std::time::Duration;

use proto::{NodeId, PopId};

use crate::error::StoreError;

/// Largest encoded batch of commands in one Raft entry. Two of them and their envelope fit a peer frame of 8 MiB.
pub const GROUP_BYTES_CEILING: usize = 3 * 1024 * 1024;
/// Most commands in one Raft entry.
pub const GROUP_LEN_CEILING: usize = 4_096;

/// Settings of a [`crate::Store`].
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The PoP this node belongs to. A folder written for another is refused.
    pub pop: PopId,
    /// This node. A folder written for another is refused.
    pub node: NodeId,
    /// Where log, state and snapshots lie; made if absent.
    pub dir: PathBuf,
    /// Where the other nodes reach this one, `host:port`.
    pub peer_address: String,
    /// Interval of the leader's heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest election timeout. At least ten times the p99 of a durable append.
    pub election_min_ms: u64,
    /// Longest election timeout.
    pub election_max_ms: u64,
    /// Most commands in one Raft entry.
    pub group_commit_len_max: usize,
    /// Most bytes in one Raft entry.
    pub group_commit_bytes_max: usize,
    /// Raft entries of this node that may be on their way at once.
    pub groups_in_flight_max: usize,
    /// Most proposals that wait for a group.
    pub queue_len_max: usize,
    /// Most bytes of proposals that wait for a group or are on their way.
    pub queue_bytes_max: usize,
    /// Most notes (`Served`) that wait for a group.
    pub note_queue_len_max: usize,
    /// Longest that a note waits for a group that goes anyway, before it goes alone.
    pub note_linger_ms: u64,
    /// A snapshot is made after this many Raft entries.
    pub snapshot_every: u64,
    /// Raft entries kept behind a snapshot, so that a node that was away shortly catches up by log.
    pub log_keep: u64,
    /// A file of the log is ended at this size. The one being written is also in memory.
    pub log_chunk_bytes_max: usize,
    /// Names the present boot of the machine. What was written but not synced is there as long as it is the same: a crash
    /// of the process keeps it, a power cut does not.
    pub boot_id: String,
    /// Largest snapshot that is accepted from a peer, in bytes.
    pub snapshot_bytes_max: u64,
    /// Memory for sled's pages and decoded profiles together.
    pub cache_bytes: u64,
    /// `Track` is refused while so many events wait for the cloud.
    pub outbox_len_max: u64,
}

impl StoreConfig {
    /// The defaults for a node.
    pub fn new(pop: PopId, node: NodeId, dir: impl Into<PathBuf>, peer_address: impl Into<String>) -> Self {
        Self {
            pop,
            node,
            dir: dir.into(),
            peer_address: peer_address.into(),
            heartbeat_ms: 80,
            election_min_ms: 250,
            election_max_ms: 400,
            group_commit_len_max: 1_024,
            group_commit_bytes_max: 1024 * 1024,
            groups_in_flight_max: 2,
            queue_len_max: 8_192,
            queue_bytes_max: 64 * 1024 * 1024,
            note_queue_len_max: 8_192,
            note_linger_ms: 25,
            snapshot_every: 20_000,
            log_keep: 5_000,
            log_chunk_bytes_max: 16 * 1024 * 1024,
            boot_id: crate::durable::boot_id(),
            snapshot_bytes_max: 16 * 1024 * 1024 * 1024,
            cache_bytes: 256 * 1024 * 1024,
            outbox_len_max: 1_000_000,
        }
    }

    /// Pause before a leader that is not there, or no leader any more, is asked again: a third of a heartbeat.
    pub(crate) fn retry_pause(&self) -> Duration {
        Duration::from_millis((self.heartbeat_ms / 3).max(1))
    }

    /// Refuses what cannot work, with the reason.
    ///
    /// # Errors
    /// [`StoreError::Config`] naming the first setting that is wrong.
    pub fn check(&self) -> Result<(), StoreError> {
        let hard = crate::machine::OUTBOX_LEN_MAX;
        let checks = [
            (self.heartbeat_ms > 0, "heartbeat_ms must not be 0"),
            (
                self.election_min_ms >= 3 * self.heartbeat_ms,
                "election_min_ms must be three heartbeats or more",
            ),
            (self.election_max_ms > self.election_min_ms, "election_max_ms must be above election_min_ms"),
            ((1..=GROUP_LEN_CEILING).contains(&self.group_commit_len_max), "group_commit_len_max: 1 to 4096"),
            (
                (64 * 1024..=GROUP_BYTES_CEILING).contains(&self.group_commit_bytes_max),
                "group_commit_bytes_max: 64 KiB to 3 MiB",
            ),
            ((1..=64).contains(&self.groups_in_flight_max), "groups_in_flight_max: 1 to 64"),
            ((1..=1 << 20).contains(&self.queue_len_max), "queue_len_max: 1 to 1048576"),
            (
                (self.group_commit_bytes_max..=1 << 30).contains(&self.queue_bytes_max),
                "queue_bytes_max: group_commit_bytes_max to 1 GiB",
            ),
            ((1..=1 << 20).contains(&self.note_queue_len_max), "note_queue_len_max: 1 to 1048576"),
            (self.snapshot_every > 0, "snapshot_every must not be 0"),
            ((4096..=1 << 30).contains(&self.log_chunk_bytes_max), "log_chunk_bytes_max: 4 KiB to 1 GiB"),
            (self.snapshot_bytes_max > 0, "snapshot_bytes_max must not be 0"),
            (self.cache_bytes >= 16 * 1024 * 1024, "cache_bytes: 16 MiB or more"),
            ((1..=hard).contains(&self.outbox_len_max), "outbox_len_max: 1 to machine::OUTBOX_LEN_MAX"),
            (!self.peer_address.is_empty(), "peer_address must not be empty"),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            Some((_, reason)) => Err(StoreError::Config(reason)),
            None => Ok(()),
        }
    }
}
