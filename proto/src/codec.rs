//! Bytes: bincode 2 with a limit, in length-prefixed frames.
//!
//! A frame is a 5-byte header and a body: `u32` big-endian body length, `u8` kind. The length is checked against the
//! kind's maximum before memory is taken. The only place that names bincode: it is unmaintained (RUSTSEC-2025-0141), and
//! one file is all that a successor has to replace.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bundle::{Manifest, SignedManifest};
use crate::client::{ClientReply, ClientRequest};
use crate::command::Command;
use crate::enrol::{EnrolReply, EnrolRequest};
use crate::error::{Code, ErrorReply};
use crate::peer::{PeerReply, PeerRequest};
use crate::profile::{Profile, Profile1};
use crate::uplink::{UplinkReply, UplinkRequest};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 5;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Kinds of frames, each with its largest body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// [`ClientRequest`].
    ClientRequest = 1,
    /// [`ClientReply`].
    ClientReply = 2,
    /// [`PeerRequest`].
    PeerRequest = 3,
    /// [`PeerReply`].
    PeerReply = 4,
    /// [`UplinkRequest`].
    UplinkRequest = 5,
    /// [`UplinkReply`].
    UplinkReply = 6,
    /// [`EnrolRequest`].
    EnrolRequest = 7,
    /// [`EnrolReply`].
    EnrolReply = 8,
}

impl FrameKind {
    /// Every kind.
    pub const ALL: [FrameKind; 8] = [
        FrameKind::ClientRequest,
        FrameKind::ClientReply,
        FrameKind::PeerRequest,
        FrameKind::PeerReply,
        FrameKind::UplinkRequest,
        FrameKind::UplinkReply,
        FrameKind::EnrolRequest,
        FrameKind::EnrolReply,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Largest body of this kind, in bytes.
    pub const fn body_bytes_max(self) -> usize {
        match self {
            FrameKind::ClientRequest => 512 * KIB,
            // A client of before there were items' fields takes 64 KiB, and never asks for more.
            FrameKind::ClientReply => MIB,
            FrameKind::PeerRequest | FrameKind::PeerReply => 8 * MIB,
            FrameKind::UplinkRequest => 4 * MIB,
            FrameKind::UplinkReply => MIB,
            FrameKind::EnrolRequest => 8 * KIB,
            FrameKind::EnrolReply => 64 * KIB,
        }
    }
}

/// Why bytes could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The kind byte is none of [`FrameKind`].
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// A frame of another kind was due.
    #[error("a frame of kind {wanted:?} was due, {got:?} came")]
    WrongKind {
        /// What was due.
        wanted: FrameKind,
        /// What came.
        got: FrameKind,
    },
    /// The body is larger than its kind allows.
    #[error("{len} bytes, at most {max} are allowed")]
    TooLarge {
        /// Length that was announced or needed.
        len: usize,
        /// Length that is allowed.
        max: usize,
    },
    /// The body is not a message of its kind.
    #[error("not decodable: {0}")]
    Malformed(String),
    /// A message is followed by bytes that belong to nothing.
    #[error("{0} bytes after the end of the message")]
    Trailing(usize),
}

impl From<CodecError> for ErrorReply {
    fn from(error: CodecError) -> Self {
        let code = match error {
            CodecError::TooLarge { .. } => Code::TooLarge,
            _ => Code::Malformed,
        };
        ErrorReply::new(code, error.to_string())
    }
}

/// A message that travels in a frame of its own kind.
pub trait Message: Serialize + DeserializeOwned {
    /// Its frame kind.
    const KIND: FrameKind;
}

macro_rules! messages {
    ($($name:ident),*) => { $(impl Message for $name { const KIND: FrameKind = FrameKind::$name; })* };
}
messages!(
    ClientRequest,
    ClientReply,
    PeerRequest,
    PeerReply,
    UplinkRequest,
    UplinkReply,
    EnrolRequest,
    EnrolReply
);

/// Something that is stored as bytes rather than sent as a frame.
pub trait Stored: Serialize + DeserializeOwned {}
impl Stored for Manifest {}
impl Stored for SignedManifest {}
impl Stored for Profile {}
impl Stored for Profile1 {}
impl Stored for Command {}
impl Stored for Vec<Command> {}
impl Stored for crate::event::Event {}

/// Reads a frame's header: the kind and the length of the body that follows.
pub fn header(bytes: [u8; HEADER_BYTES]) -> Result<(FrameKind, usize), CodecError> {
    let [a, b, c, d, kind] = bytes;
    let kind = FrameKind::from_byte(kind).ok_or(CodecError::UnknownKind(kind))?;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    let max = kind.body_bytes_max();
    if len > max { Err(CodecError::TooLarge { len, max }) } else { Ok((kind, len)) }
}

/// A whole frame: header and body.
pub fn frame<M: Message>(message: &M) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![0; HEADER_BYTES];
    bincode::serde::encode_into_std_write(message, &mut bytes, bincode::config::standard())
        .map_err(|e| CodecError::Malformed(e.to_string()))?;
    let (len, max) = (bytes.len() - HEADER_BYTES, M::KIND.body_bytes_max());
    if len > max {
        return Err(CodecError::TooLarge { len, max });
    }
    let len = u32::try_from(len).map_err(|_| CodecError::TooLarge { len, max })?;
    bytes[..4].copy_from_slice(&len.to_be_bytes());
    bytes[4] = M::KIND as u8;
    Ok(bytes)
}

/// Reads a frame's body.
pub fn unframe<M: Message>(kind: FrameKind, body: &[u8]) -> Result<M, CodecError> {
    if kind != M::KIND {
        return Err(CodecError::WrongKind { wanted: M::KIND, got: kind });
    }
    let max = kind.body_bytes_max();
    if body.len() > max {
        return Err(CodecError::TooLarge { len: body.len(), max });
    }
    decode_bounded(body)
}

/// Encodes something that is stored.
pub fn encode<T: Stored>(value: &T) -> Vec<u8> {
    encode_any(value)
}

/// Reads something that was stored by [`encode`].
pub fn decode<T: Stored>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_bounded(bytes)
}

/// Encodes a type of the caller's own, in the form that [`decode_any`] reads: for the store's Raft types, which this
/// crate does not know.
pub fn encode_any<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("our own types serialize to memory: they hold no borrowed or untagged data")
}

/// Reads a type of the caller's own.
pub fn decode_any<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_bounded(bytes)
}

/// bincode's limit is a const generic, so it is chosen from a short ladder. It counts what values take in memory, not in
/// the input: a `u128` of zero is one byte there and counts 16, the worst there is. So each step is 16 times the input,
/// and no message that fits its frame is refused for it; more than that, a lying length inside the body may not allocate.
fn decode_bounded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.len() {
        0..=0x1_0000 => decode_limited::<T, 0x10_0000>(bytes),
        0x1_0001..=0x10_0000 => decode_limited::<T, 0x100_0000>(bytes),
        _ => decode_limited::<T, 0x1000_0000>(bytes),
    }
}

fn decode_limited<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|e| CodecError::Malformed(e.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        rest => Err(CodecError::Trailing(rest)),
    }
}

/// For `#[serde(with)]`: bytes as one string, copied at once. serde makes a sequence of numbers of them otherwise, which looks
/// the same on the wire and takes many times as long.
pub mod byte_string {
    use std::fmt;

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    /// Writes them.
    ///
    /// # Errors
    /// Where the serializer fails.
    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    /// Reads them.
    ///
    /// # Errors
    /// Where they are not there.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        d.deserialize_byte_buf(ByteString)
    }

    struct ByteString;

    impl Visitor<'_> for ByteString {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }
}
