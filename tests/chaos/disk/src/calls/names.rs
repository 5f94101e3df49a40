//! Calls on names: opening, renaming, removing.

use std::ffi::{c_char, c_int, c_long, c_uint};

use libc::{mode_t, off_t};

use super::fail;
use crate::control::Class;
use crate::paths::{self, Found};
use crate::recorder::{self, Turn};
use crate::trace::Kind;

/// The turn of a call on a name below the root, with the absolute path and the one relative to the root.
///
/// # Safety
/// `path` is null or a C string.
unsafe fn turn_of(dir: c_int, path: *const c_char) -> Option<(Turn<'static>, Vec<u8>, Vec<u8>)> {
    let recorder = recorder::recorder()?;
    // SAFETY: the caller says so.
    let absolute = unsafe { paths::absolute(dir, path) }?;
    let relative = recorder.relative(&absolute)?;
    Some((recorder.turn(), absolute, relative))
}

/// A call that changes one name, recorded where it succeeds.
unsafe fn name(kind: Kind, dir: c_int, path: *const c_char, call: impl FnOnce() -> c_long) -> c_int {
    // SAFETY: the caller's arguments, as they are.
    let Some((mut turn, absolute, relative)) = (unsafe { turn_of(dir, path) }) else {
        return call() as c_int;
    };
    let before = paths::of_path(&absolute);
    let class = if kind == Kind::Mkdir { Class::Write } else { Class::Name };
    if let Err(errno) = turn.step(class, "name", &relative) {
        return fail(errno) as c_int;
    }
    let done = call();
    if done == 0 {
        turn.record(kind, before.map_or(0, |found| found.file), 0, &relative, b"");
        forget(&mut turn, before);
    }
    done as c_int
}

/// A file whose last name was taken away.
fn forget(turn: &mut Turn<'_>, before: Option<Found>) {
    if let Some(found) = before.filter(|found| found.is_file && found.names == 1) {
        turn.forget(found.file);
    }
}

unsafe fn open_at(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments, as they are.
    let call = || unsafe { libc::syscall(libc::SYS_openat, dir, path, flags, mode) as c_int };
    // SAFETY: as above.
    let Some((mut turn, absolute, relative)) = (unsafe { turn_of(dir, path) }) else { return call() };
    if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        return fail(libc::EOPNOTSUPP) as c_int;
    }
    let before = paths::of_path(&absolute);
    let creates = before.is_none() && flags & libc::O_CREAT != 0;
    let empties = before.is_some_and(|found| found.len > 0) && flags & libc::O_TRUNC != 0;
    if creates || empties {
        let class = if creates { Class::Write } else { Class::Name };
        if let Err(errno) = turn.step(class, "open", &relative) {
            return fail(errno) as c_int;
        }
    }
    let fd = call();
    let opened = if fd < 0 { None } else { paths::of_fd(fd).filter(|found| found.is_file) };
    if let Some(found) = opened {
        if creates {
            turn.record(Kind::Create, found.file, 0, &relative, b"");
        } else if empties {
            turn.record(Kind::Truncate, found.file, 0, &relative, b"");
        }
        turn.remember(found.file, relative);
    }
    fd
}

/// As `open(2)`.
///
/// # Safety
/// As of the call it stands for; so of all in this file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments, as they are; so below.
    unsafe { open_at(libc::AT_FDCWD, path, flags, mode) }
}

/// As `open64(3)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: see `open`.
    unsafe { open_at(libc::AT_FDCWD, path, flags, mode) }
}

/// As `openat(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: see `open`.
    unsafe { open_at(dir, path, flags, mode) }
}

/// As `openat64(3)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: see `open`.
    unsafe { open_at(dir, path, flags, mode) }
}

/// As `creat(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn creat(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: see `open`.
    unsafe { open_at(libc::AT_FDCWD, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode) }
}

/// As `creat64(3)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn creat64(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: see `open`.
    unsafe { creat(path, mode) }
}

/// As `truncate(2)`: opened and truncated.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truncate(path: *const c_char, len: off_t) -> c_int {
    // SAFETY: see `open`.
    let fd = unsafe { open_at(libc::AT_FDCWD, path, libc::O_WRONLY | libc::O_CLOEXEC, 0) };
    if fd < 0 {
        return fd;
    }
    let done = super::files::ftruncate(fd, len);
    // SAFETY: the descriptor is ours.
    unsafe { libc::syscall(libc::SYS_close, fd) };
    done
}

/// As `truncate64(3)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truncate64(path: *const c_char, len: off_t) -> c_int {
    // SAFETY: see `open`.
    unsafe { truncate(path, len) }
}

/// As `renameat2(2)`; below the root without flags, and from below to below.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat2(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    // SAFETY: see `open`.
    unsafe { two_names(Kind::Rename, (from_dir, from), (to_dir, to), flags) }
}

/// Rename and link.
unsafe fn two_names(
    kind: Kind,
    (from_dir, from): (c_int, *const c_char),
    (to_dir, to): (c_int, *const c_char),
    flags: c_uint,
) -> c_int {
    // SAFETY: the caller's arguments, as they are.
    let call = || unsafe {
        let number = if kind == Kind::Link { libc::SYS_linkat } else { libc::SYS_renameat2 };
        libc::syscall(number, from_dir, from, to_dir, to, flags) as c_int
    };
    let Some(recorder) = recorder::recorder() else { return call() };
    // SAFETY: as above.
    let (from, to) = unsafe { (paths::absolute(from_dir, from), paths::absolute(to_dir, to)) };
    let (Some(from), Some(to)) = (from, to) else { return call() };
    let (inside_from, inside_to) = (recorder.relative(&from), recorder.relative(&to));
    let (inside_from, inside_to) = match (inside_from, inside_to) {
        (Some(from), Some(to)) if flags == 0 => (from, to),
        (None, None) => return call(),
        _ => return fail(libc::EXDEV) as c_int,
    };
    let mut turn = recorder.turn();
    let (moved, replaced) = (paths::of_path(&from), paths::of_path(&to));
    if let Err(errno) = turn.step(Class::Name, "rename", &inside_from) {
        return fail(errno) as c_int;
    }
    let done = call();
    if done == 0 {
        turn.record(kind, moved.map_or(0, |found| found.file), 0, &inside_from, &inside_to);
        forget(&mut turn, replaced);
        if kind == Kind::Rename {
            turn.moved(&inside_from, &inside_to);
        }
    }
    done
}

/// As `rename(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: see `open`.
    unsafe { renameat2(libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) }
}

/// As `renameat(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn renameat(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
) -> c_int {
    // SAFETY: see `open`.
    unsafe { renameat2(from_dir, from, to_dir, to, 0) }
}

/// As `linkat(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linkat(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: see `open`.
    unsafe { two_names(Kind::Link, (from_dir, from), (to_dir, to), flags.cast_unsigned()) }
}

/// As `link(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn link(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: see `open`.
    unsafe { linkat(libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) }
}

/// As `symlinkat(2)`; below the root it is refused.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn symlinkat(target: *const c_char, dir: c_int, path: *const c_char) -> c_int {
    // SAFETY: see `open`.
    if let Some((mut turn, _, relative)) = unsafe { turn_of(dir, path) } {
        turn.record(Kind::Refused, 0, 0, &relative, b"symlink");
        return fail(libc::EPERM) as c_int;
    }
    // SAFETY: see `open`.
    unsafe { libc::syscall(libc::SYS_symlinkat, target, dir, path) as c_int }
}

/// As `symlink(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn symlink(target: *const c_char, path: *const c_char) -> c_int {
    // SAFETY: see `open`.
    unsafe { symlinkat(target, libc::AT_FDCWD, path) }
}

/// As `unlinkat(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    let kind = if flags & libc::AT_REMOVEDIR != 0 { Kind::Rmdir } else { Kind::Unlink };
    // SAFETY: see `open`.
    unsafe { name(kind, dir, path, || libc::syscall(libc::SYS_unlinkat, dir, path, flags)) }
}

/// As `unlink(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: see `open`.
    unsafe { unlinkat(libc::AT_FDCWD, path, 0) }
}

/// As `rmdir(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: see `open`.
    unsafe { unlinkat(libc::AT_FDCWD, path, libc::AT_REMOVEDIR) }
}

/// As `mkdirat(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdirat(dir: c_int, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: see `open`.
    unsafe { name(Kind::Mkdir, dir, path, || libc::syscall(libc::SYS_mkdirat, dir, path, mode)) }
}

/// As `mkdir(2)`.
///
/// # Safety
/// See [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: see `open`.
    unsafe { mkdirat(libc::AT_FDCWD, path, mode) }
}
