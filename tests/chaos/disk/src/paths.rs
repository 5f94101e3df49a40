//! What a call means by a path or a descriptor, asked of the kernel.

use std::ffi::{CStr, CString, c_char, c_int};

/// Longest path that is followed.
const PATH_BYTES_MAX: usize = 4_096;

/// What lies behind a descriptor or a name.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Inode number.
    pub file: u64,
    /// Length in bytes.
    pub len: u64,
    /// Names it has.
    pub names: u64,
    /// A regular file.
    pub is_file: bool,
    /// A folder.
    pub is_dir: bool,
}

fn found(stat: &libc::stat) -> Found {
    Found {
        file: stat.st_ino,
        len: u64::try_from(stat.st_size).unwrap_or(0),
        #[allow(clippy::unnecessary_cast, reason = "u32 on aarch64")]
        names: stat.st_nlink as u64,
        is_file: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
        is_dir: stat.st_mode & libc::S_IFMT == libc::S_IFDIR,
    }
}

/// What a descriptor stands for.
pub fn of_fd(fd: c_int) -> Option<Found> {
    // SAFETY: an all-zero stat is a valid one, and lives through the call.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &raw mut stat) == 0).then(|| found(&stat))
    }
}

/// What an absolute path names, links not followed.
pub fn of_path(path: &[u8]) -> Option<Found> {
    let path = CString::new(path).ok()?;
    // SAFETY: an all-zero stat is a valid one; path and stat live through the call.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::lstat(path.as_ptr(), &raw mut stat) == 0).then(|| found(&stat))
    }
}

/// The absolute path of an open descriptor.
pub fn path_of_fd(fd: c_int) -> Option<Vec<u8>> {
    if fd == libc::AT_FDCWD {
        return read_link(c"/proc/self/cwd");
    }
    read_link(&CString::new(format!("/proc/self/fd/{fd}")).ok()?)
}

fn read_link(link: &CStr) -> Option<Vec<u8>> {
    let mut path = vec![0; PATH_BYTES_MAX];
    // SAFETY: the link is a C string, and the buffer is as long as the kernel is told.
    let len = unsafe { libc::readlink(link.as_ptr(), path.as_mut_ptr().cast::<c_char>(), path.len()) };
    path.truncate(usize::try_from(len).ok()?);
    Some(path)
}

/// The absolute path that a call means, without `//` and `/./`.
///
/// # Safety
/// `path` is null or a C string.
pub unsafe fn absolute(dir: c_int, path: *const c_char) -> Option<Vec<u8>> {
    if path.is_null() {
        return None;
    }
    // SAFETY: the caller says so.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    let mut whole = if path.starts_with(b"/") { Vec::new() } else { path_of_fd(dir)? };
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        whole.push(b'/');
        whole.extend_from_slice(part);
    }
    Some(whole)
}
