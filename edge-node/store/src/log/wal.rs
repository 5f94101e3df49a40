//! The log's bytes: raft-log's records, filled with our types.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::IOFlushed;
use prometheus::Histogram;
use proto::codec;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::chunked_wal::ChunkedWal;
use raft_log::codeq::{Decode, Encode};
use raft_log::{Config, RaftLog, RaftWalTypes};
use tokio::sync::oneshot;

use super::mark::{Known, Mark};
use super::mend::mend;
use crate::error::StoreError;
use crate::types::{Batch, Entry, LogId, Types, Vote};

/// No record is shorter.
const RECORD_BYTES_MIN: usize = 32;
/// Buffer of the sequential read at start.
const READ_BUFFER_BYTES: usize = 1024 * 1024;
/// Writes that wait for the disk; the log's thread waits where it is full.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest payload of a record.
const PAYLOAD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The log on disk.
pub type Wal = RaftLog<WalTypes>;

/// raft-log's types, as we fill them in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalTypes;

impl raft_log::Types for WalTypes {
    /// Term, index.
    type LogId = (u64, u64);
    type LogPayload = Payload;
    type Vote = WalVote;
    type Callback = Flushed;
    type UserData = u64;

    fn log_index(id: &Self::LogId) -> u64 {
        id.1
    }

    fn payload_size(payload: &Payload) -> u64 {
        payload.bytes.len() as u64
    }
}

/// Opens the log, or begins an empty one, with the mark beside it. What it then holds is on the disk. A record that was
/// cut off at the end is dropped: nobody was told it is there.
pub fn open(dir: &Path, chunk_bytes_max: usize, boot: &str) -> Result<(Wal, Mark), StoreError> {
    let text = dir.to_str().ok_or(StoreError::Config("dir must be UTF-8"))?;
    let mut config = Config::new(text);
    // raft-log reads the file being written from memory only, and takes for another file's what has no higher id than that
    // one's last: after a truncation that may be entries of this one. So memory holds a whole file of them.
    config.log_cache_capacity = Some(chunk_bytes_max + PAYLOAD_BYTES_MAX as usize);
    config.log_cache_max_items = Some(chunk_bytes_max / RECORD_BYTES_MIN);
    config.wal.chunk_max_size = Some(chunk_bytes_max);
    config.wal.read_buffer_size = Some(READ_BUFFER_BYTES);
    config.wal.flush_queue_max_bytes = Some(QUEUE_BYTES_MAX);
    // Groups are made before the log; to wait for more company would only be late.
    config.wal.flush_batch_wait = Some(Duration::ZERO);
    config.wal.truncate_incomplete_record = Some(true);
    let mark = dir.with_extension("mark");
    if let Some(known) = Known::read(&mark)? {
        let lock = ChunkedWal::<RaftWalTypes<WalTypes>>::acquire_lock(&config.wal);
        let _lock = lock.map_err(|e| StoreError::io("lock", dir, e))?;
        mend(dir, &known, boot)?;
    }
    let mut wal = RaftLog::open(Arc::new(config)).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied => StoreError::io("lock", dir, error),
        _ => StoreError::LogDamaged(error),
    })?;
    let synced = wal.flush(true, None).and_then(|()| wal.wait_worker_idle());
    synced.map_err(|e| StoreError::io("sync", dir, e))?;
    let mark = Mark::begin(&mark, boot, end(&wal))?;
    Ok((wal, mark))
}

/// Bytes since the log's beginning.
pub fn end(wal: &Wal) -> u64 {
    wal.stat().open_chunk.global_end
}

pub fn id_to_wal(id: LogId) -> (u64, u64) {
    (**id.committed_leader_id(), id.index)
}

pub fn id_of_wal((term, index): (u64, u64)) -> LogId {
    LogId::new_term_index(term, index)
}

/// A vote, ordered as votes follow each other: within a term, a leader that was elected replaces a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalVote {
    term: u64,
    committed: bool,
    node: u64,
}

impl From<Vote> for WalVote {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, committed: vote.committed, node: vote.leader_id.voted_for }
    }
}

impl From<WalVote> for Vote {
    fn from(vote: WalVote) -> Self {
        if vote.committed {
            Vote::new_committed(vote.term, vote.node)
        } else {
            Vote::new(vote.term, vote.node)
        }
    }
}

impl Encode for WalVote {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        Ok(self.term.encode(&mut w)? + u8::from(self.committed).encode(&mut w)? + self.node.encode(&mut w)?)
    }
}

impl Decode for WalVote {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let term = u64::decode(&mut r)?;
        let committed = match u8::decode(&mut r)? {
            0 => false,
            1 => true,
            other => return Err(invalid(format!("{other} is no flag"))),
        };
        Ok(Self { term, committed, node: u64::decode(&mut r)? })
    }
}

/// What an entry holds. A batch's bytes are shared with the entry in memory, not copied.
#[derive(Debug, Clone)]
pub struct Payload {
    kind: u8,
    bytes: Bytes,
}

const BLANK: u8 = 0;
const BATCH: u8 = 1;
const MEMBERSHIP: u8 = 2;

impl Payload {
    pub fn of(entry: &Entry) -> Self {
        match &entry.payload {
            EntryPayload::Blank => Self { kind: BLANK, bytes: Bytes::new() },
            EntryPayload::Normal(batch) => Self { kind: BATCH, bytes: batch.bytes().clone() },
            EntryPayload::Membership(members) => {
                Self { kind: MEMBERSHIP, bytes: codec::encode_any(members).into() }
            }
        }
    }

    pub fn into_entry(self, id: (u64, u64)) -> io::Result<Entry> {
        let payload = match self.kind {
            BLANK => EntryPayload::Blank,
            BATCH => EntryPayload::Normal(Batch::of_bytes(self.bytes)),
            MEMBERSHIP => EntryPayload::Membership(codec::decode_any(&self.bytes).map_err(invalid)?),
            other => return Err(invalid(format!("{other} is no kind of entry"))),
        };
        Ok(Entry { log_id: id_of_wal(id), payload })
    }
}

impl Encode for Payload {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        let len = u32::try_from(self.bytes.len()).map_err(invalid)?;
        let head = self.kind.encode(&mut w)? + len.encode(&mut w)?;
        w.write_all(&self.bytes)?;
        Ok(head + self.bytes.len())
    }
}

impl Decode for Payload {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let kind = u8::decode(&mut r)?;
        let len = u64::from(u32::decode(&mut r)?);
        if len > PAYLOAD_BYTES_MAX {
            return Err(invalid(format!("an entry of {len} bytes, at most {PAYLOAD_BYTES_MAX} are allowed")));
        }
        // Memory is taken as bytes come, not as the length promises.
        let mut bytes = Vec::new();
        r.take(len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { kind, bytes: bytes.into() })
    }
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// Who is told when fdatasync has returned.
pub struct Flushed {
    pub who: Who,
    /// The log's end when it was asked for.
    pub end: u64,
    pub mark: Arc<Mark>,
    pub since: Instant,
    pub seconds: Histogram,
}

/// Whom to tell.
pub enum Who {
    /// Raft, of an append.
    Raft(IOFlushed<Types>),
    /// Whoever waits for a vote, a truncation or a purge.
    Asker(oneshot::Sender<io::Result<()>>),
}

impl raft_log::Callback for Flushed {
    fn send(self, result: io::Result<()>) {
        self.seconds.observe(self.since.elapsed().as_secs_f64());
        if result.is_ok() {
            self.mark.advance(self.end);
        }
        match self.who {
            Who::Raft(callback) => callback.io_completed(result),
            Who::Asker(done) => drop(done.send(result)),
        }
    }
}
