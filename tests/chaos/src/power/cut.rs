//! What a disk may hold after a power cut: all that was synced, and of the rest what chance left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use fastrand::Rng;

use super::disk::{Change, Disk, File, Folder, Id, Name, Node, ROOT};

/// What the page cache writes at a time.
const PAGE: u64 = 4_096;
/// What the disk writes at a time.
const SECTOR: usize = 512;

/// What was done to a disk, by kind: files whose unsynced data or names met each fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Losses {
    /// All unsynced data is gone.
    pub lost: u64,
    /// All of it had been written.
    pub kept: u64,
    /// It was written up to a point in the middle of a call.
    pub torn: u64,
    /// Some 4 KiB pages were written and others were not, in any order; a page may be torn at a sector.
    pub reordered: u64,
    /// Folders whose last changes of names are gone.
    pub names: u64,
}

impl Losses {
    /// Adds up.
    pub fn add(&mut self, other: Losses) {
        self.lost += other.lost;
        self.kept += other.kept;
        self.torn += other.torn;
        self.reordered += other.reordered;
        self.names += other.names;
    }
}

/// Writes a folder below the root as the disk may hold it after a power cut.
///
/// # Errors
/// Where it cannot be written.
pub fn power_cut(disk: &Disk<'_>, name: &str, to: &Path, random: &mut Rng) -> Result<Losses> {
    let mut cut = Cut { disk, random: Some(random), losses: Losses::default() };
    cut.folder_below_root(name, to)?;
    Ok(cut.losses)
}

/// Writes a folder below the root as every program sees it: what a crash of the process leaves.
///
/// # Errors
/// Where it cannot be written.
pub fn crash(disk: &Disk<'_>, name: &str, to: &Path) -> Result<()> {
    Cut { disk, random: None, losses: Losses::default() }.folder_below_root(name, to)
}

struct Cut<'a, 't> {
    disk: &'a Disk<'t>,
    /// None: nothing is lost.
    random: Option<&'a mut Rng>,
    losses: Losses,
}

impl Cut<'_, '_> {
    fn folder_below_root(&mut self, name: &str, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        let Node::Folder(root) = self.disk.node(ROOT) else { return Ok(()) };
        match self.names(root).get(name.as_bytes()) {
            Some(id) => self.write(*id, &to.join(name)),
            None => Ok(()),
        }
    }

    fn write(&mut self, id: Id, to: &Path) -> Result<()> {
        match self.disk.node(id) {
            Node::File(file) => {
                let bytes = self.bytes(file);
                fs::write(to, bytes).with_context(|| format!("write {}", to.display()))
            }
            Node::Folder(folder) => {
                fs::create_dir_all(to)?;
                let names = self.names(folder);
                names
                    .iter()
                    .try_for_each(|(name, id)| self.write(*id, &to.join(std::ffi::OsStr::from_bytes(name))))
            }
        }
    }

    /// Changes of names are journalled: a folder has them up to some point.
    fn names(&mut self, folder: &Folder) -> BTreeMap<Name, Id> {
        let Some(random) = &mut self.random else { return folder.now.clone() };
        let kept = random.usize(0..=folder.pending.len());
        self.losses.names += u64::from(kept < folder.pending.len());
        let mut names = folder.synced.clone();
        folder.pending.iter().take(kept).for_each(|(_, change)| change.apply(&mut names));
        names
    }

    fn bytes(&mut self, file: &File<'_>) -> Vec<u8> {
        let Some(random) = &mut self.random else { return file.now() };
        if file.pending.is_empty() {
            return file.synced.clone();
        }
        match random.u8(0..8) {
            0 | 1 => {
                self.losses.lost += 1;
                file.synced.clone()
            }
            2 => {
                self.losses.kept += 1;
                file.now()
            }
            3 | 4 => {
                self.losses.torn += 1;
                torn(file, random)
            }
            _ => {
                self.losses.reordered += 1;
                reordered(file, random)
            }
        }
    }
}

/// Every change up to one, and that one in part.
fn torn(file: &File<'_>, random: &mut Rng) -> Vec<u8> {
    let mut bytes = file.synced.clone();
    let whole = random.usize(0..file.pending.len());
    file.pending.iter().take(whole).for_each(|pending| pending.change.apply(&mut bytes));
    match &file.pending[whole].change {
        Change::Write(offset, data) => {
            Change::Write(*offset, &data[..random.usize(0..=data.len())]).apply(&mut bytes);
        }
        truncate => truncate.apply(&mut bytes),
    }
    bytes
}

/// The length after some change, and each page as it was after some change.
fn reordered(file: &File<'_>, random: &mut Rng) -> Vec<u8> {
    let all = file.pending.len();
    let len_after = random.usize(0..=all);
    let len = file
        .pending
        .iter()
        .take(len_after)
        .fold(file.synced.len() as u64, |len, pending| pending.change.len_after(len));
    let mut bytes = file.synced.clone();
    bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
    for page in dirty(file) {
        let version = match random.u8(0..10) {
            0..=3 => page_after(file, page, all),
            4..=6 => page_after(file, page, 0),
            7 | 8 => page_after(file, page, random.usize(0..=all)),
            _ => {
                let (mut new, old) = (page_after(file, page, all), page_after(file, page, 0));
                let at = SECTOR * random.usize(0..=new.len() / SECTOR);
                if random.bool() {
                    new[at..].copy_from_slice(&old[at..])
                } else {
                    new[..at].copy_from_slice(&old[..at])
                }
                new
            }
        };
        let start = usize::try_from(page * PAGE).unwrap_or(usize::MAX).min(bytes.len());
        let end = (start + version.len()).min(bytes.len());
        bytes[start..end].copy_from_slice(&version[..end - start]);
    }
    bytes
}

/// Pages that unsynced data touches.
fn dirty(file: &File<'_>) -> BTreeSet<u64> {
    let pages = |change: &Change<'_>| match change {
        Change::Write(offset, data) if !data.is_empty() => {
            offset / PAGE..(offset + data.len() as u64 - 1) / PAGE + 1
        }
        _ => 0..0,
    };
    file.pending.iter().flat_map(|pending| pages(&pending.change)).collect()
}

/// A page after the first changes; zeros beyond the file's end.
fn page_after(file: &File<'_>, page: u64, changes: usize) -> Vec<u8> {
    let (start, end) = (page * PAGE, (page + 1) * PAGE);
    let mut bytes = vec![0; SECTOR * (PAGE as usize / SECTOR)];
    lay(&mut bytes, start, 0, &file.synced);
    for pending in file.pending.iter().take(changes) {
        match &pending.change {
            Change::Write(offset, data) => lay(&mut bytes, start, *offset, data),
            Change::Truncate(len) if *len < end => {
                let from = usize::try_from(len.saturating_sub(start)).unwrap_or(0);
                bytes[from..].fill(0);
            }
            Change::Truncate(_) => {}
        }
    }
    bytes
}

/// Lays data that begins at `offset` over a page that begins at `start`.
fn lay(page: &mut [u8], start: u64, offset: u64, data: &[u8]) {
    let (from, to) = (start.max(offset), (start + page.len() as u64).min(offset + data.len() as u64));
    if from < to {
        let index = |at: u64, base: u64| usize::try_from(at - base).unwrap_or(0);
        page[index(from, start)..index(to, start)]
            .copy_from_slice(&data[index(from, offset)..index(to, offset)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Kind, Record};

    fn disk<'t>(records: &[(Kind, u64, u64, &'static str, &'t [u8])]) -> Disk<'t> {
        let mut disk = Disk::empty();
        for (at, (kind, file, number, path, bytes)) in records.iter().enumerate() {
            let record = Record { kind: *kind, file: *file, number: *number, path: path.as_bytes(), bytes };
            disk.apply(at as u64, &record).unwrap();
        }
        disk
    }

    /// What may be in `n/a` after a cut, over many seeds; none: no such name.
    fn outcomes(disk: &Disk<'_>, name: &str) -> BTreeSet<Option<Vec<u8>>> {
        let dir = tempfile::tempdir().unwrap();
        let outcome = |seed: u64| {
            let to = dir.path().join(seed.to_string());
            power_cut(disk, "n", &to, &mut Rng::with_seed(seed)).unwrap();
            fs::read(to.join("n").join(name)).ok()
        };
        (0..400).map(outcome).collect()
    }

    #[test]
    fn what_is_synced_is_there_and_the_rest_may_be() {
        let written = [
            (Kind::Mkdir, 0, 0, "n", &b""[..]),
            (Kind::SyncDir, 0, 1, "", b""),
            (Kind::Create, 7, 0, "n/a", b""),
            (Kind::Write, 7, 0, "n/a", b"one"),
            (Kind::Sync, 7, 4, "n/a", b""),
        ];
        let not_named = disk(&written);
        assert!(outcomes(&not_named, "a").contains(&None), "a file's name is its folder's matter");
        let mut more = written.to_vec();
        more.push((Kind::SyncDir, 0, 5, "n", b""));
        more.push((Kind::Write, 7, 3, "n/a", b"two"));
        let found = outcomes(&disk(&more), "a");
        assert!(found.iter().all(|bytes| bytes.as_ref().is_some_and(|bytes| bytes.starts_with(b"one"))));
        for expected in [&b"one"[..], b"onetwo", b"onetw", b"one\0\0\0"] {
            assert!(found.contains(&Some(expected.to_vec())), "{expected:?} in {found:?}");
        }
        // A sync promises what was written before it began, not what came while it worked.
        more.push((Kind::Sync, 7, 6, "n/a", b""));
        assert!(outcomes(&disk(&more), "a").contains(&Some(b"one".to_vec())));
        more.push((Kind::Sync, 7, 8, "n/a", b""));
        assert_eq!(outcomes(&disk(&more), "a"), BTreeSet::from([Some(b"onetwo".to_vec())]));
    }

    #[test]
    fn a_name_may_be_durable_before_its_data() {
        let renamed = [
            (Kind::Mkdir, 0, 0, "n", &b""[..]),
            (Kind::SyncDir, 0, 1, "", b""),
            (Kind::Create, 7, 0, "n/tmp", b""),
            (Kind::Write, 7, 0, "n/tmp", b"one"),
            (Kind::Rename, 7, 0, "n/tmp", b"n/a"),
            (Kind::SyncDir, 0, 5, "n", b""),
        ];
        let found = outcomes(&disk(&renamed), "a");
        assert!(found.contains(&Some(Vec::new())) && found.contains(&Some(b"one".to_vec())), "{found:?}");
        assert!(!found.contains(&None));
    }

    #[test]
    fn what_could_not_be_synced_is_never_safe() {
        let failed = [
            (Kind::Mkdir, 0, 0, "n", &b""[..]),
            (Kind::SyncDir, 0, 1, "", b""),
            (Kind::Create, 7, 0, "n/a", b""),
            (Kind::SyncDir, 0, 3, "n", b""),
            (Kind::Write, 7, 0, "n/a", b"one"),
            (Kind::SyncFailed, 7, 5, "n/a", b""),
            (Kind::Sync, 7, 6, "n/a", b""),
        ];
        assert!(outcomes(&disk(&failed), "a").contains(&Some(Vec::new())));
    }

    #[test]
    fn pages_come_in_any_order() {
        let data = vec![1; 3 * PAGE as usize];
        let written = [
            (Kind::Mkdir, 0, 0, "n", &b""[..]),
            (Kind::SyncDir, 0, 1, "", b""),
            (Kind::Create, 7, 0, "n/a", b""),
            (Kind::SyncDir, 0, 3, "n", b""),
            (Kind::Write, 7, 0, "n/a", data.as_slice()),
        ];
        let pages = |bytes: &Option<Vec<u8>>| -> Vec<u8> {
            bytes.as_deref().unwrap_or_default().chunks(PAGE as usize).map(|page| page[0]).collect()
        };
        let found: BTreeSet<_> = outcomes(&disk(&written), "a").iter().map(pages).collect();
        assert!(found.contains(&vec![0, 1, 0]) && found.contains(&vec![1, 0, 1]), "{found:?}");
    }
}
