//! Artifacts: content-addressed files. A file's name is the SHA-256 of its bytes; that is checked when it is written and
//! when it is read, so a damaged disk is an error and never a model.
//!
//! Writing is tmp → fsync → rename → fsync of the folder → row in the database: a row means that the file is durable.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use proto::Digest;
use proto::bundle::ArtifactKind;
use proto::control::ArtifactStored;
use proto::limits::ARTIFACT_PART_BYTES;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

use crate::audit::{self, Change};
use crate::config::Config;
use crate::error::StorageError;
use crate::{ARTIFACTS_FOLDER, Storage, from_sql, sql, to_sql};

/// Beginning of the name of a file that is being written.
const TEMPORARY: &str = "tmp-";
/// Files remembered as verified. Beyond it all are forgotten, and verified again when they are next read.
const VERIFIED_MAX: usize = 1_024;
const HASH_BUFFER_BYTES: usize = 256 * 1024;
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// The folder of artifacts.
#[derive(Debug)]
pub struct Artifacts {
    folder: Arc<PathBuf>,
    bytes_max: u64,
    total_bytes_max: u64,
    uploads: AtomicU64,
    /// Files whose bytes were hashed by this process, with what shows that they were not touched since.
    verified: Arc<Mutex<HashMap<Digest, Stamp>>>,
}

/// Changes when a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
}

impl Artifacts {
    pub(crate) async fn open(folder: &Path, config: &Config) -> Result<Self, StorageError> {
        let owned = folder.to_owned();
        run(move || sweep(&owned)).await?;
        Ok(Self {
            folder: Arc::new(folder.to_owned()),
            bytes_max: config.artifact_bytes_max,
            total_bytes_max: config.artifacts_bytes_max,
            uploads: AtomicU64::new(0),
            verified: Arc::default(),
        })
    }

    /// The whole artifact, verified. Blocks on the disk: not for an async worker.
    pub fn read_blocking(&self, digest: Digest) -> Result<Vec<u8>, StorageError> {
        read(&self.path(digest), digest, self.bytes_max)
    }

    /// The artifact's length, and at most [`ARTIFACT_PART_BYTES`] of it from `offset` on. The file is verified as a whole
    /// before its first part leaves this process.
    pub async fn part(&self, digest: Digest, offset: u64) -> Result<(u64, Vec<u8>), StorageError> {
        let (path, verified) = (self.path(digest), Arc::clone(&self.verified));
        run(move || part(&path, digest, offset, &verified)).await
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }
}

/// An artifact on its way in. Dropped before [`Upload::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Upload {
    storage: Storage,
    kind: ArtifactKind,
    temporary: Temporary,
    file: tokio::io::BufWriter<tokio::fs::File>,
    hash: Sha256,
    size: u64,
    max: u64,
}

/// Removes its file, unless that was renamed.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0)
            && e.kind() != ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), error = %e, "an unfinished upload stays behind");
        }
    }
}

impl Storage {
    /// Begins to take in an artifact of at most `bytes_max` bytes; the store's own limits hold too.
    pub async fn upload(&self, kind: ArtifactKind, bytes_max: u64) -> Result<Upload, StorageError> {
        let used = self.artifacts_bytes().await?;
        let store = self.artifacts();
        if used >= store.total_bytes_max {
            return Err(StorageError::Full { used, max: store.total_bytes_max });
        }
        let number = store.uploads.fetch_add(1, Ordering::Relaxed);
        let path = store.folder.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
        let file = tokio::fs::File::create(&path)
            .await
            .map_err(|e| StorageError::file("create an artifact's file", &path, e))?;
        Ok(Upload {
            storage: self.clone(),
            kind,
            temporary: Temporary(path),
            file: tokio::io::BufWriter::with_capacity(WRITE_BUFFER_BYTES, file),
            hash: Sha256::new(),
            size: 0,
            max: bytes_max.min(store.bytes_max).min(store.total_bytes_max - used),
        })
    }

    /// The length of an artifact that was stored, in bytes.
    pub async fn artifact_size(&self, digest: Digest) -> Result<Option<u64>, StorageError> {
        let size: Option<i64> = sqlx::query_scalar(sql::ARTIFACT_SIZE)
            .bind(digest.0.to_vec())
            .fetch_optional(&self.readers)
            .await
            .map_err(StorageError::database("look up an artifact"))?;
        Ok(size.map(from_sql))
    }

    async fn artifacts_bytes(&self) -> Result<u64, StorageError> {
        let bytes: i64 = sqlx::query_scalar(sql::ARTIFACTS_BYTES)
            .fetch_one(&self.readers)
            .await
            .map_err(StorageError::database("sum up artifacts"))?;
        Ok(from_sql(bytes))
    }
}

impl Upload {
    /// Takes in the next bytes. Refuses more than an artifact may have.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.size += bytes.len() as u64;
        if self.size > self.max {
            return Err(StorageError::TooLarge { max: self.max });
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).await.map_err(|e| self.failed("write", e))
    }

    /// Makes it durable under its digest, with a line in the audit log. `announced` is the digest that the sender says it
    /// has. Storing the same bytes again is no error, and repairs a damaged file.
    pub async fn finish(
        mut self,
        announced: Option<Digest>,
        who: &str,
        now_ms: u64,
    ) -> Result<ArtifactStored, StorageError> {
        let digest = Digest(self.hash.finalize_reset().into());
        if let Some(announced) = announced.filter(|announced| *announced != digest) {
            return Err(StorageError::WrongDigest { announced, found: digest });
        }
        self.file.flush().await.map_err(|e| self.failed("write", e))?;
        self.file.get_ref().sync_all().await.map_err(|e| self.failed("sync", e))?;
        let store = self.storage.artifacts();
        let (from, to, folder) = (self.temporary.0.clone(), store.path(digest), Arc::clone(&store.folder));
        run(move || {
            std::fs::rename(&from, &to).map_err(|e| StorageError::file("rename", &from, e))?;
            let synced = File::open(folder.as_path()).and_then(|folder| folder.sync_all());
            synced.map_err(|e| StorageError::file("sync", &folder, e))
        })
        .await?;
        lock(&store.verified).remove(&digest);
        self.record(digest, who, now_ms).await?;
        Ok(ArtifactStored { digest, size: self.size })
    }

    async fn record(&self, digest: Digest, who: &str, now_ms: u64) -> Result<(), StorageError> {
        let failed = || StorageError::database("record an artifact");
        let kind = format!("{:?}", self.kind);
        let mut transaction = self.storage.write("record an artifact").await?;
        sqlx::query(sql::ARTIFACT_INSERT)
            .bind(digest.0.to_vec())
            .bind(to_sql(self.size))
            .bind(&kind)
            .bind(to_sql(now_ms))
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        let change = Change {
            at_ms: now_ms,
            who: who.to_owned(),
            what: "artifact.store".into(),
            detail: format!("{kind} {digest}, {} bytes", self.size),
        };
        audit::insert(&mut transaction, &change).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())
    }

    fn failed(&self, operation: &'static str, source: std::io::Error) -> StorageError {
        StorageError::file(operation, &self.temporary.0, source)
    }
}

/// File work runs off the async workers.
async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // The runtime shuts down: the work was never begun.
        Err(e) => Err(StorageError::file("work with", Path::new(ARTIFACTS_FOLDER), std::io::Error::other(e))),
    }
}

/// Makes the folder, and removes what an earlier process was still writing when it ended.
fn sweep(folder: &Path) -> Result<(), StorageError> {
    let failed = |e| StorageError::file("prepare the artifacts' folder", folder, e);
    std::fs::create_dir_all(folder).map_err(failed)?;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

fn open(path: &Path, digest: Digest) -> Result<(File, Stamp), StorageError> {
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => StorageError::NoArtifact(digest),
        _ => StorageError::file("open", path, e),
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    Ok((file, Stamp { size: metadata.len(), modified: metadata.modified().ok() }))
}

fn read(path: &Path, digest: Digest, max: u64) -> Result<Vec<u8>, StorageError> {
    let (file, stamp) = open(path, digest)?;
    if stamp.size > max {
        return Err(StorageError::TooLarge { max });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or(0));
    file.take(max).read_to_end(&mut bytes).map_err(|e| StorageError::file("read", path, e))?;
    let found = Digest::of(&bytes);
    if found == digest { Ok(bytes) } else { Err(StorageError::Damaged { digest, found }) }
}

fn part(
    path: &Path,
    digest: Digest,
    offset: u64,
    verified: &Mutex<HashMap<Digest, Stamp>>,
) -> Result<(u64, Vec<u8>), StorageError> {
    let (mut file, stamp) = open(path, digest)?;
    if offset > stamp.size || (offset == stamp.size && offset > 0) {
        return Err(StorageError::BeyondEnd { digest, size: stamp.size, offset });
    }
    if lock(verified).get(&digest) != Some(&stamp) {
        let found = hash(&mut file).map_err(|e| StorageError::file("read", path, e))?;
        if found != digest {
            return Err(StorageError::Damaged { digest, found });
        }
        let mut verified = lock(verified);
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(digest, stamp);
    }
    let mut bytes =
        Vec::with_capacity(ARTIFACT_PART_BYTES.min(usize::try_from(stamp.size - offset).unwrap_or(0)));
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.take(ARTIFACT_PART_BYTES as u64).read_to_end(&mut bytes))
        .map_err(|e| StorageError::file("read", path, e))?;
    Ok((stamp.size, bytes))
}

fn hash(file: &mut File) -> std::io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; HASH_BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest(hash.finalize().into())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The map holds no invariant that a panic could break.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
