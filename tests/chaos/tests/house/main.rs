//! The rules of the house, checked on the source: who may depend on whom, and how files are written.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

mod ladder;
mod tidy;

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}
