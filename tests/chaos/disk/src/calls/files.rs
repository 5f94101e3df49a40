//! Calls on open files.

use std::ffi::{c_int, c_long, c_void};

use libc::{iovec, off_t, size_t, ssize_t};

use super::{data, length, refuse, sync};
use crate::control::Class;

/// The first `len` bytes of a buffer.
unsafe fn copy(buffer: *const c_void, len: usize) -> Vec<u8> {
    // SAFETY: the kernel has just read so many bytes of it.
    unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), len) }.to_vec()
}

/// The first `len` bytes of some buffers.
unsafe fn gather(parts: *const iovec, count: c_int, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    for part in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the kernel has just read `count` parts, and `len` bytes of them.
        let part = unsafe { &*parts.add(part) };
        // SAFETY: as above.
        bytes.extend(unsafe { copy(part.iov_base, part.iov_len.min(len - bytes.len())) });
    }
    bytes
}

/// As `write(2)`.
///
/// # Safety
/// As of the call it stands for; so of all in this file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, len: size_t) -> ssize_t {
    // SAFETY: the caller's arguments, as they are.
    let call = || unsafe { libc::syscall(libc::SYS_write, fd, buffer, len) };
    // SAFETY: see `copy`.
    data(fd, None, call, |len| unsafe { copy(buffer, len) }) as ssize_t
}

/// As `writev(2)`.
///
/// # Safety
/// See [`write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller's arguments, as they are.
    let call = || unsafe { libc::syscall(libc::SYS_writev, fd, parts, count) };
    // SAFETY: see `gather`.
    data(fd, None, call, |len| unsafe { gather(parts, count, len) }) as ssize_t
}

/// As `pwrite(2)`.
///
/// # Safety
/// See [`write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, buffer: *const c_void, len: size_t, at: off_t) -> ssize_t {
    // SAFETY: the caller's arguments, as they are.
    let call = || unsafe { libc::syscall(libc::SYS_pwrite64, fd, buffer, len, at) };
    // SAFETY: see `copy`.
    data(fd, Some(at), call, |len| unsafe { copy(buffer, len) }) as ssize_t
}

/// As `pwrite64(3)`.
///
/// # Safety
/// See [`write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, buffer: *const c_void, len: size_t, at: off_t) -> ssize_t {
    // SAFETY: the same call.
    unsafe { pwrite(fd, buffer, len, at) }
}

/// As `pwritev(2)`.
///
/// # Safety
/// See [`write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev(fd: c_int, parts: *const iovec, count: c_int, at: off_t) -> ssize_t {
    // The kernel takes the offset in two halves, of which the second is unused where registers have 64 bits.
    // SAFETY: the caller's arguments, as they are.
    let call = || unsafe { libc::syscall(libc::SYS_pwritev, fd, parts, count, at, 0) };
    // SAFETY: see `gather`.
    data(fd, Some(at), call, |len| unsafe { gather(parts, count, len) }) as ssize_t
}

/// As `pwritev64(3)`.
///
/// # Safety
/// See [`write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64(fd: c_int, parts: *const iovec, count: c_int, at: off_t) -> ssize_t {
    // SAFETY: the same call.
    unsafe { pwritev(fd, parts, count, at) }
}

/// As `ftruncate(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn ftruncate(fd: c_int, len: off_t) -> c_int {
    // SAFETY: no memory is involved.
    length(fd, "ftruncate", || unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) }, |_| len) as c_int
}

/// As `ftruncate64(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn ftruncate64(fd: c_int, len: off_t) -> c_int {
    ftruncate(fd, len)
}

/// As `fallocate(2)`; on files below the root only to make them longer.
#[unsafe(no_mangle)]
pub extern "C" fn fallocate(fd: c_int, mode: c_int, at: off_t, len: off_t) -> c_int {
    // SAFETY: no memory is involved.
    let call = || unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, at, len) };
    let longer = |before: u64| i64::try_from(before).unwrap_or(i64::MAX).max(at.saturating_add(len));
    match mode {
        0 => length(fd, "fallocate", call, longer) as c_int,
        _ => refuse(fd, "fallocate", call) as c_int,
    }
}

/// As `fallocate64(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn fallocate64(fd: c_int, mode: c_int, at: off_t, len: off_t) -> c_int {
    fallocate(fd, mode, at, len)
}

/// As `posix_fallocate(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn posix_fallocate(fd: c_int, at: off_t, len: off_t) -> c_int {
    if fallocate(fd, 0, at, len) == 0 {
        return 0;
    }
    // SAFETY: glibc's errno of this thread is always there.
    unsafe { *libc::__errno_location() }
}

/// As `posix_fallocate64(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn posix_fallocate64(fd: c_int, at: off_t, len: off_t) -> c_int {
    posix_fallocate(fd, at, len)
}

/// As `fsync(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    // SAFETY: no memory is involved.
    sync(fd, "fsync", || unsafe { libc::syscall(libc::SYS_fsync, fd) }) as c_int
}

/// As `fdatasync(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    // SAFETY: no memory is involved.
    sync(fd, "fdatasync", || unsafe { libc::syscall(libc::SYS_fdatasync, fd) }) as c_int
}

/// As `sync_file_range(2)`, which promises nothing: it can fail, and is not recorded.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(fd: c_int, at: off_t, len: off_t, flags: libc::c_uint) -> c_int {
    let refused = super::turn_of(fd)
        .and_then(|(mut turn, _, path)| turn.step(Class::Sync, "sync_file_range", &path).err());
    if let Some(errno) = refused {
        return super::fail(errno) as c_int;
    }
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_sync_file_range, fd, at, len, flags) as c_int }
}

/// As `copy_file_range(2)`; to a file below the root it is refused, and callers write instead.
///
/// # Safety
/// See [`write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy_file_range(
    from: c_int,
    from_at: *mut off_t,
    to: c_int,
    to_at: *mut off_t,
    len: size_t,
    flags: libc::c_uint,
) -> ssize_t {
    let call =
        // SAFETY: the caller's arguments, as they are.
        || unsafe { libc::syscall(libc::SYS_copy_file_range, from, from_at, to, to_at, len, flags) };
    refuse(to, "copy_file_range", call) as ssize_t
}

/// As `sendfile(2)`; to a file below the root it is refused, and callers write instead.
///
/// # Safety
/// See [`write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile(to: c_int, from: c_int, at: *mut off_t, len: size_t) -> ssize_t {
    // SAFETY: the caller's arguments, as they are.
    refuse(to, "sendfile", || unsafe { libc::syscall(libc::SYS_sendfile, to, from, at, len) }) as ssize_t
}

/// As `sendfile64(3)`.
///
/// # Safety
/// See [`write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile64(to: c_int, from: c_int, at: *mut off_t, len: size_t) -> ssize_t {
    // SAFETY: the same call.
    unsafe { sendfile(to, from, at, len) }
}

/// As `splice(2)`; to a file below the root it is refused.
///
/// # Safety
/// See [`write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn splice(
    from: c_int,
    from_at: *mut off_t,
    to: c_int,
    to_at: *mut off_t,
    len: size_t,
    flags: libc::c_uint,
) -> ssize_t {
    // SAFETY: the caller's arguments, as they are.
    let call = || unsafe { libc::syscall(libc::SYS_splice, from, from_at, to, to_at, len, flags) };
    refuse(to, "splice", call) as ssize_t
}

/// As `mmap(2)`; what would write to a file below the root through memory is refused.
///
/// # Safety
/// See [`write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    at: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller's arguments, as they are.
    let call = || unsafe { libc::syscall(libc::SYS_mmap, at, len, protection, flags, fd, offset) };
    // Shared memory that can be written now, or made writable later.
    let writes = flags & libc::MAP_SHARED != 0 && flags & libc::MAP_ANONYMOUS == 0;
    let mapped: c_long =
        if writes && protection & libc::PROT_WRITE != 0 { refuse(fd, "mmap", call) } else { call() };
    mapped as *mut c_void
}

/// As `mmap64(3)`.
///
/// # Safety
/// See [`write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    at: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the same call.
    unsafe { mmap(at, len, protection, flags, fd, offset) }
}
