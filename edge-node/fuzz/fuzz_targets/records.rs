//! Any bytes as what the content cache reads from its disk, with the sum that lets them in: what is understood is the same when it is
//! written again, and nothing is understood without its sum.

#![no_main]

use crc::{CRC_32_ISO_HDLC, Crc};
use edge_cache::fuzzing::{Place, decode, encode};
use libfuzzer_sys::fuzz_target;

const SUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

fuzz_target!(|bytes: &[u8]| {
    assert!(
        decode(bytes).is_none_or(|(entry, place)| decode(&encode(&entry, place)) == Some((entry, place)))
    );
    let summed = [&SUM.checksum(bytes).to_be_bytes()[..], bytes].concat();
    let Some((entry, place)) = decode(&summed) else { return };
    let again = encode(&entry, place);
    assert_eq!(decode(&again), Some((entry, place)));
    for (at, bit) in [(0, 1), (again.len() / 2, 16), (again.len() - 1, 128)] {
        let mut damaged = again.clone();
        damaged[at] ^= bit;
        assert_eq!(decode(&damaged), None);
    }
    assert_eq!(decode(&again[..again.len() - 1]), None);
    assert!(Place::of(bytes, place.at).holds(bytes));
});
