//! Which calls fail: a file that a test replaces while the process runs.
//!
//! A rule a line: `<class> <errno> <part of the path>`. Classes: `write` (data, new files and folders, growing), `sync`
//! (fsync, fdatasync, sync_file_range). `write 28 node-2/` is a full disk of node 2; `sync 5 node-2/log` is a log whose
//! fdatasync fails.

use std::ffi::{CStr, c_int};

/// Largest control file.
const BYTES_MAX: usize = 4_096;

/// What a call does, as rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Takes space.
    Write,
    /// Makes durable.
    Sync,
    /// Takes names away, or changes them: never made to fail.
    Name,
}

#[derive(Debug)]
struct Rule {
    class: Class,
    errno: c_int,
    part: Vec<u8>,
}

/// The rules at present.
#[derive(Debug, Default)]
pub struct Rules {
    /// Inode, change time: a file that was replaced has another.
    version: Option<(u64, i64, i64)>,
    rules: Vec<Rule>,
}

impl Rules {
    /// The error with which a call fails, if it does.
    pub fn errno(&self, class: Class, path: &[u8]) -> Option<c_int> {
        let meant = |rule: &&Rule| {
            rule.class == class
                && (rule.part.is_empty() || path.windows(rule.part.len()).any(|part| part == rule.part))
        };
        self.rules.iter().find(meant).map(|rule| rule.errno)
    }

    /// Reads the file again if it is another than before. One that is not there says nothing.
    pub fn refresh(&mut self, path: &CStr) {
        // SAFETY: an all-zero stat is a valid one, the path is a C string, and both live through the call.
        let version = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            (libc::stat(path.as_ptr(), &raw mut stat) == 0).then_some((
                stat.st_ino,
                stat.st_mtime,
                stat.st_mtime_nsec,
            ))
        };
        if version != self.version {
            self.version = version;
            self.rules = read(path).map(|text| parse(&text)).unwrap_or_default();
        }
    }
}

fn parse(text: &[u8]) -> Vec<Rule> {
    let rule = |line: &[u8]| {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let class = match words.next()? {
            b"write" => Class::Write,
            b"sync" => Class::Sync,
            _ => return None,
        };
        let errno = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
        Some(Rule { class, errno, part: words.next().unwrap_or_default().to_vec() })
    };
    text.split(|byte| *byte == b'\n').filter_map(rule).collect()
}

/// Reads a small file past our own calls.
fn read(path: &CStr) -> Option<Vec<u8>> {
    let mut text = vec![0; BYTES_MAX];
    // SAFETY: the path is a C string; the buffer is as long as the kernel is told; the descriptor is ours and is closed.
    let len = unsafe {
        let fd =
            libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return None;
        }
        let len = libc::syscall(libc::SYS_read, fd, text.as_mut_ptr(), text.len());
        libc::syscall(libc::SYS_close, fd);
        len
    };
    text.truncate(usize::try_from(len).ok()?);
    Some(text)
}
