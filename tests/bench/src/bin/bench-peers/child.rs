//! Peers as child processes: each in a process group of its own with a log in its folder; none outlives the benchmark.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpStream;
use tokio::process::{Child as Process, Command};
use tokio::time::Instant;

/// How long a peer may take until it takes connections.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to end when it was asked to.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How often something is looked at again.
const POLL: Duration = Duration::from_millis(25);
/// How much of a log an error shows.
const LOG_TAIL_BYTES: usize = 2_000;

/// A running peer with all its processes.
pub struct Child {
    name: &'static str,
    process: Process,
    /// Also the number of its process group.
    id: u32,
    log: PathBuf,
}

/// What to start.
pub struct Program<'a> {
    /// For people, and the log's name.
    pub name: &'static str,
    /// Its folder, where its log goes.
    pub dir: &'a Path,
    /// Program and arguments.
    pub words: Vec<OsString>,
    /// Variables of its environment, besides ours.
    pub environment: Vec<(&'static str, OsString)>,
}

impl Child {
    /// Starts a program.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(program: Program<'_>) -> anyhow::Result<Self> {
        let log = program.dir.join(format!("{}.log", program.name));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        // Should the benchmark be killed, the system asks the peer to end.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .args(&program.words)
            .envs(program.environment)
            .current_dir(program.dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.name))?;
        let id = process.id().with_context(|| format!("{} has ended", program.name))?;
        Ok(Self { name: program.name, process, id, log })
    }

    /// The first process; the others are its children.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Waits until something holds.
    ///
    /// # Errors
    /// Where it does not in time, or the peer ends before, with the end of its log.
    pub async fn until(&mut self, condition: impl AsyncFn() -> bool) -> anyhow::Result<()> {
        let until = Instant::now() + READY_WITHIN;
        while !condition().await {
            let ended = self.process.try_wait()?;
            let late = Instant::now() > until;
            anyhow::ensure!(
                ended.is_none() && !late,
                "{} {}; its log ends:\n{}",
                self.name,
                ended.map_or_else(
                    || "is not ready in time".to_owned(),
                    |status| format!("ended with {status}")
                ),
                log_tail(&self.log)
            );
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until somebody takes connections at this address of TCP.
    ///
    /// # Errors
    /// As [`Child::until`].
    pub async fn until_listening(&mut self, address: &str) -> anyhow::Result<()> {
        self.until(async || TcpStream::connect(address).await.is_ok()).await
    }

    /// Asks all of its processes to end, and waits.
    ///
    /// # Errors
    /// Where they cannot be asked, or do not end in time: then they are killed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        signal_group("TERM", self.id)?;
        let ended = tokio::time::timeout(STOP_WITHIN, self.process.wait()).await;
        ended.with_context(|| format!("{} did not end in time", self.name))??;
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Also after a stop in good order: nothing is left behind. There may be nobody left to hear of it.
        let _ = signal_group("KILL", self.id);
    }
}

/// By the shell's `kill`, as sending a signal oneself takes unsafe code.
fn signal_group(signal: &str, group: u32) -> anyhow::Result<()> {
    let mut kill = std::process::Command::new("kill");
    let kill = kill.args([&format!("-{signal}"), "--", &format!("-{group}")]);
    kill.stderr(Stdio::null()).status().context("cannot run kill")?;
    Ok(())
}

fn log_tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
}
