//! Events that no node will ever take, for a person to look at: two bounded files of records; when the younger is
//! full, it takes the place of the older.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use proto::{ErrorReply, Event, codec};
use serde::{Deserialize, Serialize};

use super::record;

const YOUNGER: &str = "dead-letters";
const OLDER: &str = "dead-letters.old";

/// An event that was refused for good, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The event.
    pub event: Event,
    /// What the node said.
    pub reply: ErrorReply,
}

/// Keeps a dead letter in `dir`, durably; each file holds at most `bytes_max` bytes.
pub(super) fn keep(dir: &Path, bytes_max: u64, letter: &DeadLetter) -> io::Result<()> {
    let mut bytes = Vec::new();
    // The number is not needed: the order in the file is the order.
    if !record::write(&mut bytes, 1, &codec::encode_any(letter)) {
        return Err(io::Error::other("the event is larger than a record"));
    }
    let path = dir.join(YOUNGER);
    let len = fs::metadata(&path).map_or(0, |meta| meta.len());
    if len > 0 && len + bytes.len() as u64 > bytes_max {
        fs::rename(&path, dir.join(OLDER))?;
    }
    let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
    file.write_all(&bytes)?;
    file.sync_all()
}

/// What is kept in `dir`, oldest first.
pub(super) fn read(dir: &Path, bytes_max: u64) -> io::Result<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    for name in [OLDER, YOUNGER] {
        let bytes = read_bounded(&dir.join(name), bytes_max)?;
        let mut at = 0;
        while let Some((found, record)) = record::find(&bytes, at, 0) {
            at = found + record.len();
            if let Ok(letter) = codec::decode_any(record.payload) {
                letters.push(letter);
            }
        }
    }
    Ok(letters)
}

fn read_bounded(path: &PathBuf, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(bytes_max + record::PAYLOAD_BYTES_MAX as u64).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proto::{Code, EventKind, ItemId, TraceId, UserId, VisitorId};

    use super::*;
    use crate::ids::EventIds;

    fn letter(ids: &mut EventIds, text: &str) -> DeadLetter {
        let event = Event {
            id: ids.next(1_700_000_000_000),
            visitor: VisitorId::User(UserId::new("u").unwrap()),
            at_ms: 1,
            trace: TraceId(1),
            kind: EventKind::Rating { item: ItemId::new("i").unwrap(), stars: 1.0 },
        };
        DeadLetter { event, reply: ErrorReply::new(Code::Invalid, text) }
    }

    #[test]
    fn the_newest_letters_are_kept_in_order_and_in_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let mut ids = EventIds::after(None);
        assert_eq!(read(dir.path(), 1_000).unwrap(), []);
        let letters: Vec<_> = (0..100).map(|n| letter(&mut ids, &format!("no {n}"))).collect();
        for letter in &letters {
            keep(dir.path(), 1_000, letter).unwrap();
        }
        let kept = read(dir.path(), 1_000).unwrap();
        assert!(kept.len() >= 5, "{}", kept.len());
        assert_eq!(kept, letters[letters.len() - kept.len()..]);
        for name in [OLDER, YOUNGER] {
            assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= 1_000);
        }
    }

    #[test]
    fn a_torn_letter_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut ids = EventIds::after(None);
        let letters: Vec<_> = (0..2).map(|n| letter(&mut ids, &format!("no {n}"))).collect();
        keep(dir.path(), 1_000, &letters[0]).unwrap();
        let path = dir.path().join(YOUNGER);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_within(..bytes.len() / 2);
        fs::write(&path, bytes).unwrap();
        keep(dir.path(), 1_000, &letters[1]).unwrap();
        assert_eq!(read(dir.path(), 1_000).unwrap(), letters);
    }
}
