//! The ordered map of bytes below the state: sled's, or in a simulation one in memory.

use std::ops::Range;

use super::sled_failed;
use crate::machine::MachineError;

/// Keys and values to write at once; no value: the key is removed.
pub type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;
/// Records in order.
type Records = Box<dyn Iterator<Item = Result<(sled::IVec, sled::IVec), MachineError>>>;

/// An ordered map that takes a batch whole or not at all. Clones are the same map.
#[derive(Debug, Clone)]
pub enum Tree {
    /// On files.
    Sled(sled::Tree),
    /// In a simulated host's page cache.
    #[cfg(feature = "sim")]
    Memory(crate::sim::Map),
}

impl Tree {
    /// The value at a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, MachineError> {
        match self {
            Tree::Sled(tree) => tree.get(key).map_err(sled_failed("read")),
            #[cfg(feature = "sim")]
            Tree::Memory(map) => Ok(map.get(key)),
        }
    }

    /// The records in a range of keys.
    pub fn range(&self, range: Range<Vec<u8>>) -> Records {
        match self {
            Tree::Sled(tree) => Box::new(tree.range(range).map(|record| record.map_err(sled_failed("read")))),
            #[cfg(feature = "sim")]
            Tree::Memory(map) => Box::new(map.range(Some(range)).into_iter().map(Ok)),
        }
    }

    /// All records.
    pub fn records(&self) -> Records {
        match self {
            Tree::Sled(tree) => Box::new(tree.iter().map(|record| record.map_err(sled_failed("read")))),
            #[cfg(feature = "sim")]
            Tree::Memory(map) => Box::new(map.range(None).into_iter().map(Ok)),
        }
    }

    /// First and last key that begin with a byte.
    pub fn ends(&self, prefix: u8) -> Result<Option<(sled::IVec, sled::IVec)>, MachineError> {
        match self {
            Tree::Sled(tree) => {
                let mut records = tree.scan_prefix([prefix]).keys();
                let Some(first) = records.next() else { return Ok(None) };
                let first = first.map_err(sled_failed("read"))?;
                let last = records.next_back().transpose().map_err(sled_failed("read"))?;
                Ok(Some((first.clone(), last.unwrap_or(first))))
            }
            #[cfg(feature = "sim")]
            Tree::Memory(map) => {
                let records = map.range(Some(vec![prefix]..vec![prefix + 1]));
                Ok(records
                    .first()
                    .zip(records.last())
                    .map(|((first, _), (last, _))| (first.clone(), last.clone())))
            }
        }
    }

    /// Writes a batch: all of it or nothing.
    pub fn apply(&self, batch: Batch) -> Result<(), MachineError> {
        match self {
            Tree::Sled(tree) => {
                let mut whole = sled::Batch::default();
                for (key, value) in batch {
                    match value {
                        Some(value) => whole.insert(key, value),
                        None => whole.remove(key),
                    }
                }
                tree.apply_batch(whole).map_err(sled_failed("write"))
            }
            #[cfg(feature = "sim")]
            Tree::Memory(map) => {
                map.apply(batch);
                Ok(())
            }
        }
    }
}
