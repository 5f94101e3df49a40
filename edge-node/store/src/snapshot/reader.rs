//! Reads a snapshot, trusting nothing: the checksum first, then every length before memory is taken for it.

use std::io::{BufReader, Read};

use proto::codec;
use sha2::{Digest as _, Sha256};

use super::file::Cursor;
use super::{DIGEST_BYTES, END, MAGIC, META_BYTES_MAX, SnapshotFile, VALUE_BYTES_MAX};
use crate::error::StoreError;
use crate::machine::keys::KEY_BYTES_MAX;
use crate::types::SnapshotMeta;

const BUFFER_BYTES: usize = 256 * 1024;

/// Key and value.
pub type Record = (Vec<u8>, Vec<u8>);

/// The records of a snapshot, in order.
#[derive(Debug)]
pub struct Reader {
    input: BufReader<Cursor>,
    meta: SnapshotMeta,
    count: u64,
    last_key: Vec<u8>,
    done: bool,
}

fn corrupt(reason: impl ToString) -> StoreError {
    StoreError::corrupt("a snapshot", reason)
}

impl Reader {
    /// Checks the checksum of the whole file, then begins to read it.
    pub fn verified(file: &SnapshotFile) -> Result<Self, StoreError> {
        let body = file.len().checked_sub(DIGEST_BYTES as u64).ok_or_else(|| corrupt("too short"))?;
        let mut input = BufReader::with_capacity(BUFFER_BYTES, file.cursor());
        let mut hash = Sha256::new();
        let copied = std::io::copy(&mut (&mut input).take(body), &mut hash).map_err(corrupt)?;
        let mut digest = [0; DIGEST_BYTES];
        input.read_exact(&mut digest).map_err(corrupt)?;
        if copied != body || digest[..] != hash.finalize()[..] {
            return Err(corrupt("the checksum is wrong"));
        }
        Self::begin(file)
    }

    fn begin(file: &SnapshotFile) -> Result<Self, StoreError> {
        let mut input = BufReader::with_capacity(BUFFER_BYTES, file.cursor());
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(corrupt)?;
        if magic != *MAGIC {
            return Err(corrupt("not a snapshot of a version that is known"));
        }
        let len = read_u32(&mut input)? as usize;
        let meta = read_bytes(&mut input, len, META_BYTES_MAX)?;
        let meta = codec::decode_any(&meta).map_err(corrupt)?;
        Ok(Self { input, meta, count: 0, last_key: Vec::new(), done: false })
    }

    /// Raft's description of it.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The next record; none at the end.
    pub fn next(&mut self) -> Result<Option<Record>, StoreError> {
        if self.done {
            return Ok(None);
        }
        let key_len = read_u32(&mut self.input)?;
        if key_len == END {
            return self.end().map(|()| None);
        }
        let value_len = read_u32(&mut self.input)? as usize;
        let key = read_bytes(&mut self.input, key_len as usize, KEY_BYTES_MAX)?;
        let value = read_bytes(&mut self.input, value_len, VALUE_BYTES_MAX)?;
        if self.count > 0 && key <= self.last_key {
            return Err(corrupt("its keys do not ascend"));
        }
        self.last_key.clone_from(&key);
        self.count += 1;
        Ok(Some((key, value)))
    }

    fn end(&mut self) -> Result<(), StoreError> {
        let mut count = [0; 8];
        self.input.read_exact(&mut count).map_err(corrupt)?;
        let mut rest = Vec::new();
        (&mut self.input).take(DIGEST_BYTES as u64 + 1).read_to_end(&mut rest).map_err(corrupt)?;
        if u64::from_be_bytes(count) != self.count || rest.len() != DIGEST_BYTES {
            return Err(corrupt("it does not end where it should"));
        }
        self.done = true;
        Ok(())
    }
}

fn read_u32(input: &mut impl Read) -> Result<u32, StoreError> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes).map_err(corrupt)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_bytes(input: &mut impl Read, len: usize, max: usize) -> Result<Vec<u8>, StoreError> {
    if len > max {
        return Err(corrupt(format!("a field of {len} bytes, at most {max} are allowed")));
    }
    let mut bytes = vec![0; len];
    input.read_exact(&mut bytes).map_err(corrupt)?;
    Ok(bytes)
}
