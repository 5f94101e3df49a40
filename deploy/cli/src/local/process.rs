//! One child process: its binary stands beside ours, its log goes to a file in its folder.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::{Child, Command};

/// How long a process may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// The number of the signal that asks a process to stop.
const SIGTERM: i32 = 15;
/// How much of a log an error shows.
const LOG_TAIL_BYTES: usize = 2_000;

/// How a process is started.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Its binary; none: the one beside ours.
    pub program: Option<PathBuf>,
    /// What it is started through, in the same process: `["ip", "netns", "exec", "NAME"]`.
    pub through: Vec<String>,
    /// Variables of its environment, besides ours.
    pub environment: Vec<(String, OsString)>,
}

/// A running child.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `binary --config settings` in `dir`.
    pub fn spawn(binary: &str, dir: &Path, settings: &str, launch: &Launch) -> anyhow::Result<Self> {
        let log = dir.join(format!("{binary}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let path = launch.program.clone().map_or_else(|| beside(binary), Ok)?;
        let mut words = launch.through.iter().map(OsString::from).chain([path.clone().into()]);
        let child = Command::new(words.next().unwrap_or_default())
            .args(words)
            .args(["--config", settings])
            .envs(launch.environment.iter().cloned())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", path.display()))?;
        let name = format!("{binary} ({})", dir.file_name().unwrap_or_default().to_string_lossy());
        Ok(Self { name, log, child: Mutex::new(child) })
    }

    /// Its process id.
    pub fn id(&self) -> Option<u32> {
        self.child.lock().ok()?.id()
    }

    /// An error if it has ended, with the end of its log.
    pub fn check(&self) -> anyhow::Result<()> {
        let ended = self.child.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.try_wait()?;
        match ended {
            None => Ok(()),
            Some(status) => {
                anyhow::bail!("{} ended with {status}; its log ends:\n{}", self.name, self.log_tail())
            }
        }
    }

    /// Sends a signal by its name, `STOP` or `TERM`: by the shell's `kill`, as sending one oneself takes unsafe code.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        self.check()?;
        let id = self.id().context("the process has ended")?;
        let signalled = Command::new("kill").args([format!("-{name}"), id.to_string()]).status().await?;
        anyhow::ensure!(signalled.success(), "cannot signal {}", self.name);
        Ok(())
    }

    /// SIGKILL.
    pub async fn kill(self) -> anyhow::Result<()> {
        Ok(self.into_child()?.kill().await?)
    }

    /// SIGTERM, then waits. An error if it does not stop in time or reports a failure.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.signal("TERM").await?;
        let (name, log) = (self.name.clone(), self.log.clone());
        let mut child = self.into_child()?;
        match tokio::time::timeout(STOP_WITHIN, child.wait()).await {
            Ok(status) => {
                let status = status?;
                // One that has only just begun does not listen for the signal yet, and ends by it.
                let ended = status.success() || status.signal() == Some(SIGTERM);
                anyhow::ensure!(ended, "{name} ended with {status}; see {}", log.display());
                Ok(())
            }
            Err(_) => {
                child.kill().await?;
                anyhow::bail!("{name} did not stop within {} s; see {}", STOP_WITHIN.as_secs(), log.display())
            }
        }
    }

    fn into_child(self) -> anyhow::Result<Child> {
        self.child.into_inner().map_err(|_| anyhow::anyhow!("poisoned"))
    }

    fn log_tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let from = bytes.len().saturating_sub(LOG_TAIL_BYTES);
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }
}

/// The binary beside ours, or one folder up (tests run from `deps/`).
fn beside(binary: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(binary)).find(|path| path.is_file());
    found.with_context(|| {
        format!("{binary} is not beside {}; build it first: cargo build --bins", own.display())
    })
}
