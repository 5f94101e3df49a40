//! Makes a log that a crash left one that can be relied on, or says that it is damaged.
//!
//! | what is found | where | what is done |
//! |---|---|---|
//! | a record that cannot be read | before the mark | damaged: it was promised |
//! | the log ends | before the mark | damaged |
//! | a record that cannot be read | after the mark, the machine was started anew | cut off there: a power cut, nobody was told of it |
//! | the same | after the mark, in the same boot | left as it is: raft-log drops what is cut off, and refuses noise |
//! | records | after the mark | written anew and synced before anything rests on them |
//!
//! The last is for a process that died between `write` and `fdatasync`, or whose fdatasync failed. Its records are in the
//! page cache, where they look like all others; and after a failed fdatasync the kernel takes them for clean, so that no
//! later one writes them (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use raft_log::RaftLogRecord;
use raft_log::codeq::Decode;

use super::mark::Known;
use super::wal::WalTypes;
use crate::durable::{self, TMP};
use crate::error::StoreError;

/// Extension of raft-log's files.
const CHUNK: &str = "wal";
/// Buffer of the sequential read.
const READ_BUFFER_BYTES: usize = 1024 * 1024;

/// A file of the log.
#[derive(Debug)]
struct Chunk {
    path: PathBuf,
    /// Its first byte, counted from the beginning of the log.
    start: u64,
    len: u64,
}

/// Mends the log in a folder that nobody else uses.
///
/// # Errors
/// [`StoreError::LogDamaged`] where something is missing that was promised.
pub fn mend(dir: &Path, known: &Known, boot: &str) -> Result<(), StoreError> {
    let rebooted = boot.is_empty() || known.boot != boot;
    let chunks = chunks(dir)?;
    let end = chunks.last().map_or(0, |chunk| chunk.start + chunk.len);
    ensure_reaches(end, known.synced)?;
    // An empty file was made for what would come next, and the records end in the one before.
    let last = chunks.iter().rposition(|chunk| chunk.len > 0).unwrap_or(0);
    for (index, chunk) in chunks.iter().enumerate() {
        let unsynced = chunk.start + chunk.len > known.synced;
        if index < last && !unsynced {
            // raft-log itself reads it, and refuses whatever is wrong with it.
            continue;
        }
        let whole = whole_len(chunk)?;
        ensure_reaches(chunk.start + whole, known.synced.min(chunk.start + chunk.len))?;
        let keep = if rebooted && index >= last { whole } else { chunk.len };
        if keep < chunk.len {
            let (path, dropped) = (chunk.path.display(), chunk.len - keep);
            tracing::warn!(%path, dropped, "the log's end was on its way when the power went: nobody was told of it");
        }
        if unsynced && chunk.len > 0 {
            write_anew(chunk, keep)?;
        }
    }
    Ok(())
}

fn ensure_reaches(end: u64, synced: u64) -> Result<(), StoreError> {
    if end >= synced {
        return Ok(());
    }
    let message = format!("it can be read up to byte {end}, and was on the disk up to byte {synced}");
    Err(StoreError::LogDamaged(io::Error::new(io::ErrorKind::InvalidData, message)))
}

fn chunks(dir: &Path) -> Result<Vec<Chunk>, StoreError> {
    let failed = |e| StoreError::io("list", dir, e);
    let mut chunks = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            // Left over from a start that was interrupted.
            Some(TMP) => durable::remove_file(&path)?,
            Some(CHUNK) => {
                // "r-00_000_000_000_000_012_345.wal"
                let digits: String =
                    entry.file_name().to_string_lossy().chars().filter(char::is_ascii_digit).collect();
                let len = entry.metadata().map_err(failed)?.len();
                chunks.extend(digits.parse().ok().map(|start| Chunk { path, start, len }));
            }
            _ => {}
        }
    }
    chunks.sort_by_key(|chunk| chunk.start);
    Ok(chunks)
}

/// Bytes of a file's whole records, up to the first that cannot be read.
fn whole_len(chunk: &Chunk) -> Result<u64, StoreError> {
    let failed = |e| StoreError::io("read", &chunk.path, e);
    let file = File::open(&chunk.path).map_err(failed)?;
    let mut reader = Counted { inner: BufReader::with_capacity(READ_BUFFER_BYTES, file), count: 0 };
    loop {
        let start = reader.count;
        if start >= chunk.len {
            return Ok(start);
        }
        match RaftLogRecord::<WalTypes>::decode(&mut reader) {
            Ok(_) => {}
            // The disk's own error, not one of what was read.
            Err(error) if error.raw_os_error().is_some() => return Err(failed(error)),
            Err(_) => return Ok(start),
        }
    }
}

/// Puts the first `keep` bytes of a file in its place, on the disk.
fn write_anew(chunk: &Chunk, keep: u64) -> Result<(), StoreError> {
    let tmp = chunk.path.with_extension(TMP);
    let copy = || {
        let mut copy = File::create(&tmp)?;
        io::copy(&mut File::open(&chunk.path)?.take(keep), &mut copy)?;
        copy.sync_all()
    };
    copy().map_err(|e| StoreError::io("copy", &chunk.path, e))?;
    durable::adopt(&tmp, &chunk.path)
}

struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.count += len as u64;
        Ok(len)
    }
}
