//! Files that survive a power cut: temporary file, fsync, rename, fsync of the folder. And the marks of a node's folder:
//! whose it is, and on which boot its page cache was filled.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use proto::{NodeId, PopId};

use crate::error::StoreError;

/// Extension of files that are not finished; removed at start.
pub const TMP: &str = "tmp";
/// Layout of a node's folder.
const LAYOUT: u32 = 1;
/// Largest of the small files: the pins.
const MARK_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Makes the names in a folder durable.
pub fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| StoreError::io("sync", dir, e))
}

/// Makes a folder and its name durable.
pub fn create_dir(dir: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(dir).map_err(|e| StoreError::io("create", dir, e))?;
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

/// Puts a finished, fsynced temporary file under its name, and makes the name durable.
pub fn adopt(tmp: &Path, path: &Path) -> Result<(), StoreError> {
    fs::rename(tmp, path).map_err(|e| StoreError::io("rename", tmp, e))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Writes a small file as a whole.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let tmp = path.with_extension(TMP);
    let write = |file: &mut File| file.write_all(bytes).and_then(|()| file.sync_all());
    File::create(&tmp).and_then(|mut file| write(&mut file)).map_err(|e| StoreError::io("write", &tmp, e))?;
    adopt(&tmp, path)
}

/// Reads a small file as a whole; none if there is none.
pub fn read_file(path: &Path) -> Result<Option<String>, StoreError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(MARK_BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io("read", path, e)),
    }
}

/// Removes a file and makes that durable.
pub fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_dir),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StoreError::io("remove", path, e)),
    }
}

/// A node's folder.
#[derive(Debug, Clone)]
pub struct Folder {
    /// Raft log and vote.
    pub log: PathBuf,
    /// State machine.
    pub state: PathBuf,
    /// Snapshots.
    pub snapshots: PathBuf,
    /// Which folders the other nodes have.
    pub pins: PathBuf,
    /// What the other nodes promised.
    pub promises: PathBuf,
    /// Names this very folder. A node that lost its data has another, and so cannot pass for the one that promised.
    pub incarnation: Incarnation,
}

/// A random number that a folder is given when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation(pub u128);

impl Incarnation {
    fn random() -> Self {
        // The standard library's hasher is seeded by the operating system.
        let half = |salt: u8| u128::from(RandomState::new().hash_one(salt));
        Self(half(0) << 64 | half(1))
    }
}

impl Folder {
    /// Opens a node's folder, or makes it; refuses one of another node.
    pub fn open(dir: &Path, pop: &PopId, node: NodeId) -> Result<Self, StoreError> {
        let [log, state, snapshots, pins, promises] =
            ["log", "state", "snapshots", "pins", "promises"].map(|name| dir.join(name));
        for dir in [dir, &log, &state, &snapshots] {
            create_dir(dir)?;
        }
        let incarnation = identity(&dir.join("identity"), pop, node)?;
        Ok(Self { log, state, snapshots, pins, promises, incarnation })
    }
}

fn identity(path: &Path, pop: &PopId, node: NodeId) -> Result<Incarnation, StoreError> {
    let own = format!("rockpool store {LAYOUT}\npop {pop}\nnode {node}\nincarnation ");
    let Some(found) = read_file(path)? else {
        let incarnation = Incarnation::random();
        write_file(path, format!("{own}{:032x}\n", incarnation.0).as_bytes())?;
        return Ok(incarnation);
    };
    let number = found.strip_prefix(&own).and_then(|rest| u128::from_str_radix(rest.trim_end(), 16).ok());
    let refused =
        || StoreError::Identity { path: path.to_owned(), reason: found.trim_end().replace('\n', ", ") };
    number.map(Incarnation).ok_or_else(refused)
}

/// Names the present boot of this machine. Files that were written but not fsynced are still there after a crash of the
/// process, but not after one of the machine: then this is another.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
