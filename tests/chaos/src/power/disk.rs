//! A disk, as a trace tells it: what is on it for sure, and what is still on its way.
//!
//! Data is on it once its file is synced, a name once its folder is. What a program sees meanwhile is the page cache.
//! The model promises less than ext4 or XFS do: syncing a file does not make its name durable, and folders know nothing
//! of each other.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};

use crate::trace::{Kind, Record};

/// A file's or a folder's place in the model.
pub type Id = usize;
/// A name in a folder.
pub type Name = Vec<u8>;

/// What a call did to a file.
#[derive(Debug, Clone)]
pub enum Change<'t> {
    /// Bytes at an offset.
    Write(u64, &'t [u8]),
    /// Another length.
    Truncate(u64),
}

/// A change that is not on the disk for sure.
#[derive(Debug, Clone)]
pub struct Pending<'t> {
    /// Where the trace tells of it.
    pub at: u64,
    /// What.
    pub change: Change<'t>,
    /// Syncing it failed: no later call makes it durable.
    pub forsaken: bool,
}

/// A file.
#[derive(Debug, Clone, Default)]
pub struct File<'t> {
    /// What is on the disk for sure.
    pub synced: Vec<u8>,
    /// What was done since, in order.
    pub pending: Vec<Pending<'t>>,
}

/// What was done to the names of a folder.
#[derive(Debug, Clone)]
pub enum NameChange {
    /// A name is given, or given to another.
    Set(Name, Id),
    /// A name is taken away.
    Remove(Name),
    /// A name is changed into another, in one.
    Rename(Name, Name, Id),
}

/// A folder.
#[derive(Debug, Clone, Default)]
pub struct Folder {
    /// Names that are on the disk for sure.
    pub synced: BTreeMap<Name, Id>,
    /// Names as a program sees them.
    pub now: BTreeMap<Name, Id>,
    /// What was done since, in order, and where the trace tells of it.
    pub pending: Vec<(u64, NameChange)>,
}

/// A file or a folder.
#[derive(Debug, Clone)]
pub enum Node<'t> {
    /// A file.
    File(File<'t>),
    /// A folder.
    Folder(Folder),
}

/// The disk below one folder.
#[derive(Debug, Clone)]
pub struct Disk<'t> {
    nodes: Vec<Node<'t>>,
    inodes: HashMap<u64, Id>,
}

/// The root's place.
pub const ROOT: Id = 0;

impl<'t> Disk<'t> {
    /// An empty folder.
    pub fn empty() -> Self {
        Self { nodes: vec![Node::Folder(Folder::default())], inodes: HashMap::new() }
    }

    /// A file or folder.
    pub fn node(&self, id: Id) -> &Node<'t> {
        &self.nodes[id]
    }

    /// The files that surely are in a folder.
    pub fn synced_files(&self, path: &str) -> Vec<&File<'t>> {
        let parts: Vec<&[u8]> = path.as_bytes().split(|byte| *byte == b'/').collect();
        let Ok(Node::Folder(folder)) = self.walk(&parts).map(|id| self.node(id)) else { return Vec::new() };
        let file = |id: &Id| match self.node(*id) {
            Node::File(file) => Some(file),
            Node::Folder(_) => None,
        };
        folder.synced.values().filter_map(file).collect()
    }

    fn add(&mut self, node: Node<'t>) -> Id {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn folder_mut(&mut self, id: Id) -> Result<&mut Folder> {
        match &mut self.nodes[id] {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => bail!("a file where a folder should be"),
        }
    }

    fn file_mut(&mut self, inode: u64) -> Result<&mut File<'t>> {
        let id = *self.inodes.get(&inode).context("the trace tells of a file that it did not create")?;
        match &mut self.nodes[id] {
            Node::File(file) => Ok(file),
            Node::Folder(_) => bail!("a folder where a file should be"),
        }
    }

    /// The folder of a path, as a program sees it, and the last part.
    fn place(&self, path: &[u8]) -> Result<(Id, Name)> {
        let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let name = parts.pop().unwrap_or_default().to_vec();
        Ok((self.walk(&parts)?, name))
    }

    fn walk(&self, parts: &[&[u8]]) -> Result<Id> {
        let mut at = ROOT;
        for part in parts {
            let Node::Folder(folder) = &self.nodes[at] else { bail!("a file in the middle of a path") };
            let known = || format!("the trace does not tell of {:?}", String::from_utf8_lossy(part));
            at = *folder.now.get(*part).with_context(known)?;
        }
        Ok(at)
    }

    /// Does what a record tells, which stands at `at` in the trace.
    ///
    /// # Errors
    /// Where the trace contradicts itself, or a call was not followed.
    pub fn apply(&mut self, at: u64, record: &Record<'t>) -> Result<()> {
        let (file, number) = (record.file, record.number);
        let change = |change| Pending { at, change, forsaken: false };
        match record.kind {
            // What was refused did nothing: whoever asked does it in another way, which is followed.
            Kind::Start | Kind::Fault | Kind::Killed | Kind::Refused => {}
            Kind::Create => {
                let id = self.add(Node::File(File::default()));
                self.inodes.insert(file, id);
                self.give(at, record.path, id)?;
            }
            Kind::Mkdir => {
                let id = self.add(Node::Folder(Folder::default()));
                self.give(at, record.path, id)?;
            }
            Kind::Write => {
                self.file_mut(file)?.pending.push(change(Change::Write(number, record.bytes)));
            }
            Kind::Truncate => self.file_mut(file)?.pending.push(change(Change::Truncate(number))),
            Kind::Sync => self.file_mut(file)?.sync(number),
            // Of a folder, nothing becomes durable; of a file, some of it never will.
            Kind::SyncFailed if self.inodes.contains_key(&file) => self.file_mut(file)?.forsake(number),
            Kind::SyncFailed => {}
            Kind::SyncDir => self.sync_folder(record.path, number)?,
            Kind::Unlink | Kind::Rmdir => {
                let (folder, name) = self.place(record.path)?;
                self.rename(at, folder, NameChange::Remove(name))?;
            }
            Kind::Rename | Kind::Link => self.two_names(at, record)?,
        }
        Ok(())
    }

    fn give(&mut self, at: u64, path: &[u8], id: Id) -> Result<()> {
        let (folder, name) = self.place(path)?;
        self.rename(at, folder, NameChange::Set(name, id))
    }

    fn two_names(&mut self, at: u64, record: &Record<'_>) -> Result<()> {
        let ((folder, from), (other, to)) = (self.place(record.path)?, self.place(record.bytes)?);
        let parts: Vec<&[u8]> = record.path.split(|byte| *byte == b'/').collect();
        let id = self.walk(&parts)?;
        let change = match record.kind {
            Kind::Link => NameChange::Set(to, id),
            _ if folder == other => NameChange::Rename(from, to, id),
            _ => bail!("a rename from folder to folder is not followed"),
        };
        self.rename(at, other, change)
    }

    fn rename(&mut self, at: u64, folder: Id, change: NameChange) -> Result<()> {
        let folder = self.folder_mut(folder)?;
        change.apply(&mut folder.now);
        folder.pending.push((at, change));
        Ok(())
    }

    fn sync_folder(&mut self, path: &[u8], upto: u64) -> Result<()> {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        let id = self.walk(&parts)?;
        let folder = self.folder_mut(id)?;
        let covered = folder.pending.partition_point(|(at, _)| *at < upto);
        for (_, change) in folder.pending.drain(..covered) {
            change.apply(&mut folder.synced);
        }
        Ok(())
    }
}

impl NameChange {
    /// Does it to names.
    pub fn apply(&self, names: &mut BTreeMap<Name, Id>) {
        match self {
            NameChange::Set(name, id) => drop(names.insert(name.clone(), *id)),
            NameChange::Remove(name) => drop(names.remove(name)),
            NameChange::Rename(from, to, id) => {
                names.remove(from);
                names.insert(to.clone(), *id);
            }
        }
    }
}

impl File<'_> {
    fn sync(&mut self, upto: u64) {
        let mut left = Vec::new();
        for pending in self.pending.drain(..) {
            if pending.at < upto && !pending.forsaken {
                pending.change.apply(&mut self.synced);
            } else {
                left.push(pending);
            }
        }
        self.pending = left;
    }

    fn forsake(&mut self, upto: u64) {
        self.pending
            .iter_mut()
            .filter(|pending| pending.at < upto)
            .for_each(|pending| pending.forsaken = true);
    }

    /// What a program reads.
    pub fn now(&self) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        self.pending.iter().for_each(|pending| pending.change.apply(&mut bytes));
        bytes
    }
}

impl Change<'_> {
    /// Does it to a file's bytes.
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(offset, data) => {
                let start = usize::try_from(*offset).unwrap_or(usize::MAX);
                let end = start + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(data);
            }
            Change::Truncate(len) => bytes.resize(usize::try_from(*len).unwrap_or(usize::MAX), 0),
        }
    }

    /// A file's length after it.
    pub fn len_after(&self, before: u64) -> u64 {
        match self {
            Change::Write(offset, data) => before.max(offset + data.len() as u64),
            Change::Truncate(len) => *len,
        }
    }
}
