//! A disk that can be watched and broken, below the file system interface of a process that knows nothing of it.
//!
//! Loaded with `LD_PRELOAD`, it stands before libc's file calls. Of every call that changes what lies under one folder it
//! writes a record to a trace, in one order across all threads; and it fails calls, or kills the process, where it is told.
//!
//! | environment | what |
//! |---|---|
//! | `FAULTY_DISK_ROOT` | the folder; calls elsewhere pass untouched. Unset: all calls do |
//! | `FAULTY_DISK_TRACE` | the trace, appended to; not under the folder |
//! | `FAULTY_DISK_CONTROL` | which calls fail, a line a rule ([`control`]); read again whenever the file changes |
//! | `FAULTY_DISK_KILL_AT` | SIGKILL in the place of the so-manieth state-changing call |
//!
//! Files are told apart by their inode, so duplicates of descriptors and renames need no bookkeeping, and a process that
//! starts again appends to the same trace. x86-64 and aarch64 Linux with glibc.
#![allow(unsafe_code, reason = "it takes the place of C functions, and calls the kernel in theirs")]

mod calls;
mod control;
mod paths;
mod recorder;
pub mod trace;

/// Runs when the library is loaded, before the program's `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    recorder::start();
}
