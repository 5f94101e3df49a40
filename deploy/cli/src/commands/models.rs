//! `rockpool train` and `rockpool evaluate`: hand over to `rockpool-train`, a binary of its own, as its engine takes long to
//! build and nothing else needs it. In a source tree it is built when it is first used.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// Becomes `rockpool-train`, with the arguments that this program was given: they have been read once here, so that help and
/// mistakes are answered at once, and not after a build.
#[expect(clippy::print_stderr, reason = "building takes minutes: people are told")]
pub fn run() -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let binary = own.with_file_name("rockpool-train");
    if Path::new("models/training/Cargo.toml").is_file() {
        let how_long = if binary.is_file() { "a moment" } else { "the first time: some four minutes" };
        eprintln!("building rockpool-train ({how_long}) …");
        build(&own)?;
    }
    anyhow::ensure!(
        binary.is_file(),
        "{} is missing; build it in the source tree: cargo build -p training --bin rockpool-train",
        binary.display()
    );
    let error = Command::new(&binary).args(std::env::args_os().skip(1)).exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}

/// Builds it to where this program lies, in the same profile.
fn build(own: &Path) -> anyhow::Result<()> {
    let profile_dir = own.parent().context("a program lies in a folder")?;
    let target_dir = profile_dir.parent().context("a program lies in a target folder")?;
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let status = Command::new(cargo)
        .args(["build", "--quiet", "-p", "training", "--bin", "rockpool-train", "--target-dir"])
        .arg(target_dir)
        .args(profile_dir.ends_with("release").then_some("--release"))
        .status()
        .context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "rockpool-train could not be built");
    Ok(())
}
