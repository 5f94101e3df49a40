//! The log's bytes, behind a seam: raft-log's records on files, filled with our types; in a simulation a disk in memory.

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
use raft_log::codeq::{Decode, Encode, Span};
use raft_log::{Config, RaftLog, RaftWalTypes, Segment};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::mark::{Known, Mark};
use super::mend::mend;
use super::tail::{Numbers, size};
use crate::error::StoreError;
use crate::types::{Batch, Entry, LogId, Types, Vote};

/// No record is shorter.
const RECORD_BYTES_MIN: usize = 32;
/// Buffer of the sequential read at start.
const READ_BUFFER_BYTES: usize = 1024 * 1024;
/// Bytes that wait for the disk. Never that many: the log sees to it that whoever writes does not wait here.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest payload of a record.
const PAYLOAD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What a log is written to. Writes take effect in the order they are made; they are durable once a [`Wal::flush`] that
/// was asked for after them has called back.
pub trait Wal: Send {
    /// What it holds.
    fn numbers(&self) -> Numbers;
    /// Writes entries after the last.
    fn append(&mut self, entries: &[Entry]) -> io::Result<()>;
    /// Writes the vote.
    fn save_vote(&mut self, vote: Vote) -> io::Result<()>;
    /// Writes the last index known to be committed.
    fn save_committed(&mut self, id: LogId) -> io::Result<()>;
    /// Removes entries from `next` on.
    fn truncate(&mut self, next: u64) -> io::Result<()>;
    /// Removes entries up to `upto`.
    fn purge(&mut self, upto: LogId) -> io::Result<()>;
    /// Entries from `start` to before `end`, at most `bytes_max` bytes of them but one at least.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>>;
    /// Makes what was written durable, and tells. Nobody to tell: hands it to the operating system, no more.
    fn flush(&mut self, flushed: Option<Flushed>) -> io::Result<()>;
    /// Makes all durable, and lets go of the files.
    fn stop(self: Box<Self>) -> io::Result<()>;
}

/// The log on files.
struct Files {
    wal: RaftLog<WalTypes>,
    mark: Arc<Mark>,
    /// The log's end, in bytes since its beginning.
    end: u64,
}

/// raft-log's types, as we fill them in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalTypes;

impl raft_log::Types for WalTypes {
    /// Term, index.
    type LogId = (u64, u64);
    type LogPayload = Payload;
    type Vote = WalVote;
    type Callback = Synced;
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
pub fn open(dir: &Path, chunk_bytes_max: usize, boot: &str) -> Result<Box<dyn Wal>, StoreError> {
    #[cfg(feature = "sim")]
    if let Some(host) = crate::sim::Host::current() {
        return Ok(Box::new(host.disk().log()));
    }
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
        // The system refused: nothing is known to be wrong with what is there.
        io::ErrorKind::StorageFull => StoreError::io("open", dir, error),
        _ if error.raw_os_error().is_some() => StoreError::io("open", dir, error),
        _ => StoreError::LogDamaged(error),
    })?;
    let synced = wal.flush(true, None).and_then(|()| wal.wait_worker_idle());
    synced.map_err(|e| StoreError::io("sync", dir, e))?;
    let end = wal.stat().open_chunk.global_end;
    let mark = Arc::new(Mark::begin(&mark, boot, end)?);
    Ok(Box::new(Files { wal, mark, end }))
}

impl Files {
    /// Writes, and remembers where the log ends. An error is raft-log's own reason, not that its thread has ended.
    fn write(&mut self, write: impl FnOnce(&mut RaftLog<WalTypes>) -> io::Result<Segment>) -> io::Result<()> {
        match write(&mut self.wal) {
            Ok(written) => {
                self.end = written.end().0;
                Ok(())
            }
            Err(error) => Err(self.wal.wait_worker_idle().err().unwrap_or(error)),
        }
    }
}

impl Wal for Files {
    fn numbers(&self) -> Numbers {
        let state = self.wal.log_state();
        let [last, purged, committed] =
            [state.last(), state.purged(), state.committed()].map(|id| id.copied().map(id_of_wal));
        Numbers { last, purged, committed, vote: state.vote().copied().map(Vote::from) }
    }

    fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let records = entries.iter().map(|entry| (id_to_wal(entry.log_id), Payload::of(entry)));
        self.write(|wal| wal.append(records))
    }

    fn save_vote(&mut self, vote: Vote) -> io::Result<()> {
        self.write(|wal| wal.save_vote(vote.into()))
    }

    fn save_committed(&mut self, id: LogId) -> io::Result<()> {
        self.write(|wal| wal.commit(id_to_wal(id)))
    }

    fn truncate(&mut self, next: u64) -> io::Result<()> {
        self.write(|wal| wal.truncate(next))
    }

    fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.write(|wal| wal.purge(id_to_wal(upto)))
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for record in self.wal.read(start, end) {
            let (id, payload) = record?;
            let entry = payload.into_entry(id)?;
            bytes += size(&entry);
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn flush(&mut self, flushed: Option<Flushed>) -> io::Result<()> {
        let synced = flushed.map(|flushed| Synced { flushed, end: self.end, mark: Arc::clone(&self.mark) });
        let asked = self.wal.flush(synced.is_some(), synced);
        asked.map_err(|error| self.wal.wait_worker_idle().err().unwrap_or(error))
    }

    fn stop(mut self: Box<Self>) -> io::Result<()> {
        self.wal.flush(true, None)?;
        self.wal.wait_worker_idle()?;
        self.mark.advance(self.end);
        self.mark.sync()
    }
}

fn id_to_wal(id: LogId) -> (u64, u64) {
    (**id.committed_leader_id(), id.index)
}

fn id_of_wal((term, index): (u64, u64)) -> LogId {
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
    pub since: Instant,
    pub seconds: Histogram,
}

/// Whom to tell.
pub enum Who {
    /// Raft, of an append; with the room that it took.
    Raft(IOFlushed<Types>, OwnedSemaphorePermit),
    /// Whoever waits for a vote, a truncation or a purge.
    Asker(oneshot::Sender<io::Result<()>>),
}

impl Flushed {
    /// Tells.
    pub fn tell(self, result: io::Result<()>) {
        self.seconds.observe(self.since.elapsed().as_secs_f64());
        match self.who {
            Who::Raft(callback, _room) => callback.io_completed(result),
            Who::Asker(done) => drop(done.send(result)),
        }
    }
}

/// What raft-log calls when fdatasync has returned.
pub struct Synced {
    flushed: Flushed,
    /// The log's end when it was asked for.
    end: u64,
    mark: Arc<Mark>,
}

impl raft_log::Callback for Synced {
    fn send(self, result: io::Result<()>) {
        if result.is_ok() {
            self.mark.advance(self.end);
        }
        self.flushed.tell(result);
    }
}
