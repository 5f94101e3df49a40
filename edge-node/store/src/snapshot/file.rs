//! A snapshot's file, as it is sent and received in parts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::Digest;
use sha2::{Digest as _, Sha256};

use super::open_file;
use crate::error::StoreError;

/// A whole snapshot on disk. Holds the file open: it can be read to its end even when a newer one has taken its place.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    file: Arc<File>,
    len: u64,
    received: Option<Arc<TmpFile>>,
}

/// Removed when nobody needs it any more; renamed away, there is nothing to remove.
#[derive(Debug)]
struct TmpFile(PathBuf);

impl Drop for TmpFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl SnapshotFile {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let (file, len) = open_file(path)?;
        Ok(Self { file: Arc::new(file), len, received: None })
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where it lies, if it came from a peer and is not installed yet.
    pub fn received(&self) -> Option<&Path> {
        self.received.as_ref().map(|tmp| tmp.0.as_path())
    }

    /// At most `max` bytes from `offset` on.
    pub fn part(&self, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        let len = self.len.saturating_sub(offset).min(max as u64);
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// SHA-256 of the whole file.
    pub fn digest(&self) -> io::Result<Digest> {
        let mut hash = Sha256::new();
        io::copy(&mut self.cursor(), &mut hash)?;
        Ok(Digest(hash.finalize().into()))
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor { file: Arc::clone(&self.file), at: 0 }
    }
}

/// Reads a file from its beginning, whoever else reads it.
#[derive(Debug)]
pub struct Cursor {
    file: Arc<File>,
    at: u64,
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A snapshot that is being received, part after part.
#[derive(Debug)]
pub struct Incoming {
    tmp: TmpFile,
    file: File,
    hash: Sha256,
    received: u64,
    len: u64,
}

impl Incoming {
    pub(super) fn create(tmp: PathBuf, len: u64) -> Result<Self, StoreError> {
        let file = File::create(&tmp).map_err(|e| StoreError::io("create", &tmp, e))?;
        Ok(Self { tmp: TmpFile(tmp), file, hash: Sha256::new(), received: 0, len })
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes of the whole.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Adds the next part.
    pub fn push(&mut self, part: &[u8]) -> Result<(), StoreError> {
        if self.received + part.len() as u64 > self.len {
            return Err(StoreError::corrupt("a snapshot from a peer", "longer than announced"));
        }
        self.file.write_all(part).map_err(|e| StoreError::io("write", &self.tmp.0, e))?;
        self.hash.update(part);
        self.received += part.len() as u64;
        Ok(())
    }

    /// Checks that it is whole, and makes its bytes durable.
    pub fn finish(self, digest: Digest) -> Result<SnapshotFile, StoreError> {
        if self.received != self.len || Digest(self.hash.finalize().into()) != digest {
            return Err(StoreError::corrupt("a snapshot from a peer", "length or checksum is wrong"));
        }
        self.file.sync_all().map_err(|e| StoreError::io("sync", &self.tmp.0, e))?;
        let (file, len) = open_file(&self.tmp.0)?;
        Ok(SnapshotFile { file: Arc::new(file), len, received: Some(Arc::new(self.tmp)) })
    }
}
