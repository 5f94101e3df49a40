//! Durable snapshots: one file with the whole keyspace at a log index, checksummed, never trusted on reading.
//!
//! ```text
//! "RPSNAP\0\1" · u32 length, Raft's meta · (u32 key length, u32 value length, key, value)* · u32::MAX · u64 count · SHA-256
//! ```
//!
//! Numbers are big-endian; keys ascend; the SHA-256 covers all that stands before it. A file is written under a temporary
//! name, fsynced, renamed, and its folder fsynced, before anybody hears of it; the one before is removed after that.

mod file;
mod reader;
mod writer;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use proto::codec;

use crate::durable::{self, TMP};
use crate::error::StoreError;
use crate::types::SnapshotMeta;

pub use file::{Incoming, SnapshotFile};
pub use reader::Reader;
pub use writer::Writer;

const MAGIC: &[u8; 8] = b"RPSNAP\0\x01";
const END: u32 = u32::MAX;
const DIGEST_BYTES: usize = 32;
const META_BYTES_MAX: usize = 1024 * 1024;
/// Largest value in a snapshot; the largest stored value is a tenth of it.
const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;
const SUFFIX: &str = "snapshot";

/// A durable snapshot.
#[derive(Debug, Clone)]
pub struct Saved {
    /// Raft's description of it.
    pub meta: SnapshotMeta,
    /// Its file.
    pub file: SnapshotFile,
}

impl Saved {
    /// Log index it covers.
    pub fn index(&self) -> u64 {
        self.meta.last_log_id.map_or(0, |id| id.index)
    }
}

/// The folder of snapshots. Holds one, but for the moment in which it is replaced.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    /// Received so far, for names that never meet.
    received: AtomicU64,
}

impl Snapshots {
    /// Opens the folder, removes what is not finished, and finds the newest snapshot that is whole.
    pub fn open(dir: &Path) -> Result<(Self, Option<Saved>), StoreError> {
        let snapshots = Self { dir: dir.to_owned(), received: AtomicU64::new(0) };
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(|e| StoreError::io("list", dir, e))? {
            let path = entry.map_err(|e| StoreError::io("list", dir, e))?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(TMP) => durable::remove_file(&path)?,
                Some(SUFFIX) => names.push(path),
                _ => {}
            }
        }
        // Names carry the index with leading zeros: the newest is the last.
        names.sort();
        let mut newest = None;
        for path in names.into_iter().rev() {
            match snapshots.check(&path) {
                Ok(saved) if newest.is_none() => newest = Some(saved),
                Ok(_) => durable::remove_file(&path)?,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a snapshot is refused and set aside");
                    let aside = path.with_extension("corrupt");
                    fs::rename(&path, &aside).map_err(|e| StoreError::io("rename", &path, e))?;
                }
            }
        }
        Ok((snapshots, newest))
    }

    /// Begins a snapshot of this node's own state.
    pub fn create(&self, meta: &SnapshotMeta) -> Result<Writer, StoreError> {
        Writer::create(self.dir.join(format!("own.{TMP}")), meta)
    }

    /// Begins a snapshot that comes from a peer.
    pub fn receive(&self, from: u64, len: u64) -> Result<Incoming, StoreError> {
        let number = self.received.fetch_add(1, Ordering::Relaxed);
        Incoming::create(self.dir.join(format!("from-{from}-{number}.{TMP}")), len)
    }

    /// Makes a snapshot that comes from elsewhere this folder's own, durably: what was received by renaming it, another by
    /// copying it.
    pub fn keep(&self, file: &SnapshotFile, meta: SnapshotMeta) -> Result<Saved, StoreError> {
        if let Some(tmp) = file.received() {
            return self.adopt(tmp, meta);
        }
        let tmp = self.dir.join(format!("copy.{TMP}"));
        let copied = File::create(&tmp).and_then(|mut copy| {
            io::copy(&mut file.cursor(), &mut copy)?;
            copy.sync_all()
        });
        copied.map_err(|e| StoreError::io("copy", &tmp, e))?;
        self.adopt(&tmp, meta)
    }

    /// Puts a finished snapshot under its name, durably, and removes the older ones. Where a newer one has come meanwhile,
    /// from a peer, that one stays instead.
    pub fn adopt(&self, tmp: &Path, meta: SnapshotMeta) -> Result<Saved, StoreError> {
        let path = self.path(&meta);
        durable::adopt(tmp, &path)?;
        let saved = Saved { meta, file: SnapshotFile::open(&path)? };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| StoreError::io("list", &self.dir, e))? {
            let name = entry.map_err(|e| StoreError::io("list", &self.dir, e))?.path();
            names.extend(Some(name).filter(|name| name.extension().is_some_and(|ending| ending == SUFFIX)));
        }
        // Names carry the index with leading zeros: the newest is the last.
        let newest = names.iter().max().cloned();
        for name in names.iter().filter(|name| Some(*name) != newest.as_ref()) {
            durable::remove_file(name)?;
        }
        Ok(saved)
    }

    fn path(&self, meta: &SnapshotMeta) -> PathBuf {
        let (term, index) = meta.last_log_id.map_or((0, 0), |id| (**id.committed_leader_id(), id.index));
        self.dir.join(format!("{index:020}-{term:020}.{SUFFIX}"))
    }

    /// Reads a file to its end: checksum, sizes, order.
    fn check(&self, path: &Path) -> Result<Saved, StoreError> {
        let file = SnapshotFile::open(path)?;
        let mut reader = Reader::verified(&file)?;
        let meta = reader.meta().clone();
        while reader.next()?.is_some() {}
        if self.path(&meta) != path {
            return Err(StoreError::corrupt("a snapshot", "it is not what its name says"));
        }
        Ok(Saved { meta, file })
    }
}

fn encode_meta(meta: &SnapshotMeta) -> Vec<u8> {
    codec::encode_any(meta)
}

fn open_file(path: &Path) -> Result<(File, u64), StoreError> {
    let file = File::open(path).map_err(|e| StoreError::io("open", path, e))?;
    let len = file.metadata().map_err(|e| StoreError::io("measure", path, e))?.len();
    Ok((file, len))
}

#[cfg(test)]
mod tests;
