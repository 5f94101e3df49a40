//! What stands before libc's calls: each does what the kernel does, in its turn, and writes it down.

mod files;
mod names;

use std::ffi::{c_int, c_long};

use crate::control::Class;
use crate::paths;
use crate::recorder::{self, Turn};
use crate::trace::Kind;

/// As C calls fail: −1, and why.
fn fail(errno: c_int) -> c_long {
    // SAFETY: glibc's errno of this thread is always there.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// The turn of a call on an open file below the root, with its number and path; none: it is no such file.
fn turn_of(fd: c_int) -> Option<(Turn<'static>, u64, Vec<u8>)> {
    let recorder = recorder::recorder()?;
    let found = paths::of_fd(fd).filter(|found| found.is_file)?;
    let turn = recorder.turn();
    let path = turn.path(found.file)?;
    Some((turn, found.file, path))
}

/// A call that writes data. `at`: where; none: at the descriptor's own offset.
fn data(
    fd: c_int,
    at: Option<i64>,
    call: impl FnOnce() -> c_long,
    bytes: impl FnOnce(usize) -> Vec<u8>,
) -> c_long {
    let Some((mut turn, file, path)) = turn_of(fd) else { return call() };
    if let Err(errno) = turn.step(Class::Write, "write", &path) {
        return fail(errno);
    }
    let done = call();
    if let Some(len) = usize::try_from(done).ok().filter(|len| *len > 0) {
        // SAFETY: no memory is involved.
        let end = || unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) } - done;
        let offset = u64::try_from(at.unwrap_or_else(end)).unwrap_or(0);
        turn.record(Kind::Write, file, offset, &path, &bytes(len));
    }
    done
}

/// A call that changes a file's length; `len` of it from the length before.
fn length(fd: c_int, name: &str, call: impl FnOnce() -> c_long, len: impl FnOnce(u64) -> i64) -> c_long {
    let Some((mut turn, file, path)) = turn_of(fd) else { return call() };
    let before = paths::of_fd(fd).map_or(0, |found| found.len);
    let len = u64::try_from(len(before)).unwrap_or(0);
    // A file that becomes shorter takes no space.
    let class = if len > before { Class::Write } else { Class::Name };
    if let Err(errno) = turn.step(class, name, &path) {
        return fail(errno);
    }
    let done = call();
    if done == 0 {
        turn.record(Kind::Truncate, file, len, &path, b"");
    }
    done
}

/// fsync and fdatasync. The lock is not held while the disk works: what others write meanwhile is not promised.
fn sync(fd: c_int, name: &str, call: impl FnOnce() -> c_long) -> c_long {
    let Some(recorder) = recorder::recorder() else { return call() };
    let Some(found) = paths::of_fd(fd).filter(|found| found.is_file || found.is_dir) else { return call() };
    let in_root = || match found.is_dir {
        true => paths::path_of_fd(fd).and_then(|path| {
            if path == recorder.root() { Some(Vec::new()) } else { recorder.relative(&path) }
        }),
        false => recorder.turn().path(found.file),
    };
    let Some(path) = in_root() else { return call() };
    let upto = {
        let mut turn = recorder.turn();
        let upto = turn.position();
        if let Err(errno) = turn.step(Class::Sync, name, &path) {
            turn.record(Kind::SyncFailed, found.file, upto, &path, name.as_bytes());
            return fail(errno);
        }
        upto
    };
    let done = call();
    let kind = match (done, found.is_dir) {
        (0, true) => Kind::SyncDir,
        (0, false) => Kind::Sync,
        _ => Kind::SyncFailed,
    };
    recorder.turn().record(kind, found.file, upto, &path, name.as_bytes());
    done
}

/// A call that is not followed: refused on files below the root, as by a kernel that does not know it.
fn refuse(fd: c_int, name: &str, call: impl FnOnce() -> c_long) -> c_long {
    let Some((mut turn, file, path)) = turn_of(fd) else { return call() };
    turn.record(Kind::Refused, file, 0, &path, name.as_bytes());
    fail(libc::ENOSYS)
}
