//! What happens when the disk fails: full, broken or read-only.
//!
//! Raft ends, because what it cannot make durable it must not acknowledge. The node stays: it answers recommendations from what it
//! knows, says that it is not ready, and tries the disk. When that takes writes again the node begins anew, as after a restart.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use edge_store::Store;
use tokio_util::sync::CancellationToken;

/// How often the store is looked at, and a failed disk is tried.
const EVERY: Duration = Duration::from_secs(1);
/// What is written to try it: more than the room that a file system keeps back in its last block.
const PROBE_BYTES: usize = 1024 * 1024;

/// Cancels `life` once the store has ended and the disk takes writes again.
pub async fn end_when_it_recovers(store: Store, dir: PathBuf, life: CancellationToken) {
    let mut said = false;
    loop {
        tokio::select! {
            () = life.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let Some(reason) = store.failure() else { continue };
        if !said {
            tracing::error!(
                reason,
                "the store has ended: nothing is acknowledged until the disk works again"
            );
            said = true;
        }
        let dir = dir.clone();
        match tokio::task::spawn_blocking(move || probe(&dir)).await {
            Ok(Ok(())) => return life.cancel(),
            Ok(Err(error)) => tracing::debug!(%error, "the disk still fails"),
            Err(error) => tracing::error!(%error, "the disk cannot be tried"),
        }
    }
}

/// Writes a file and makes it durable.
fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join("disk.probe");
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_all()
    });
    // Removed in either case: a full disk needs the room.
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_tried_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        probe(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(probe(&dir.path().join("missing")).is_err());
    }
}
