//! Storage, below the file system interface: real stores on disks that lose power, run full, fail and rot.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what helps them")]

mod escapes;
mod faults;
mod flips;
mod kills;
mod power;
mod syncs;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// In memory where there is such a place.
fn scratch() -> tempfile::TempDir {
    chaos::power::scratch().unwrap()
}
