//! Storage, below the file system interface: real stores on disks that lose power, run full, fail and rot.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

mod power;
