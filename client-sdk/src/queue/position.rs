//! How far the queue has been acknowledged: one small file, replaced as a whole (temporary file, fsync, rename,
//! fsync of the folder). Lost or damaged, it counts as the beginning: events are then sent again, and nodes count
//! each event id once. It keeps the id of the newest acknowledged event, so that ids go on rising when no segment
//! is left to tell.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use proto::EventId;
use uuid::Uuid;

use super::record;

const FILE: &str = "acknowledged";
const TEMPORARY: &str = "acknowledged.tmp";
const BYTES: usize = record::HEADER_BYTES + 16;

/// How far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// All up to this sequence number is acknowledged.
    pub(super) seq: u64,
    /// The event with that number.
    pub(super) newest: Option<EventId>,
}

/// Reads the position.
pub(super) fn read(dir: &Path) -> io::Result<Position> {
    let file = match File::open(dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Position::default()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::with_capacity(BYTES + 1);
    file.take(BYTES as u64 + 1).read_to_end(&mut bytes)?;
    // Unlike in a segment, nothing may follow the one record.
    let record = record::read(&bytes, 0).filter(|record| record.len() == bytes.len());
    match record.and_then(|record| Some((record.seq, <[u8; 16]>::try_from(record.payload).ok()?))) {
        Some((seq, id)) => Ok(Position { seq, newest: Some(EventId(Uuid::from_bytes(id))) }),
        None => {
            tracing::warn!(dir = %dir.display(), "the queue's position is damaged: its events are sent again");
            Ok(Position::default())
        }
    }
}

/// Replaces the position, durably.
pub(super) fn write(dir: &Path, seq: u64, newest: EventId) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(BYTES);
    record::write(&mut bytes, seq, newest.0.as_bytes());
    let temporary = dir.join(TEMPORARY);
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(FILE))?;
    sync_dir(dir)
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file, and names are durable with their files.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_and_a_damaged_one_counts_as_zero() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Position::default());
        let id = |n| EventId(Uuid::from_u128(n));
        write(dir.path(), 41, id(1)).unwrap();
        write(dir.path(), 1 << 31, id(2)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Position { seq: 1 << 31, newest: Some(id(2)) });
        let whole = fs::read(dir.path().join(FILE)).unwrap();
        let longer = [&whole[..], b"x"].concat();
        for damage in [&b""[..], b"short", &[0xFF; 16], &[0; 4096], &whole[..31], &longer] {
            fs::write(dir.path().join(FILE), damage).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Position::default(), "{damage:?}");
        }
    }
}
