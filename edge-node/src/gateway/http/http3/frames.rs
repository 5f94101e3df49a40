//! How much of a frame is taken in before it is whole. h3 (0.0.8) collects each frame but DATA in memory, however long it says it is, and
//! flow control gives way as it reads; so frames are measured before it sees them. Pure.

use h3::error::Code;

/// Longest frame but DATA, and most bytes of a stream of QPACK's: four times the header that is taken (`HEADERS_BYTES_MAX`).
const FRAME_BYTES_MAX: u64 = 64 * 1024;

const DATA: u64 = 0x00;
/// draft-ietf-webtrans-http3, 4.2: the rest of the stream is the session's.
const WEBTRANSPORT_FRAME: u64 = 0x41;
const CONTROL_STREAM: u64 = 0x00;
const WEBTRANSPORT_STREAM: u64 = 0x54;

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request: frames from the first byte on.
    Request,
    /// One way: its first number says what it is (RFC 9114, 6.2).
    OneWay,
}

/// Reads along.
#[derive(Debug)]
pub struct Frames {
    at: At,
    /// Bytes of a number (RFC 9000, 16) that is not whole yet.
    number: [u8; 8],
    number_len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    StreamType,
    FrameType,
    FrameLen {
        frame: u64,
    },
    Payload {
        left: u64,
    },
    /// Not of frames, and of a length that is not bounded here.
    Raw,
    /// Not of frames, and so many bytes may still come.
    Bounded {
        left: u64,
    },
}

impl Frames {
    pub fn new(kind: Kind) -> Self {
        let at = match kind {
            Kind::Request => At::FrameType,
            Kind::OneWay => At::StreamType,
        };
        Self { at, number: [0; 8], number_len: 0 }
    }

    /// Goes over what came.
    ///
    /// # Errors
    /// `H3_EXCESSIVE_LOAD`.
    pub fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Code> {
        while !bytes.is_empty() {
            match self.at {
                At::Raw => return Ok(()),
                At::Bounded { left } => {
                    let left = left.checked_sub(bytes.len() as u64).ok_or(Code::H3_EXCESSIVE_LOAD)?;
                    self.at = At::Bounded { left };
                    return Ok(());
                }
                At::Payload { left } => {
                    let taken = left.min(bytes.len() as u64);
                    bytes = &bytes[usize::try_from(taken).unwrap_or(bytes.len())..];
                    self.at = if left == taken { At::FrameType } else { At::Payload { left: left - taken } };
                }
                At::StreamType | At::FrameType | At::FrameLen { .. } => {
                    let Some(number) = self.number(&mut bytes) else { return Ok(()) };
                    self.at = self.after(number)?;
                }
            }
        }
        Ok(())
    }

    fn after(&self, number: u64) -> Result<At, Code> {
        Ok(match (self.at, number) {
            (At::StreamType, CONTROL_STREAM) => At::FrameType,
            (At::StreamType, WEBTRANSPORT_STREAM) => At::Raw,
            // QPACK's, which is used without a table, and such as nobody knows.
            (At::StreamType, _) => At::Bounded { left: FRAME_BYTES_MAX },
            (At::FrameType, WEBTRANSPORT_FRAME) => At::Raw,
            (At::FrameLen { frame }, len) if frame != DATA && len > FRAME_BYTES_MAX => {
                return Err(Code::H3_EXCESSIVE_LOAD);
            }
            (At::FrameLen { .. }, 0) => At::FrameType,
            (At::FrameLen { .. }, left) => At::Payload { left },
            (_, frame) => At::FrameLen { frame },
        })
    }

    /// The next number, once it is whole.
    fn number(&mut self, bytes: &mut &[u8]) -> Option<u64> {
        while let Some((first, rest)) = bytes.split_first() {
            self.number[self.number_len] = *first;
            self.number_len += 1;
            *bytes = rest;
            // The first two bits say how long it is.
            if self.number_len == 1 << (self.number[0] >> 6) {
                let all =
                    self.number[..self.number_len].iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
                let bits = self.number_len * 8 - 2;
                self.number_len = 0;
                return Some(all & ((1 << bits) - 1));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole, and byte by byte: the same must come out.
    fn passes(kind: Kind, bytes: &[u8]) -> bool {
        let (mut whole, mut slow) = (Frames::new(kind), Frames::new(kind));
        let passed = whole.pass(bytes).is_ok();
        assert_eq!(bytes.iter().all(|byte| slow.pass(&[*byte]).is_ok()), passed);
        passed
    }

    fn number(number: u64) -> Vec<u8> {
        (number | 3 << 62).to_be_bytes().to_vec()
    }

    #[test]
    fn frames_that_are_not_data_are_bounded() {
        let (long, short) = (number(1 << 40), number(FRAME_BYTES_MAX));
        let headers = |len: &[u8]| [&[0x01], len, &[0; 100]].concat();
        assert!(passes(Kind::Request, &headers(&short)) && !passes(Kind::Request, &headers(&long)));
        assert!(
            passes(Kind::Request, &[&[0x00], &long[..], &[0; 100]].concat()),
            "DATA is handed on as it comes"
        );
        assert!(!passes(Kind::Request, &[&[0x21], &long[..]].concat()), "nor those that nobody knows");
        let after_data = [&[0x00, 0x02, 7, 7, 0x01][..], &long].concat();
        assert!(!passes(Kind::Request, &after_data));
        assert!(passes(Kind::Request, &[0x00, 0x00, 0x01, 0x00]));
    }

    #[test]
    fn streams_one_way_are_bounded_but_those_of_sessions() {
        let long = number(1 << 40);
        assert!(!passes(Kind::OneWay, &[&[0x00, 0x04], &long[..]].concat()), "settings");
        assert!(passes(Kind::OneWay, &[0x00, 0x04, 0x02, 1, 1]));
        let much = vec![0; 2 * FRAME_BYTES_MAX as usize];
        assert!(!passes(Kind::OneWay, &[&[0x02], &much[..]].concat()), "QPACK");
        assert!(passes(Kind::OneWay, &[&[0x40, 0x54, 0x00], &much[..]].concat()), "WebTransport");
        assert!(passes(Kind::Request, &[&[0x40, 0x41, 0x04], &much[..]].concat()));
    }
}
