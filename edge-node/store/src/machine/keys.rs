//! The keyspace. Numbers are big-endian, so that byte order is number order.
//!
//! | first byte | then | value |
//! |---|---|---|
//! | `d` | chunk number | [`crate::machine::Chunk`] |
//! | `h` | a name | one of [`crate::machine::Heads`] |
//! | `o` | offset | [`proto::Event`] |
//! | `p` | `d` or `u`, then the id's text | [`proto::profile::Profile`] |
//! | `s` | `um` | the sum of all others, of no snapshot and no digest: `state/sum.rs` |

use proto::VisitorId;

/// Longest key: a profile's.
pub const KEY_BYTES_MAX: usize = 2 + proto::limits::ID_BYTES_MAX;

/// [`crate::machine::Position`] of the last entry applied.
pub const APPLIED: &[u8] = b"happlied";
/// [`crate::machine::Offsets`].
pub const OFFSETS: &[u8] = b"hoffsets";
/// [`crate::machine::DedupeHead`].
pub const DEDUPE: &[u8] = b"hdedupe";
/// [`crate::machine::Bundles`].
pub const BUNDLES: &[u8] = b"hbundles";
/// [`crate::machine::Members`].
pub const MEMBERS: &[u8] = b"hmembers";

/// [`proto::purge::Purges`].
pub const PURGES: &[u8] = b"hpurges";

/// [`crate::machine::Erasures`].
pub const ERASURES: &[u8] = b"herasures";

/// The sum of all other records.
pub const SUM: &[u8] = b"sum";

/// First byte of the outbox's keys.
pub const OUTBOX: u8 = b'o';

/// Key of a visitor's profile.
pub fn profile(visitor: &VisitorId) -> Vec<u8> {
    let (tag, text) = match visitor {
        VisitorId::User(id) => (b'u', id.as_str()),
        VisitorId::Device(id) => (b'd', id.as_str()),
    };
    let mut key = Vec::with_capacity(2 + text.len());
    key.extend_from_slice(&[b'p', tag]);
    key.extend_from_slice(text.as_bytes());
    key
}

/// Key of an event in the outbox.
pub fn event(offset: u64) -> Vec<u8> {
    numbered(OUTBOX, offset)
}

/// Key of a chunk of the dedupe window.
pub fn chunk(number: u64) -> Vec<u8> {
    numbered(b'd', number)
}

/// The offset in an event's key; none for any other key.
pub fn event_offset(key: &[u8]) -> Option<u64> {
    let (OUTBOX, number) = key.split_first().map(|(first, rest)| (*first, rest))? else { return None };
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

fn numbered(first: u8, number: u64) -> Vec<u8> {
    let mut key = vec![first];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_is_number_order() {
        for (less, more) in [(0, 1), (255, 256), (u64::from(u32::MAX), 1 << 32), (1 << 56, u64::MAX)] {
            assert!(event(less) < event(more));
            assert_eq!(event_offset(&event(more)), Some(more));
        }
        assert_eq!(event_offset(&chunk(1)), None);
        assert_eq!(event_offset(b"o123"), None);
    }
}
