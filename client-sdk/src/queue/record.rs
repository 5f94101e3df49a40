//! One record on disk: `u32` length of the payload, `u32` CRC32C of everything after it, `u64` sequence number,
//! payload; all numbers big-endian. A record that was not written to its end, or that rotted, does not match its
//! checksum.

use crc::{CRC_32_ISCSI, Crc, Table};

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 16;
/// Largest payload. The largest event that passes its check is a little over 32 KiB.
pub(super) const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Sequence numbers rise; a gap wider than this is not ours. Gaps come from groups that could not be written.
const SEQ_GAP_MAX: u64 = 1 << 32;

/// CRC32C (Castagnoli), as in iSCSI (RFC 3720, 12.1).
static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// A record in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) seq: u64,
    pub(super) payload: &'a [u8],
}

impl Record<'_> {
    /// Bytes on disk.
    pub(super) fn len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// Appends a record to `out`. False, and nothing appended: the payload is too large.
pub(super) fn write(out: &mut Vec<u8>, seq: u64, payload: &[u8]) -> bool {
    let Some(len) = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_BYTES_MAX) else {
        return false;
    };
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&checksum(len, seq, payload).to_be_bytes());
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(payload);
    true
}

/// The record that begins `bytes`, if it is whole, matches its checksum and follows the record `after`.
pub(super) fn read(bytes: &[u8], after: u64) -> Option<Record<'_>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let [l0, l1, l2, l3, c0, c1, c2, c3, seq @ ..] = *header;
    let (len, seq) = (u32::from_be_bytes([l0, l1, l2, l3]), u64::from_be_bytes(seq));
    let follows = seq > after && seq - after <= SEQ_GAP_MAX;
    let payload = rest.get(..len as usize).filter(|payload| follows && payload.len() <= PAYLOAD_BYTES_MAX)?;
    (checksum(len, seq, payload) == u32::from_be_bytes([c0, c1, c2, c3])).then_some(Record { seq, payload })
}

/// Finds the first record at or after `from`, past bytes that are none. The sequence number rules out nearly every
/// place before its checksum is computed.
pub(super) fn find(bytes: &[u8], from: usize, after: u64) -> Option<(usize, Record<'_>)> {
    (from..bytes.len().saturating_sub(HEADER_BYTES - 1))
        .find_map(|at| read(&bytes[at..], after).map(|record| (at, record)))
}

fn checksum(len: u32, seq: u64, payload: &[u8]) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&len.to_be_bytes());
    digest.update(&seq.to_be_bytes());
    digest.update(payload);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(CRC32C.checksum(b"123456789"), 0xE306_9283, "the check value of RFC 3720's CRC32C");
    }

    #[test]
    fn a_record_comes_back_and_no_changed_byte_or_cut_does() {
        let mut bytes = Vec::new();
        assert!(write(&mut bytes, 7, b"payload"));
        assert_eq!(read(&bytes, 6), Some(Record { seq: 7, payload: b"payload" }));
        assert_eq!(read(&bytes, 7), None, "it does not follow itself");
        for at in 0..bytes.len() {
            assert_eq!(read(&bytes[..at], 6), None, "cut at {at}");
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(read(&changed, 0), None, "changed at {at}");
        }
    }

    #[test]
    fn records_are_found_behind_rubbish() {
        let mut bytes = vec![0xAB; 100];
        write(&mut bytes, 3, b"three");
        let (at, record) = find(&bytes, 0, 2).expect("it is there");
        assert_eq!((at, record.seq, record.payload), (100, 3, b"three".as_slice()));
        assert_eq!(find(&bytes, 101, 2), None);
        assert_eq!(find(&[], 0, 0), None);
    }

    #[test]
    fn a_payload_too_large_is_refused_in_both_directions() {
        let mut bytes = Vec::new();
        assert!(!write(&mut bytes, 1, &vec![0; PAYLOAD_BYTES_MAX + 1]));
        assert!(bytes.is_empty());
        let lie = [0xFF, 0xFF, 0xFF, 0xFF].into_iter().chain([0; 100]).collect::<Vec<_>>();
        assert_eq!(read(&lie, 0), None);
    }
}
