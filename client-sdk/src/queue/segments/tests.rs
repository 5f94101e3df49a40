//! The log under restarts, torn writes and rot.

use proptest::prelude::*;
use proto::{EventKind, TraceId, UserId, VisitorId};
use tempfile::TempDir;

use super::*;
use crate::ids::EventIds;

const SEGMENT_BYTES: u64 = 1_024;
const ALL: (usize, usize) = (10_000, 10_000_000);

/// In memory where there is such a folder: these tests are about order, not about the disk.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

const NOW_MS: u64 = 1_700_000_000_000;

fn event(id: EventId, size: usize) -> Event {
    Event {
        id,
        visitor: VisitorId::User(UserId::new("u").unwrap()),
        at_ms: 1,
        trace: TraceId(1),
        kind: EventKind::Custom { name: "x".repeat(size.max(1)), attributes: Vec::new() },
    }
}

/// A user of the log, as [`super::super::Queue`] is one.
struct Writer {
    ids: EventIds,
    next_seq: u64,
    now_ms: u64,
}

impl Writer {
    fn for_log(log: &Segments) -> Self {
        Self { ids: EventIds::after(log.newest()), next_seq: log.last() + 1, now_ms: NOW_MS }
    }

    fn group(&mut self, sizes: &[usize]) -> (Group, Vec<EventId>) {
        let (mut group, mut made) = (Group { first: self.next_seq, ..Group::default() }, Vec::new());
        for size in sizes {
            let event = event(self.ids.next(self.now_ms), *size);
            assert!(record::write(&mut group.bytes, self.next_seq, &codec::encode(&event)));
            made.push(event.id);
            group.last = self.next_seq;
            group.count += 1;
            self.next_seq += 1;
        }
        (group, made)
    }

    fn append(&mut self, log: &mut Segments, sizes: &[usize]) -> Vec<EventId> {
        let (group, made) = self.group(sizes);
        log.append(&group).unwrap();
        made
    }
}

fn open(dir: &Path) -> Segments {
    Segments::open(dir, SEGMENT_BYTES).unwrap()
}

fn ids(events: &[Queued]) -> Vec<EventId> {
    events.iter().map(|queued| queued.event.id).collect()
}

fn all(log: &mut Segments) -> Vec<EventId> {
    ids(&log.read(ALL.0, ALL.1).unwrap())
}

fn segments_in(dir: &Path) -> Vec<PathBuf> {
    segment_files(dir).unwrap()
}

#[derive(Debug, Clone)]
enum Op {
    /// Events of these sizes, as one group.
    Append(Vec<usize>),
    /// So many are read and acknowledged.
    Deliver(usize),
    /// So many are read, and no answer comes.
    Lose(usize),
    /// The process ends, orderly or not: what was written is there.
    Restart,
    /// The machine dies while a group is written: of its last so many per mille of bytes nothing is there.
    Die(Vec<usize>, u64),
    /// As before, and there is rubbish in their place.
    DieWithRubbish(Vec<usize>, u64, Vec<u8>),
    /// The position is lost.
    LosePosition,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let sizes = || prop::collection::vec(1_usize..400, 1..6);
    let op = prop_oneof![
        4 => sizes().prop_map(Op::Append),
        3 => (1_usize..8).prop_map(Op::Deliver),
        1 => (1_usize..8).prop_map(Op::Lose),
        2 => Just(Op::Restart),
        1 => (sizes(), 0_u64..=1_000).prop_map(|(sizes, cut)| Op::Die(sizes, cut)),
        1 => (sizes(), 0_u64..=1_000, prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(sizes, cut, rubbish)| Op::DieWithRubbish(sizes, cut, rubbish)),
        1 => Just(Op::LosePosition),
    ];
    prop::collection::vec(op, 1..40)
}

/// What must hold of the log, and how far it has been driven.
struct Play {
    dir: TempDir,
    log: Option<Segments>,
    writer: Writer,
    /// Every event that is in the queue for good, in order.
    promised: Vec<EventId>,
    /// How many of them are acknowledged.
    acknowledged: usize,
}

impl Play {
    fn new() -> Self {
        let dir = folder();
        let log = open(dir.path());
        Self { writer: Writer::for_log(&log), log: Some(log), dir, promised: Vec::new(), acknowledged: 0 }
    }

    fn log(&mut self) -> &mut Segments {
        self.log.as_mut().unwrap()
    }

    fn restart(&mut self) {
        self.log = None;
        let log = open(self.dir.path());
        // The clock stands still over a restart.
        self.writer = Writer { now_ms: self.writer.now_ms, ..Writer::for_log(&log) };
        self.log = Some(log);
    }

    /// Writes a group, and then leaves only a part of it, as if its fsync had never ended.
    fn die(&mut self, sizes: &[usize], cut_per_mille: u64, rubbish: &[u8]) {
        let (group, maybe) = self.writer.group(sizes);
        self.log().append(&group).unwrap();
        let path = self.log().segments.back().unwrap().path.clone();
        self.log = None;
        let len = fs::metadata(&path).unwrap().len();
        let cut = group.bytes.len() as u64 * cut_per_mille / 1_000;
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.set_len(len - cut).unwrap();
        file.write_all(rubbish).unwrap();
        self.restart();
        // Nobody was promised these events; those that are whole are taken.
        let found = all(self.log());
        let promised_left = self.promised.len() - self.acknowledged;
        let extra = found[promised_left..].to_vec();
        assert_eq!(extra, maybe[..extra.len()], "a part of the torn group, from its beginning");
        self.promised.extend(extra);
    }

    fn check(&mut self) {
        let waiting = self.promised[self.acknowledged..].to_vec();
        assert_eq!(all(self.log()), waiting, "everything promised and not acknowledged, in order");
        assert_eq!(self.log().pending(), waiting.len() as u64);
    }

    fn play(&mut self, op: &Op) {
        match op {
            Op::Append(sizes) => {
                let Self { writer, log, promised, .. } = self;
                promised.extend(writer.append(log.as_mut().unwrap(), sizes));
            }
            Op::Deliver(count) => {
                let batch = self.log().read(*count, ALL.1).unwrap();
                assert!(batch.len() <= *count);
                let end = self.acknowledged + batch.len();
                assert_eq!(ids(&batch), self.promised[self.acknowledged..end]);
                if let Some(newest) = batch.last() {
                    self.log().acknowledge(newest.seq).unwrap();
                }
                self.acknowledged = end;
            }
            Op::Lose(count) => {
                self.log().read(*count, ALL.1).unwrap();
            }
            Op::Restart => self.restart(),
            Op::Die(sizes, cut) => self.die(sizes, *cut, &[]),
            Op::DieWithRubbish(sizes, cut, rubbish) => self.die(sizes, *cut, rubbish),
            Op::LosePosition => {
                self.log = None;
                let _absent = fs::remove_file(self.dir.path().join("acknowledged"));
                self.restart();
                // Events are sent again as far as their segments are there, never left out.
                let found = all(self.log());
                assert!(found.len() >= self.promised.len() - self.acknowledged);
                assert_eq!(found, self.promised[self.promised.len() - found.len()..]);
                self.acknowledged = self.promised.len() - found.len();
                // With nothing left to tell of earlier ids, which run ahead by a millisecond a restart, order rests
                // on the clock.
                self.writer.now_ms += 1_000;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_promised_is_lost_reordered_or_sent_after_its_acknowledgement(ops in ops()) {
        let mut play = Play::new();
        for op in &ops {
            play.play(op);
            play.check();
        }
        prop_assert!(play.promised.is_sorted(), "ids sort in the order of the queue, over restarts too");
        // Delivered to the end, nothing but the segment in use is left on the disk.
        play.play(&Op::Deliver(ALL.0));
        play.check();
        prop_assert!(segments_in(play.dir.path()).len() <= 1);
        play.restart();
        prop_assert_eq!(segments_in(play.dir.path()).len(), 0);
    }

    /// One changed byte anywhere loses the record that it hits, at most, and never a later or an earlier one.
    #[test]
    fn rot_costs_one_record(at in 0_usize..2_000, flip in 1_u8..) {
        let dir = folder();
        let mut log = Segments::open(dir.path(), 1 << 20).unwrap();
        let made = Writer::for_log(&log).append(&mut log, &[30; 20]);
        drop(log);
        let path = &segments_in(dir.path())[0];
        let mut bytes = fs::read(path).unwrap();
        // Byte 7 is the version of the format: another one is refused, see below.
        let at = at % bytes.len();
        prop_assume!(at != 7);
        bytes[at] ^= flip;
        fs::write(path, bytes).unwrap();
        let found = all(&mut open(dir.path()));
        prop_assert!(found.len() >= made.len() - 1, "{} of {}", found.len(), made.len());
        prop_assert!(found.iter().all(|id| made.contains(id)) && found.is_sorted());
    }
}

#[test]
fn damage_larger_than_a_batch_does_not_hide_what_lies_behind() {
    let dir = folder();
    let mut log = Segments::open(dir.path(), 1 << 30).unwrap();
    let made = Writer::for_log(&log).append(&mut log, &[400; 1_500]);
    let path = log.segments[0].path.clone();
    let mut bytes = fs::read(&path).unwrap();
    let (from, to) = (bytes.len() / 10, bytes.len() * 9 / 10);
    bytes[from..to].fill(0);
    fs::write(&path, bytes).unwrap();
    let mut found = Vec::new();
    loop {
        let batch = log.read(50, 1_000).unwrap();
        let Some(newest) = batch.last() else { break };
        log.acknowledge(newest.seq).unwrap();
        found.extend(ids(&batch));
    }
    assert!((295..=300).contains(&found.len()), "{} of {}", found.len(), made.len());
    assert_eq!(found.last(), made.last());
    assert_eq!(log.pending(), 0, "what has rotted away is not waited for");
    assert_eq!(log.acknowledged(), log.last());
}

#[test]
fn a_second_user_is_kept_out_until_the_first_lets_go() {
    let dir = folder();
    let mut first = open(dir.path());
    assert!(matches!(Segments::open(dir.path(), SEGMENT_BYTES), Err(OpenError::Locked { .. })));
    first.close();
    open(dir.path());
    assert!(first.read(1, 1).is_err() && first.acknowledge(1).is_err(), "closed is closed");
    assert!(first.append(&Group::default()).is_err());
}

#[test]
fn a_segment_of_a_newer_version_is_refused_and_kept() {
    let dir = folder();
    let mut log = open(dir.path());
    Writer::for_log(&log).append(&mut log, &[10]);
    drop(log);
    let path = &segments_in(dir.path())[0];
    let mut bytes = fs::read(path).unwrap();
    bytes[7] = 2;
    fs::write(path, bytes).unwrap();
    let error = Segments::open(dir.path(), SEGMENT_BYTES).unwrap_err().to_string();
    assert!(error.contains("newer version"), "{error}");
    assert!(path.exists());
}

#[test]
fn an_oversized_segment_is_refused_before_it_is_read() {
    let dir = folder();
    let file = File::create(dir.path().join("00000000000000000001.segment")).unwrap();
    file.set_len(SEGMENT_READ_BYTES_MAX + 1).unwrap();
    let error = Segments::open(dir.path(), SEGMENT_BYTES).unwrap_err().to_string();
    assert!(error.contains("at most"), "{error}");
}

#[test]
fn a_group_that_cannot_be_written_leaves_the_log_as_it_was() {
    let dir = folder();
    let mut log = open(dir.path());
    let mut writer = Writer::for_log(&log);
    let first = writer.append(&mut log, &[10, 20]);
    // The segment in use turns read-only under the log: the write fails as it does on a full disk.
    log.active = Some(File::open(&log.segments[0].path).unwrap());
    let (group, _) = writer.group(&[30]);
    assert!(log.append(&group).is_err());
    assert_eq!((all(&mut log), log.pending()), (first.clone(), 2));
    let second = writer.append(&mut log, &[40]);
    let expected: Vec<_> = first.into_iter().chain(second).collect();
    assert_eq!(all(&mut log), expected);
    drop(log);
    assert_eq!(all(&mut open(dir.path())), expected);
}

#[test]
fn a_batch_is_bounded_in_bytes() {
    let dir = folder();
    let mut log = open(dir.path());
    Writer::for_log(&log).append(&mut log, &[300; 10]);
    let batch = log.read(ALL.0, 1_000).unwrap();
    assert!(batch.iter().map(|queued| queued.bytes).sum::<usize>() <= 1_000);
    assert_eq!(batch.len(), 3, "{:?}", batch.iter().map(|queued| queued.bytes).collect::<Vec<_>>());
    assert_eq!(log.read(ALL.0, 1).unwrap().len(), 1, "one always fits");
}
