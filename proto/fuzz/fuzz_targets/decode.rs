//! Any bytes, read as a frame and as everything that is stored: never a panic, and what is understood says the same when it
//! is said again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::bundle::{Manifest, SignedManifest};
use proto::client::{ClientReply, ClientRequest};
use proto::codec::{self, FrameKind, HEADER_BYTES, Message, Stored};
use proto::command::Command;
use proto::enrol::{EnrolReply, EnrolRequest};
use proto::peer::{PeerReply, PeerRequest};
use proto::profile::Profile;
use proto::uplink::{UplinkReply, UplinkRequest};

fuzz_target!(|bytes: &[u8]| {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return };
    let body = &bytes[HEADER_BYTES..];
    if let Ok((kind, len)) = codec::header(*header) {
        assert!(len <= kind.body_bytes_max());
    }
    // The kind comes from the input, the length from the body, so that every input gets past the header.
    match FrameKind::ALL[usize::from(header[4].wrapping_sub(1)) % FrameKind::ALL.len()] {
        FrameKind::ClientRequest => message::<ClientRequest>(body),
        FrameKind::ClientReply => message::<ClientReply>(body),
        FrameKind::PeerRequest => message::<PeerRequest>(body),
        FrameKind::PeerReply => message::<PeerReply>(body),
        FrameKind::UplinkRequest => message::<UplinkRequest>(body),
        FrameKind::UplinkReply => message::<UplinkReply>(body),
        FrameKind::EnrolRequest => message::<EnrolRequest>(body),
        FrameKind::EnrolReply => message::<EnrolReply>(body),
    }
    match header[0] % 5 {
        0 => stored::<Manifest>(body),
        1 => stored::<SignedManifest>(body),
        2 => stored::<Profile>(body),
        3 => stored::<Vec<Command>>(body),
        _ => stored::<proto::Event>(body),
    }
});

// Compared as bytes: a NaN is not equal to itself, and a number may be written longer than it need be.
fn message<M: Message>(body: &[u8]) {
    let Ok(read) = codec::unframe::<M>(M::KIND, body) else { return };
    let frame = codec::frame(&read).expect("what was read within the limit is written within it");
    let again: M = codec::unframe(M::KIND, &frame[HEADER_BYTES..]).expect("our own bytes are read");
    assert_eq!(codec::frame(&again).expect("as before"), frame);
}

fn stored<T: Stored>(body: &[u8]) {
    let Ok(read) = codec::decode::<T>(body) else { return };
    let bytes = codec::encode(&read);
    let again: T = codec::decode(&bytes).expect("our own bytes are read");
    assert_eq!(codec::encode(&again), bytes);
}
