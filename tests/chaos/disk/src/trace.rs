//! The trace: what a process did to a folder, record after record. One file, compiled into the library that writes it and
//! into the harness that reads it.
//!
//! ```text
//! u8 kind · u64 file · u64 number · u32 length, path · u32 length, bytes
//! ```
//!
//! Numbers are little-endian. A file is its inode number; a path is relative to the root.

/// Bytes before path and bytes.
const HEAD: usize = 1 + 8 + 8 + 4 + 4;

/// What a call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A process begins to use the folder.
    Start = 1,
    /// `file` is new, empty, at `path`.
    Create,
    /// `bytes` at offset `number` of `file`.
    Write,
    /// `file` has `number` bytes from now on.
    Truncate,
    /// `file` is synced: all that stands before offset `number` of the trace is on the disk.
    Sync,
    /// Syncing `file` failed: what stands before offset `number` of the trace and was not synced may never be on the disk,
    /// whatever a later call says.
    SyncFailed,
    /// The names in the folder `path` are synced, as they were at offset `number` of the trace.
    SyncDir,
    /// `path` has the name `bytes` from now on.
    Rename,
    /// `path` has the name `bytes` as well.
    Link,
    /// The name `path` is gone.
    Unlink,
    /// There is a folder `path`.
    Mkdir,
    /// There is no folder `path` any more.
    Rmdir,
    /// A call (`bytes`) on `path` was made to fail with the error `number`.
    Fault,
    /// A call (`bytes`) on `path` that cannot be followed was refused.
    Refused,
    /// The process was killed here.
    Killed,
}

const KINDS: [Kind; 15] = [
    Kind::Start,
    Kind::Create,
    Kind::Write,
    Kind::Truncate,
    Kind::Sync,
    Kind::SyncFailed,
    Kind::SyncDir,
    Kind::Rename,
    Kind::Link,
    Kind::Unlink,
    Kind::Mkdir,
    Kind::Rmdir,
    Kind::Fault,
    Kind::Refused,
    Kind::Killed,
];

/// One record; [`Kind`] says which fields mean what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What was done.
    pub kind: Kind,
    /// Inode number.
    pub file: u64,
    /// Offset, length, or position in the trace.
    pub number: u64,
    /// Relative to the root.
    pub path: &'a [u8],
    /// Data, or a second path.
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.path.len() + self.bytes.len());
        out.push(self.kind as u8);
        out.extend_from_slice(&self.file.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        for part in [self.path, self.bytes] {
            // A single call never writes 4 GiB: Linux cuts it off below 2.
            out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(part);
        }
        out
    }

    /// The record at the beginning of `bytes`, and how long it is; none where it is not whole.
    pub fn decode(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let mut rest = bytes;
        let kind = *KINDS.get(usize::from(*take(&mut rest, 1)?.first()?).checked_sub(1)?)?;
        let file = u64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
        let number = u64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
        let path = part(&mut rest)?;
        let data = part(&mut rest)?;
        Some((Self { kind, file, number, path, bytes: data }, bytes.len() - rest.len()))
    }
}

fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
    take(rest, usize::try_from(len).ok()?)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}
