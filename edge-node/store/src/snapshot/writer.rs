//! Writes a snapshot, record by record.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::{END, MAGIC, Saved, Snapshots, encode_meta};
use crate::error::StoreError;
use crate::planted;
use crate::types::SnapshotMeta;

const BUFFER_BYTES: usize = 256 * 1024;

/// A snapshot that is being written. Dropped before [`Writer::finish`], its file is removed.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
    tmp: PathBuf,
    hash: Sha256,
    count: u64,
    adopted: bool,
}

impl Writer {
    pub(super) fn create(tmp: PathBuf, meta: &SnapshotMeta) -> Result<Self, StoreError> {
        let file = File::create(&tmp).map_err(|e| StoreError::io("create", &tmp, e))?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        let mut writer = Self { file, tmp, hash: Sha256::new(), count: 0, adopted: false };
        let meta = encode_meta(meta);
        writer.put(MAGIC)?;
        writer.put_len(meta.len())?;
        writer.put(&meta)?;
        Ok(writer)
    }

    /// Adds a record; keys come in ascending order.
    pub fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.put_len(key.len())?;
        self.put_len(value.len())?;
        self.put(key)?;
        self.put(value)?;
        self.count += 1;
        Ok(())
    }

    /// Makes the snapshot durable under its name.
    pub fn finish(mut self, folder: &Snapshots, meta: SnapshotMeta) -> Result<Saved, StoreError> {
        self.put(&END.to_be_bytes())?;
        self.put(&self.count.to_be_bytes())?;
        let digest = self.hash.clone().finalize();
        let finish = |file: &mut BufWriter<File>| {
            file.write_all(&digest)?;
            file.flush()?;
            if planted::on("snapshot_renamed_without_sync") { Ok(()) } else { file.get_ref().sync_all() }
        };
        finish(&mut self.file).map_err(|e| StoreError::io("write", &self.tmp, e))?;
        let saved = folder.adopt(&self.tmp, meta)?;
        self.adopted = true;
        Ok(saved)
    }

    fn put_len(&mut self, len: usize) -> Result<(), StoreError> {
        let len = u32::try_from(len).map_err(|e| StoreError::corrupt("a record", e))?;
        self.put(&len.to_be_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(|e| StoreError::io("write", &self.tmp, e))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.adopted {
            // What is left over is also removed at the next start.
            let _ = std::fs::remove_file(&self.tmp);
        }
    }
}
