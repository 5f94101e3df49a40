//! How far the queue has been acknowledged: one small file, replaced as a whole (temporary file, fsync, rename, fsync of
//! the folder). Lost or damaged, it counts as 0: events are then sent again, and nodes count each event id once.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use super::record;

const FILE: &str = "acknowledged";
const TEMPORARY: &str = "acknowledged.tmp";
const BYTES: usize = record::HEADER_BYTES;

/// Reads the position.
pub(super) fn read(dir: &Path) -> io::Result<u64> {
    let file = match File::open(dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::with_capacity(BYTES + 1);
    file.take(BYTES as u64 + 1).read_to_end(&mut bytes)?;
    // A record without a payload: sequence number and checksum are all that is needed.
    match record::read(&bytes, 0).filter(|record| record.len() == bytes.len()) {
        Some(record) => Ok(record.seq),
        None => {
            tracing::warn!(dir = %dir.display(), "the queue's position is damaged: its events are sent again");
            Ok(0)
        }
    }
}

/// Replaces the position, durably.
pub(super) fn write(dir: &Path, seq: u64) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(BYTES);
    record::write(&mut bytes, seq, &[]);
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
        assert_eq!(read(dir.path()).unwrap(), 0);
        write(dir.path(), 41).unwrap();
        write(dir.path(), u64::from(u32::MAX)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), u64::from(u32::MAX));
        for damage in [&b""[..], b"short", &[0xFF; 16], &[0; 4096]] {
            fs::write(dir.path().join(FILE), damage).unwrap();
            assert_eq!(read(dir.path()).unwrap(), 0, "{damage:?}");
        }
    }
}
