//! Whether the state below still holds all that was written to it.
//!
//! sled checks each message of its file, but takes a damaged one for the end of what its segment holds: it may open without
//! some records that newer ones rest on, and say nothing. So the sum of all records is one more record, changed by the same
//! batch (MSet-Add-Hash: Clarke et al., "Incremental Multiset Hash Functions and Their Application to Memory Integrity
//! Checking", 2003; here against damage, not against somebody who forges).

use sha2::{Digest, Sha256};

use super::tree::{Batch, Tree};
use crate::machine::{MachineError, keys};

/// The sum of the hashes of all records but its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u128);

impl Sum {
    /// Of a tree that was opened; none where the tree does not hold what it says.
    pub fn proven(tree: &Tree) -> Result<Option<Self>, MachineError> {
        let (mut sum, mut said) = (Self::default(), None);
        for record in tree.records() {
            let (key, value) = record?;
            if key == keys::SUM {
                said = Some(value);
            } else {
                sum.0 = sum.0.wrapping_add(hash(&key, &value));
            }
        }
        let said = said.map_or(Some(0), |bytes| Some(u128::from_be_bytes(bytes.as_ref().try_into().ok()?)));
        Ok((said == Some(sum.0)).then_some(sum))
    }

    /// Writes a batch, in which no key stands twice, and the sum with it.
    pub fn write(&mut self, tree: &Tree, mut batch: Batch) -> Result<(), MachineError> {
        let mut sum = self.0;
        for (key, value) in &batch {
            if let Some(before) = tree.get(key)? {
                sum = sum.wrapping_sub(hash(key, &before));
            }
            if let Some(value) = value {
                sum = sum.wrapping_add(hash(key, value));
            }
        }
        batch.push((keys::SUM.to_vec(), Some(sum.to_be_bytes().to_vec())));
        tree.apply(batch)?;
        self.0 = sum;
        Ok(())
    }
}

fn hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hash = Sha256::new();
    hash.update((key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update(value);
    hash.finalize().iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}
