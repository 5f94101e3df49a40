//! A base in memory: for tests, and as the plainest account of what a base is.

use std::collections::BTreeMap;

use proto::Digest;
use sha2::{Digest as _, Sha256};

use super::{Base, MachineError, State, keys};

/// A keyspace in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Memory {
    /// A keyspace that holds these records.
    pub fn of(records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        Self { records: records.into_iter().collect() }
    }

    /// All records, by key.
    pub fn records(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// SHA-256 over all records ([`digest_record`]).
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        self.records().for_each(|(key, value)| digest_record(&mut hash, key, value));
        Digest(hash.finalize().into())
    }
}

/// Adds one record to the digest of a keyspace; records come in the order of their keys.
pub fn digest_record(hash: &mut Sha256, key: &[u8], value: &[u8]) {
    for part in [key, value] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
}

impl Base for Memory {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MachineError> {
        Ok(self.records.get(key).cloned())
    }
}

impl State<Memory> {
    /// Moves the writes into the base.
    pub fn settle(&mut self) {
        self.complete();
        let writes = self.take_writes();
        let heads = self.heads().clone();
        let records = &mut self.base_mut().records;
        for (key, value) in writes.records(heads.offsets.acknowledged) {
            match value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
        let waiting = keys::event(heads.offsets.acknowledged.saturating_add(1));
        records.retain(|key, _| keys::event_offset(key).is_none() || *key >= waiting);
        records.extend(heads.records());
    }
}
