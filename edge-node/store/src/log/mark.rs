//! How far the log surely is on the disk: a small file beside it.
//!
//! Whoever reads a log after a crash cannot tell by its bytes a record that was promised from one that was on its way. So
//! each time fdatasync has returned, its end is noted here: in place, in one sector, without a sync of its own. After a
//! crash of the process the note is exact; after a power cut it may be older than the log, and never newer; after an
//! orderly end it is on the disk too.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::durable;
use crate::error::StoreError;

/// Letters of the checksum.
const CHECK_LEN: usize = 16;

/// What the file said when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The boot of the machine on which it was written; empty: it was cut off while it was written, so not this one.
    pub boot: String,
    /// The log was on the disk up to here, in bytes since its beginning.
    pub synced: u64,
}

impl Known {
    /// What the file says; none where there is none, as beside a log of an older version.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        let Some(text) = durable::read_file(path)? else { return Ok(None) };
        let fields = || {
            let (body, check) = text.split_at_checked(text.len().checked_sub(CHECK_LEN + 1)?)?;
            let boot = body.strip_prefix("boot ")?.split('\n').next()?;
            let synced = body.lines().nth(1)?.strip_prefix("synced ")?.parse().ok()?;
            (check.trim_end() == checksum(body)).then(|| Self { boot: boot.to_owned(), synced })
        };
        Ok(Some(fields().unwrap_or(Self { boot: String::new(), synced: 0 })))
    }
}

/// The file, being kept up to date.
#[derive(Debug)]
pub struct Mark {
    file: File,
    boot: String,
}

impl Mark {
    /// Writes the file durably, and opens it.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn begin(path: &Path, boot: &str, synced: u64) -> Result<Self, StoreError> {
        durable::write_file(path, text(boot, synced).as_bytes())?;
        let file = OpenOptions::new().write(true).open(path).map_err(|e| StoreError::io("open", path, e))?;
        Ok(Self { file, boot: boot.to_owned() })
    }

    /// The log is on the disk up to `synced`.
    pub fn advance(&self, synced: u64) {
        if let Err(error) = self.file.write_all_at(text(&self.boot, synced).as_bytes(), 0) {
            // An older note claims less: a start after a power cut would be less strict, and nothing else.
            tracing::warn!(%error, "how far the log is synced is not noted");
        }
    }

    /// Makes the note itself durable.
    ///
    /// # Errors
    /// Where it cannot be.
    pub fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

/// Of one length for one boot, so that it is written in place.
fn text(boot: &str, synced: u64) -> String {
    let body = format!("boot {boot}\nsynced {synced:020}\n");
    let check = checksum(&body);
    format!("{body}{check}\n")
}

fn checksum(body: &str) -> String {
    Sha256::digest(body).iter().take(CHECK_LEN / 2).map(|byte| format!("{byte:02x}")).collect()
}
