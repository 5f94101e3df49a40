//! The one lock under which calls happen and are written down, so that the trace is in the order in which they happened.

use std::collections::HashMap;
use std::ffi::{CString, OsString, c_int};
use std::os::unix::ffi::OsStringExt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::control::{Class, Rules};
use crate::paths;
use crate::trace::{Kind, Record};

static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// Watches one folder.
#[derive(Debug)]
pub struct Recorder {
    root: Vec<u8>,
    control: Option<CString>,
    trace: c_int,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Length of the trace.
    position: u64,
    steps: u64,
    kill_at: u64,
    rules: Rules,
    /// Files below the root that this process opened, and where they are.
    known: HashMap<u64, Vec<u8>>,
}

/// Reads the environment, and begins to watch if it says so.
pub fn start() {
    let variable = |name: &str| std::env::var_os(name).map(OsString::into_vec);
    let (Some(root), Some(trace)) = (variable("FAULTY_DISK_ROOT"), variable("FAULTY_DISK_TRACE")) else {
        return;
    };
    let Ok(trace) = CString::new(trace) else { return };
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: the path is a C string that lives through the call.
    let opened = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, trace.as_ptr(), flags, 0o644) };
    let opened = c_int::try_from(opened).ok().filter(|fd| *fd >= 0);
    let Some((trace, found)) = opened.and_then(|fd| Some((fd, paths::of_fd(fd)?))) else { return };
    let kill_at = std::env::var("FAULTY_DISK_KILL_AT").ok().and_then(|at| at.parse().ok()).unwrap_or(0);
    let control = variable("FAULTY_DISK_CONTROL").and_then(|path| CString::new(path).ok());
    let (rules, known) = (Rules::default(), HashMap::new());
    let state = Mutex::new(State { position: found.len, steps: 0, kill_at, rules, known });
    let recorder = RECORDER.get_or_init(|| Recorder { root, control, trace, state });
    recorder.turn().record(Kind::Start, 0, 0, b"", b"");
}

/// The recorder, where this process is watched.
pub fn recorder() -> Option<&'static Recorder> {
    RECORDER.get()
}

impl Recorder {
    /// A path relative to the root, if it lies below.
    pub fn relative(&self, absolute: &[u8]) -> Option<Vec<u8>> {
        absolute.strip_prefix(self.root.as_slice())?.strip_prefix(b"/").map(<[u8]>::to_vec)
    }

    /// The folder itself.
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// Takes the lock.
    pub fn turn(&self) -> Turn<'_> {
        Turn { recorder: self, state: self.state.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// The lock, held: what is called and recorded meanwhile is one step.
pub struct Turn<'a> {
    recorder: &'a Recorder,
    state: MutexGuard<'a, State>,
}

impl Turn<'_> {
    /// Counts a call that is about to happen. The process may end here; or the call must fail with the error.
    pub fn step(&mut self, class: Class, call: &str, path: &[u8]) -> Result<(), c_int> {
        self.state.steps += 1;
        if self.state.steps == self.state.kill_at {
            self.record(Kind::Killed, 0, 0, path, call.as_bytes());
            // SAFETY: no memory is involved.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        if let Some(control) = &self.recorder.control {
            self.state.rules.refresh(control);
        }
        match self.state.rules.errno(class, path) {
            None => Ok(()),
            Some(errno) => {
                self.record(Kind::Fault, 0, u64::try_from(errno).unwrap_or(0), path, call.as_bytes());
                Err(errno)
            }
        }
    }

    /// Length of the trace: all that happened stands before it.
    pub fn position(&self) -> u64 {
        self.state.position
    }

    /// Writes a record. A trace that cannot be written is worth nothing: the process ends.
    pub fn record(&mut self, kind: Kind, file: u64, number: u64, path: &[u8], bytes: &[u8]) {
        let record = Record { kind, file, number, path, bytes }.encode();
        let mut left = record.as_slice();
        while !left.is_empty() {
            // SAFETY: the pointer and the length are of one slice.
            let done =
                unsafe { libc::syscall(libc::SYS_write, self.recorder.trace, left.as_ptr(), left.len()) };
            match usize::try_from(done) {
                Ok(done) => left = left.get(done..).unwrap_or_default(),
                Err(_) => std::process::abort(),
            }
        }
        self.state.position += record.len() as u64;
    }

    /// Where a file lies that this process opened below the root.
    pub fn path(&self, file: u64) -> Option<Vec<u8>> {
        self.state.known.get(&file).cloned()
    }

    /// Remembers where a file lies.
    pub fn remember(&mut self, file: u64, path: Vec<u8>) {
        self.state.known.insert(file, path);
    }

    /// Forgets a file that has no name any more: its number may be given to another.
    pub fn forget(&mut self, file: u64) {
        self.state.known.remove(&file);
    }

    /// Notes that a file or a folder has another name.
    pub fn moved(&mut self, from: &[u8], to: &[u8]) {
        for path in self.state.known.values_mut() {
            let inside = path.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with(b"/"));
            if let Some(rest) = inside {
                *path = [to, rest].concat();
            }
        }
    }
}
