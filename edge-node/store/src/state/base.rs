//! What lies below the state, sled but in a simulation: opened if it can be trusted, thrown away if not.
//!
//! sled's `flush` is no fsync. Its files are whole after a crash of the process, because the page cache is, but not after
//! one of the machine. So a mark beside it, written durably, names the boot on which it was begun and the tree in use;
//! another boot, a damaged file, a sum that is not that of its records, or a position that log and snapshot cannot prove,
//! and Raft brings the state back.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::sum::Sum;
use super::tree::{Batch, Tree};
use super::{StateConfig, sled_failed};
use crate::durable;
use crate::error::StoreError;
use crate::machine::{Base, Heads, MachineError, State, keys};
use crate::snapshot::{Reader, SnapshotFile};

/// Records in one batch while a snapshot is installed.
const INSTALL_BATCH_LEN: usize = 1_024;
/// sled writes its buffers to the page cache this often by itself.
const FLUSH_EVERY_MS: u64 = 1_000;
/// What sled says of a file that somebody holds: it has no error of its own for that.
const LOCKED: &str = "could not acquire lock";
/// What is said of a tree that opens, but without some of its records.
const LACKS: &str = "it does not hold all that was written to it";
/// How long to wait for its last holder.
const LOCKED_MAX: Duration = Duration::from_secs(5);
const LOCKED_PAUSE: Duration = Duration::from_millis(10);

/// What lies below the state, with the tree in use.
#[derive(Debug)]
pub struct TreeBase {
    trees: Trees,
    /// The keyspace.
    pub tree: Tree,
    sum: Sum,
    /// Its singletons when it was opened.
    pub heads: Heads,
}

/// Where trees come from.
#[derive(Debug)]
enum Trees {
    Sled {
        db: sled::Db,
        mark: Mark,
    },
    #[cfg(feature = "sim")]
    Memory(crate::sim::Disk),
}

/// What is known of a sled beside it.
#[derive(Debug, Clone)]
struct Mark {
    path: PathBuf,
    boot: String,
    tree: u64,
}

impl Mark {
    fn text(&self) -> String {
        format!("boot {}\ntree {}\n", self.boot, self.tree)
    }

    fn write(&self) -> Result<(), StoreError> {
        durable::write_file(&self.path, self.text().as_bytes())
    }

    /// The tree in use, if the mark is of this boot.
    fn read(&self) -> Result<Option<u64>, StoreError> {
        let Some(text) = durable::read_file(&self.path)? else { return Ok(None) };
        let tree =
            text.lines().find_map(|line| line.strip_prefix("tree ")).and_then(|tree| tree.parse().ok());
        // No boot id, no trust: a system that has none cannot tell a crash from a power cut.
        let same = !self.boot.is_empty() && text.lines().any(|line| line == format!("boot {}", self.boot));
        Ok(tree.filter(|_| same))
    }
}

/// Opens the state, or begins an empty one.
pub fn open(config: &StateConfig, proven: u64) -> Result<TreeBase, StoreError> {
    #[cfg(feature = "sim")]
    if let Some(host) = crate::sim::Host::current() {
        let disk = host.disk().clone();
        let mut tree = Tree::Memory(disk.map());
        let mut heads = State::load(&tree)?.heads().clone();
        if heads.applied.is_some_and(|at| at.index > proven) {
            let fresh = crate::sim::Map::default();
            disk.adopt(fresh.clone());
            (tree, heads) = (Tree::Memory(fresh), Heads::default());
        }
        let sum = Sum::proven(&tree)?.ok_or_else(|| StoreError::corrupt("the state", LACKS))?;
        return Ok(TreeBase { trees: Trees::Memory(disk), tree, sum, heads });
    }
    let path = config.folder.state.with_extension("mark");
    let mark = Mark { path, boot: config.boot.clone(), tree: 0 };
    let dir = &config.folder.state;
    if let Some(tree) = mark.read()? {
        let db = open_sled(dir, config.cache_bytes / 2)?;
        match db.and_then(|db| open_trusted(db, Mark { tree, ..mark.clone() }, proven)) {
            Ok(base) => return Ok(base),
            Err(reason) => {
                tracing::warn!(reason, "the state is not trusted: it is rebuilt from snapshot and log")
            }
        }
    } else if dir.join("db").exists() {
        tracing::info!("the state is of another boot: it is rebuilt from snapshot and log");
    }
    durable::remove_file(&mark.path)?;
    fs::remove_dir_all(dir).map_err(|e| StoreError::io("remove", dir, e))?;
    durable::create_dir(dir)?;
    let db = open_sled(dir, config.cache_bytes / 2)?
        .map_err(|reason| StoreError::corrupt("a new state", reason))?;
    let tree = db.open_tree(tree_name(mark.tree)).map_err(sled_failed("open"))?;
    mark.write()?;
    let trees = Trees::Sled { db, mark };
    Ok(TreeBase { trees, tree: Tree::Sled(tree), sum: Sum::default(), heads: Heads::default() })
}

fn tree_name(number: u64) -> String {
    format!("state-{number}")
}

/// The outer error: somebody else holds it, and it must not be touched. The inner one: it is damaged; sled panics on some
/// damaged files, and that is an error like the others.
#[expect(
    clippy::disallowed_methods,
    reason = "sled tells nobody when it lets go; opening runs before anything is async"
)]
fn open_sled(dir: &Path, cache_bytes: u64) -> Result<Result<sled::Db, String>, StoreError> {
    let config =
        sled::Config::new().path(dir).cache_capacity(cache_bytes).flush_every_ms(Some(FLUSH_EVERY_MS));
    let give_up = Instant::now() + LOCKED_MAX;
    loop {
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        match opened {
            // sled's threads let go of its file a moment after the last handle to it is gone.
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains(LOCKED) => {
                if Instant::now() >= give_up {
                    return Err(StoreError::io("lock", dir, error));
                }
                thread::sleep(LOCKED_PAUSE);
            }
            Ok(opened) => return Ok(opened.map_err(|e| e.to_string())),
            Err(_) => return Ok(Err("sled panicked".to_owned())),
        }
    }
}

fn open_trusted(db: sled::Db, mark: Mark, proven: u64) -> Result<TreeBase, String> {
    let name = tree_name(mark.tree);
    for other in db.tree_names() {
        if other != name.as_bytes() && other != b"__sled__default" {
            // Left over from an installation that did not end.
            db.drop_tree(other).map_err(|e| e.to_string())?;
        }
    }
    let tree = Tree::Sled(db.open_tree(name).map_err(|e| e.to_string())?);
    let check = || Ok((Sum::proven(&tree)?, State::load(&tree)?.heads().clone()));
    let (sum, heads) = catch_unwind(AssertUnwindSafe(check))
        .map_err(|_| "sled panicked".to_owned())?
        .map_err(|e: MachineError| e.to_string())?;
    let sum = sum.ok_or_else(|| LACKS.to_owned())?;
    let applied = heads.applied.map_or(0, |at| at.index);
    if applied > proven {
        return Err(format!("it is at index {applied}, log and snapshot prove {proven}"));
    }
    Ok(TreeBase { trees: Trees::Sled { db, mark }, tree, sum, heads })
}

impl Base for &Tree {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MachineError> {
        Ok(self.get(key)?.map(|value| value.to_vec()))
    }
}

impl Trees {
    /// An empty tree beside the one in use.
    fn fresh(&self) -> Result<Tree, StoreError> {
        match self {
            Trees::Sled { db, mark } => {
                let name = tree_name(mark.tree + 1);
                db.drop_tree(&name).map_err(sled_failed("empty"))?;
                Ok(Tree::Sled(db.open_tree(name).map_err(sled_failed("open"))?))
            }
            #[cfg(feature = "sim")]
            Trees::Memory(_) => Ok(Tree::Memory(crate::sim::Map::default())),
        }
    }

    /// Puts the tree that [`Trees::fresh`] gave in the place of the one in use.
    fn adopt(&mut self, fresh: &Tree) -> Result<(), StoreError> {
        match (self, fresh) {
            (Trees::Sled { db, mark }, _) => {
                let next = Mark { tree: mark.tree + 1, ..mark.clone() };
                next.write()?;
                db.drop_tree(tree_name(mark.tree)).map_err(sled_failed("drop"))?;
                *mark = next;
            }
            #[cfg(feature = "sim")]
            (Trees::Memory(disk), Tree::Memory(map)) => disk.adopt(map.clone()),
            #[cfg(feature = "sim")]
            (Trees::Memory(_), Tree::Sled(_)) => {}
        }
        Ok(())
    }

    /// Writes buffers to the page cache: enough to survive the process, not the machine.
    fn flush(&self) -> Result<(), StoreError> {
        match self {
            Trees::Sled { db, .. } => drop(db.flush().map_err(sled_failed("flush"))?),
            #[cfg(feature = "sim")]
            Trees::Memory(_) => {}
        }
        Ok(())
    }
}

impl TreeBase {
    /// Writes a batch, in which no key stands twice: all of it or nothing.
    pub fn write(&mut self, batch: Batch) -> Result<(), MachineError> {
        self.sum.write(&self.tree, batch)
    }

    /// Puts the keyspace of a snapshot in the place of the present one.
    pub fn install(&mut self, file: &SnapshotFile) -> Result<(), StoreError> {
        let mut reader = Reader::verified(file)?;
        let (tree, mut sum) = (self.trees.fresh()?, Sum::default());
        let mut singletons = Vec::new();
        let mut batch = Batch::new();
        while let Some((key, value)) = reader.next()? {
            if key.first() == keys::APPLIED.first() {
                singletons.push((key, Some(value)));
                continue;
            }
            batch.push((key, Some(value)));
            if batch.len() == INSTALL_BATCH_LEN {
                sum.write(&tree, std::mem::take(&mut batch))?;
            }
        }
        // The position comes last: a tree that was cut off has none, and is begun again.
        batch.extend(singletons);
        sum.write(&tree, batch)?;
        self.trees.flush()?;
        let heads = State::load(&tree)?.heads().clone();
        self.trees.adopt(&tree)?;
        self.tree = tree;
        self.sum = sum;
        self.heads = heads;
        Ok(())
    }

    /// Writes sled's buffers to the page cache: enough to survive the process, not the machine.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.trees.flush()
    }

    /// All records in order, without events that the cloud holds, and without the sum.
    pub fn for_each(
        &self,
        acknowledged: u64,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for record in self.tree.records() {
            let (key, value) = record?;
            if key != keys::SUM && keys::event_offset(&key).is_none_or(|offset| offset > acknowledged) {
                each(&key, &value)?;
            }
        }
        Ok(())
    }

    /// Offsets of the events that sled holds, acknowledged or not: first and one past the last.
    pub fn event_range(&self) -> Result<Option<(u64, u64)>, StoreError> {
        let Some((first, last)) = self.tree.ends(keys::OUTBOX)? else { return Ok(None) };
        let offset = |key: &[u8]| {
            keys::event_offset(key).ok_or_else(|| StoreError::corrupt("a key of the outbox", "no offset"))
        };
        Ok(Some((offset(&first)?, offset(&last)? + 1)))
    }
}
