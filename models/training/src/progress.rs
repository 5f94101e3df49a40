//! Progress lines on standard error: what runs, how far it is, how long it took, how long it will take.

use std::time::{Duration, Instant};

/// One task that takes a while.
pub struct Progress {
    what: String,
    since: Instant,
    last: std::cell::Cell<Option<Instant>>,
    quiet: bool,
}

/// Lines come no faster than this, so that short epochs do not flood the screen.
const LINE_EVERY: Duration = Duration::from_secs(2);

impl Progress {
    /// Begins a task.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), since: Instant::now(), last: std::cell::Cell::new(None), quiet: false }
    }

    /// Says nothing.
    pub fn quiet() -> Self {
        Self { quiet: true, ..Self::new("") }
    }

    /// Step `at` of `of` is done. The first and the last step are always said.
    #[expect(clippy::cast_precision_loss, reason = "step counts are small")]
    pub fn step(&self, at: usize, of: usize, state: &str) {
        let due = self.last.get().is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if self.quiet || !(due || at == of) {
            return;
        }
        self.last.set(Some(Instant::now()));
        let elapsed = self.since.elapsed().as_secs_f64();
        let left = elapsed / at.max(1) as f64 * of.saturating_sub(at) as f64;
        self.line(&format!("{at}/{of}  {state}  {elapsed:.0} s, at most {left:.0} s to go"));
    }

    /// The task is done.
    pub fn done(&self, state: &str) {
        if !self.quiet {
            self.line(&format!("{state}  ({:.1} s)", self.since.elapsed().as_secs_f64()));
        }
    }

    #[expect(clippy::print_stderr, reason = "progress is for the person at the terminal")]
    fn line(&self, text: &str) {
        eprintln!("[{}] {text}", self.what);
    }
}
