//! Any bytes as a stream of HTTP/3: in whatever pieces they come, the same is said of them, and what is let pass has no frame but DATA
//! that is longer than may be collected.

#![no_main]

use edge_node::gateway::http::fuzzing::passes;
use libfuzzer_sys::fuzz_target;

/// As `FRAME_BYTES_MAX` there.
const BYTES_MAX: u64 = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let one_way = how & 1 != 0;
    let (mut bytes, mut piece) = (bytes.to_vec(), 1);
    // Much behind what was made up, now and then: else no bound is reached. Byte by byte that would take too long.
    if how & 0x80 != 0 {
        bytes.resize(bytes.len() + 66_000, 0xff);
        piece = 997;
    }
    let whole = passes(one_way, [&bytes[..]].into_iter());
    for len in [piece, piece + 1 + usize::from(how >> 1)] {
        assert_eq!(passes(one_way, bytes.chunks(len)), whole);
    }
    assert_eq!(sound(one_way, &bytes), whole);
});

/// The same, of bytes that are all there.
fn sound(one_way: bool, mut bytes: &[u8]) -> bool {
    if one_way {
        match number(&mut bytes) {
            None | Some(0x54) => return true,
            Some(0x00) => {}
            Some(_) => return bytes.len() as u64 <= BYTES_MAX,
        }
    }
    loop {
        let Some(frame) = number(&mut bytes).filter(|frame| *frame != 0x41) else { return true };
        let Some(len) = number(&mut bytes) else { return true };
        if frame != 0x00 && len > BYTES_MAX {
            return false;
        }
        let rest = usize::try_from(len).ok().and_then(|len| bytes.get(len..));
        let Some(rest) = rest else { return true };
        bytes = rest;
    }
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let len = 1 << (bytes.first()? >> 6);
    let (own, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    let all = own.iter().skip(1).map(|byte| u64::from(*byte));
    Some(all.fold(u64::from(own[0] & 0x3f), |all, byte| all << 8 | byte))
}
