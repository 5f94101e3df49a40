//! A run of the driver, as its trace tells it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;

use super::disk::Disk;
use crate::driver::{Driver, Orders, Place};
use crate::pop;
use crate::serials::{MARKS, Mark, Promised};
use crate::trace::{Kind, Record};

/// Serials between two processes that write to the same folders.
const SERIALS_A_PROCESS: u64 = 1_000_000;
/// Number of the file that stands for what was said before a trace began: no disk gives it to a file.
const MARKS_BEFORE: u64 = u64::MAX;

/// What a recording consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// One process.
    Whole,
    /// A process that is killed at some call, and another that goes on: what the first wrote and did not sync is still in
    /// the page cache, and the second must not take it for durable.
    Killed,
}

/// Folders after a power cut, and what had been promised.
#[derive(Debug)]
pub struct Image {
    /// The nodes' folders.
    pub dir: tempfile::TempDir,
    /// Promises that must still hold.
    pub promised: Promised,
}

/// Runs the driver until so many writes are acknowledged, and returns the trace.
///
/// # Errors
/// Where it cannot be run, or ends otherwise than it should.
pub fn record(
    dir: &Path,
    before: Option<&Image>,
    story: Story,
    nodes: u64,
    writes: u64,
    random: &mut Rng,
) -> Result<Vec<u8>> {
    let place = Place::new(dir)?;
    let (mut first, mut boot) = (1, pop::FIRST_BOOT.to_owned());
    if let Some(image) = before {
        // The power was gone: what the nodes find is of another boot, also if it goes again before they have begun.
        boot = pop::next_boot(image.promised.boot.as_ref().unwrap_or(&boot));
        let promised = Promised { boot: Some(boot.clone()), ..image.promised.clone() };
        fs::write(place.trace(), baseline(&image.dir, &place, &promised)?)?;
        first += image.promised.acked.last().map_or(0, |last| last + SERIALS_A_PROCESS);
    }
    let orders = |first, kill_at, seed| Orders {
        first,
        writes,
        kill_at,
        boot: boot.clone(),
        ..Orders::busy(nodes, seed)
    };
    if story == Story::Killed {
        let orders = orders(first, Some(random.u64(150..400 * nodes)), random.u64(..));
        let status = Driver::start(&place, &orders)?.ended()?;
        ensure!(status.signal() == Some(9), "{status} where a kill was due: {}", place.log()?);
        first += SERIALS_A_PROCESS;
    }
    let status = Driver::start(&place, &orders(first, None, random.u64(..)))?.ended()?;
    ensure!(status.success(), "the driver: {status}\n{}", place.log()?);
    Ok(fs::read(place.trace())?)
}

/// Copies an image's folders to where a driver will run, and tells in records what is there.
fn baseline(image: &tempfile::TempDir, place: &Place, promised: &Promised) -> Result<Vec<u8>> {
    let mut records = Vec::new();
    walk(image.path(), &place.root(), Path::new(""), &mut records)?;
    let said = |bytes: &[u8]| {
        Record { kind: Kind::Write, file: MARKS_BEFORE, number: 0, path: MARKS.as_bytes(), bytes }.encode()
    };
    records.extend(
        Record { kind: Kind::Create, file: MARKS_BEFORE, number: 0, path: MARKS.as_bytes(), bytes: b"" }
            .encode(),
    );
    for mark in promised.marks() {
        records.extend(said(mark.line().as_bytes()));
    }
    Ok(records)
}

fn walk(from: &Path, to: &Path, inside: &Path, records: &mut Vec<u8>) -> Result<()> {
    let mut add = |kind, file, path: &Path, bytes: &[u8]| {
        let path = path.as_os_str().as_encoded_bytes();
        // What was there before is on the disk: a sync covers all that stands before it.
        let number = if kind == Kind::Write { 0 } else { u64::MAX };
        records.extend(Record { kind, file, number, path, bytes }.encode());
    };
    let mut folders = Vec::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (target, inside) = (to.join(entry.file_name()), inside.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            add(Kind::Mkdir, 0, &inside, b"");
            folders.push((entry.path(), target, inside));
        } else {
            let bytes = fs::read(entry.path())?;
            fs::write(&target, &bytes)?;
            let inode = fs::metadata(&target)?.ino();
            add(Kind::Create, inode, &inside, b"");
            add(Kind::Write, inode, &inside, &bytes);
            add(Kind::Sync, inode, &inside, b"");
        }
    }
    add(Kind::SyncDir, 0, inside, b"");
    folders.iter().try_for_each(|(from, to, inside)| walk(from, to, inside, records))
}

/// A trace's records, each with its place.
pub fn records(trace: &[u8]) -> Vec<(u64, Record<'_>)> {
    let (mut at, mut records) = (0, Vec::new());
    // The last one is cut off where a process was killed while it wrote it.
    while let Some((record, len)) = Record::decode(&trace[at..]) {
        records.push((at as u64, record));
        at += len;
    }
    records
}

/// How many nodes a trace tells of.
pub fn nodes(records: &[(u64, Record<'_>)]) -> u64 {
    let folders =
        records.iter().filter(|(_, record)| record.kind == Kind::Mkdir).map(|(_, record)| record.path);
    let is_node = |path: &&[u8]| {
        (1..10).any(|node| pop::folder(Path::new(""), node).as_os_str().as_encoded_bytes() == *path)
    };
    folders.filter(is_node).count() as u64
}

/// The mark that a record is, if it is one.
///
/// # Errors
/// Where something else was written among the marks.
pub fn mark(record: &Record<'_>) -> Result<Option<Mark>> {
    if record.kind != Kind::Write || record.path != MARKS.as_bytes() {
        return Ok(None);
    }
    let line = std::str::from_utf8(record.bytes)?.strip_suffix('\n').context("a mark ends with its line")?;
    Mark::parse(line).map(Some)
}

/// The disk at a moment, and what was promised up to then: a trace is followed from moment to moment.
#[derive(Debug)]
pub struct Moment<'t> {
    /// The disk.
    pub disk: Disk<'t>,
    /// What was promised.
    pub promised: Promised,
    next: usize,
}

impl<'t> Moment<'t> {
    /// Before the first record.
    pub fn start() -> Self {
        Self { disk: Disk::empty(), promised: Promised::default(), next: 0 }
    }

    /// Follows the trace up to a record, that one included.
    ///
    /// # Errors
    /// Where the trace contradicts itself, or a call was not followed.
    pub fn advance(&mut self, records: &[(u64, Record<'t>)], upto: usize) -> Result<()> {
        for (at, record) in records.iter().take(upto + 1).skip(self.next) {
            self.disk.apply(*at, record)?;
            if let Some(mark) = mark(record)? {
                self.promised.note(&mark);
            }
        }
        self.next = self.next.max(upto + 1);
        Ok(())
    }
}
