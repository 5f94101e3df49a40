//! Bugs that a test may switch on, to see that they are caught (feature `planted`; tests/chaos/README.md). Without the feature
//! all of this is the constant `false`.

/// Whether a bug is switched on, through the environment variable `FAILPOINTS=name=return`.
pub fn on(bug: &str) -> bool {
    fail::eval(bug, |_| ()).is_some()
}
