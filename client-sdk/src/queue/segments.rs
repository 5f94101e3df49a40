//! The durable form of the queue: an append-only log in segment files, and how far it has been acknowledged.
//!
//! Blocking and single-threaded; [`super::Queue`] drives it. A group of records is written with one write and one
//! fsync. A segment is named after its first sequence number and goes away when all of it is acknowledged. A torn
//! tail is not repaired but passed over: what is whole behind it counts, the rest was never promised to anybody. A
//! lock file keeps a second process out; the system lets go of it when the process ends, however it ends.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use proto::{Event, EventId, codec};

use super::{OpenError, Queued, position, record};
use crate::session::BatchRoom;

const LOCK_FILE: &str = "lock";
const SUFFIX: &str = "segment";
/// Begins every segment; the last byte is the format's version.
const MAGIC: [u8; 8] = *b"RPQUEUE\x01";
/// Most segments in a folder: more are not ours.
const SEGMENTS_MAX: usize = 4_096;
/// Largest segment that is read at start. One takes `segment_bytes` and one group more.
const SEGMENT_READ_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What a segment costs at least of the queue's size, so that their number is bounded too.
const SEGMENT_COST_BYTES_MIN: u64 = 4_096;

/// Records that are written together.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) bytes: Vec<u8>,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) count: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    /// Sequence number before its first.
    after: u64,
    last: u64,
    /// Bytes that are durable.
    len: u64,
}

/// Where a record ended that was read last.
#[derive(Debug)]
struct Mark {
    seq: u64,
    id: EventId,
    /// [`Segment::after`] of its segment.
    after: u64,
    end: u64,
}

/// The log.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    segment_bytes: u64,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The last segment, open for appending.
    active: Option<File>,
    /// Where the first record that is not acknowledged may begin, in the first segment.
    head: u64,
    marks: VecDeque<Mark>,
    acknowledged: u64,
    last: u64,
    pending: u64,
    damaged: u64,
    newest: Option<EventId>,
    /// Held for as long as the log is open.
    lock: Option<File>,
}

impl Segments {
    /// Opens the log in `dir`, which is made if need be.
    pub(super) fn open(dir: &Path, segment_bytes: u64) -> Result<Self, OpenError> {
        fs::create_dir_all(dir).map_err(|e| OpenError::io("make the folder", dir, e))?;
        let lock = lock(dir)?;
        let position = position::read(dir).map_err(|e| OpenError::io("read the position", dir, e))?;
        let mut log = Self {
            dir: dir.to_owned(),
            segment_bytes,
            segments: VecDeque::new(),
            active: None,
            head: MAGIC.len() as u64,
            marks: VecDeque::new(),
            acknowledged: position.seq,
            last: position.seq,
            pending: 0,
            damaged: 0,
            newest: position.newest,
            lock: Some(lock),
        };
        for path in segment_files(dir)? {
            log.recover(&path).map_err(|e| OpenError::io("read a segment", &path, e))?;
        }
        if log.damaged > 0 {
            tracing::warn!(dir = %dir.display(), places = log.damaged, "the queue had damaged or torn records");
        }
        Ok(log)
    }

    /// Writes a group; when this returns, it is on the disk. On an error nothing of it counts.
    pub(super) fn append(&mut self, group: &Group) -> io::Result<()> {
        self.check_open()?;
        let full = self.segments.back().is_none_or(|segment| segment.len >= self.segment_bytes);
        if full || self.active.is_none() {
            self.begin_segment(group)?;
        } else {
            self.extend_segment(group)?;
        }
        self.last = group.last;
        self.pending += group.count;
        Ok(())
    }

    /// The next events that are not acknowledged, at most `count_max` and `bytes_max` encoded bytes of them. The
    /// same ones again, until they are acknowledged.
    pub(super) fn read(&mut self, count_max: usize, bytes_max: usize) -> io::Result<Vec<Queued>> {
        self.check_open()?;
        self.marks.clear();
        let (mut events, mut room) = (Vec::new(), BatchRoom::new(count_max, bytes_max));
        // With the headers of its records and with the record that does not fit any more.
        let part_bytes = bytes_max + 2 * (record::HEADER_BYTES + record::PAYLOAD_BYTES_MAX);
        let mut start = self.head;
        for segment in &self.segments {
            let (mut bytes, whole) = read_part(segment, start, part_bytes)?;
            let mut full = read_events(segment, start, &bytes, &mut room, &mut events, &mut self.marks);
            if !whole && events.is_empty() {
                // Damage larger than a batch: look behind it.
                (bytes, _) = read_part(segment, start, usize::MAX)?;
                full = read_events(segment, start, &bytes, &mut room, &mut events, &mut self.marks);
            } else if !whole {
                full = true;
            }
            if full {
                return Ok(events);
            }
            start = MAGIC.len() as u64;
        }
        if events.is_empty() && self.pending > 0 {
            // What was counted at start has rotted since. Nothing can bring it back; waiting for it would block
            // flushes.
            tracing::warn!(events = self.pending, "queued events have become unreadable");
            self.pending = 0;
            self.acknowledged = self.last;
        }
        Ok(events)
    }

    /// Everything up to `seq`, which was read last, needs not to be sent again. On an error it is forgotten in
    /// memory, but may be sent once more after a restart.
    pub(super) fn acknowledge(&mut self, seq: u64) -> io::Result<()> {
        self.check_open()?;
        let mut newest = None;
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.seq <= seq) {
            self.pending = self.pending.saturating_sub(1);
            self.acknowledged = mark.seq;
            newest = Some(mark.id);
            while self.segments.front().is_some_and(|segment| segment.after != mark.after) {
                self.drop_first();
            }
            self.head = mark.end;
        }
        let written = newest.map_or(Ok(()), |id| position::write(&self.dir, self.acknowledged, id));
        let acknowledged = self.acknowledged;
        let done = |segment: &Segment| segment.last <= acknowledged;
        // The one being written is given up, too, when it is done and no longer small.
        if self.segments.back().is_some_and(|last| done(last) && last.len * 2 >= self.segment_bytes) {
            self.active = None;
        }
        let kept = usize::from(self.active.is_some());
        while self.segments.len() > kept && self.segments.front().is_some_and(done) {
            self.drop_first();
        }
        written
    }

    /// Lets go of the folder; nothing else can be done with the log after.
    pub(super) fn close(&mut self) {
        self.active = None;
        self.lock = None;
    }

    fn check_open(&self) -> io::Result<()> {
        if self.lock.is_some() { Ok(()) } else { Err(io::Error::other("the queue is closed")) }
    }

    /// Events that are not acknowledged.
    pub(super) fn pending(&self) -> u64 {
        self.pending
    }

    /// Sequence number of the newest event that is durable.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Sequence number up to which all is acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The id of the newest event that an earlier run is known to have queued.
    pub(super) fn newest(&self) -> Option<EventId> {
        self.newest
    }

    /// What the segments take of the queue's size.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len.max(SEGMENT_COST_BYTES_MIN)).sum()
    }

    /// Most that one more group takes beyond its own bytes.
    pub(super) fn group_overhead_bytes() -> u64 {
        SEGMENT_COST_BYTES_MIN
    }

    fn recover(&mut self, path: &Path) -> io::Result<()> {
        let len = fs::metadata(path)?.len();
        if len > SEGMENT_READ_BYTES_MAX {
            return Err(io::Error::other(format!("{len} bytes, at most {SEGMENT_READ_BYTES_MAX} are ours")));
        }
        let bytes = fs::read(path)?;
        let magic = bytes.get(..MAGIC.len()).unwrap_or_default();
        if magic.len() == MAGIC.len() && magic[..7] == MAGIC[..7] && magic != MAGIC {
            return Err(io::Error::other(format!("format {}: made by a newer version", magic[7])));
        }
        // Bytes of an older run may repeat numbers that are acknowledged, but never go back behind the segment
        // before.
        let after = self.segments.back().map_or(0, |segment| segment.last);
        let mut walk = Walk { bytes: &bytes, at: MAGIC.len().min(bytes.len()), after, damaged: 0 };
        let (mut last, mut clean_end, mut head) = (after, walk.at, walk.at);
        while let Some((end, record)) = walk.next() {
            (last, clean_end) = (record.seq, end);
            if record.seq <= self.acknowledged {
                head = end;
            }
            if let Ok(event) = codec::decode::<Event>(record.payload) {
                self.newest = self.newest.max(Some(event.id));
                self.pending += u64::from(record.seq > self.acknowledged);
            }
        }
        self.damaged += walk.damaged;
        self.last = self.last.max(last);
        if last <= self.acknowledged || last == after {
            return fs::remove_file(path);
        }
        // Whole records behind the last fsync of a killed process are in the system's memory only.
        let file = OpenOptions::new().append(true).open(path)?;
        file.sync_all()?;
        let whole = clean_end == bytes.len() && magic == MAGIC;
        self.active = whole.then_some(file);
        if self.segments.is_empty() {
            self.head = head as u64;
        }
        self.segments.push_back(Segment { path: path.to_owned(), after, last, len: bytes.len() as u64 });
        Ok(())
    }

    fn begin_segment(&mut self, group: &Group) -> io::Result<()> {
        self.active = None;
        let path = self.dir.join(format!("{:020}.{SUFFIX}", group.first));
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&group.bytes);
        let written = OpenOptions::new().append(true).create_new(true).open(&path).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()?;
            position::sync_dir(&self.dir)?;
            Ok(file)
        });
        match written {
            Ok(file) => {
                let after = self.last;
                self.segments.push_back(Segment { path, after, last: group.last, len: bytes.len() as u64 });
                self.active = Some(file);
                Ok(())
            }
            Err(error) => {
                if let Err(second) = fs::remove_file(&path) {
                    tracing::debug!(error = %second, path = %path.display(), "a failed segment stays");
                }
                Err(error)
            }
        }
    }

    fn extend_segment(&mut self, group: &Group) -> io::Result<()> {
        let (Some(file), Some(segment)) = (&mut self.active, self.segments.back_mut()) else {
            return Err(io::Error::other("no segment is open"));
        };
        let written = file.write_all(&group.bytes).and_then(|()| file.sync_data());
        match written {
            Ok(()) => {
                segment.len += group.bytes.len() as u64;
                segment.last = group.last;
            }
            Err(_) => {
                // After a failed fsync nobody knows what is on the disk: cut the group off, and go on in a new
                // segment.
                if let Err(error) = file.set_len(segment.len).and_then(|()| file.sync_all()) {
                    tracing::warn!(%error, path = %segment.path.display(), "a failed group could not be cut off");
                }
                self.active = None;
            }
        }
        written
    }

    fn drop_first(&mut self) {
        self.head = MAGIC.len() as u64;
        if let Some(segment) = self.segments.pop_front()
            && let Err(error) = fs::remove_file(&segment.path)
        {
            tracing::warn!(%error, path = %segment.path.display(), "an acknowledged segment stays");
        }
    }
}

/// Goes over the records of a buffer, and over what is none.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    after: u64,
    damaged: u64,
}

impl<'a> Walk<'a> {
    /// The next record and where it ends.
    fn next(&mut self) -> Option<(usize, record::Record<'a>)> {
        let bytes: &'a [u8] = self.bytes;
        let (at, record) = match record::read(bytes.get(self.at..)?, self.after) {
            Some(record) => (self.at, record),
            None => record::find(bytes, self.at, self.after).or_else(|| {
                self.damaged += u64::from(self.at < bytes.len());
                self.at = bytes.len();
                None
            })?,
        };
        self.damaged += u64::from(at != self.at);
        self.at = at + record.len();
        self.after = record.seq;
        Some((self.at, record))
    }
}

/// Takes the events of a part of a segment that begins at `start`. True: the batch is full.
fn read_events(
    segment: &Segment,
    start: u64,
    bytes: &[u8],
    room: &mut BatchRoom,
    events: &mut Vec<Queued>,
    marks: &mut VecDeque<Mark>,
) -> bool {
    let mut walk = Walk { bytes, at: 0, after: segment.after, damaged: 0 };
    while let Some((end, record)) = walk.next() {
        let event = match codec::decode::<Event>(record.payload) {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, seq = record.seq, "a queued event of another version is passed over");
                continue;
            }
        };
        if !room.admit(record.payload.len()) {
            return true;
        }
        marks.push_back(Mark {
            seq: record.seq,
            id: event.id,
            after: segment.after,
            end: start + end as u64,
        });
        events.push(Queued { seq: record.seq, bytes: record.payload.len(), event });
    }
    false
}

/// At most `bytes_max` bytes of a segment from `start` on, and whether that is all of it.
fn read_part(segment: &Segment, start: u64, bytes_max: usize) -> io::Result<(Vec<u8>, bool)> {
    let rest = segment.len.saturating_sub(start);
    let len = rest.min(bytes_max as u64);
    let mut bytes = Vec::new();
    if len > 0 {
        let mut file = File::open(&segment.path)?;
        file.seek(SeekFrom::Start(start))?;
        file.take(len).read_to_end(&mut bytes)?;
    }
    Ok((bytes, len == rest))
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| OpenError::io("open the lock", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(OpenError::io("lock", &path, error)),
    }
}

/// The segments of a folder, oldest first.
fn segment_files(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let io = |error| OpenError::io("list the folder", dir, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let number =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|suffix| suffix == SUFFIX)) {
            found.push((number, path));
        }
        if found.len() > SEGMENTS_MAX {
            return Err(io(io::Error::other(format!("more than {SEGMENTS_MAX} segments"))));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests;
