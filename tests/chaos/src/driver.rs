//! A PoP in a process of its own (`storage-driver`) on a disk that is watched and broken (`disk/`).

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::pop::FIRST_BOOT;
use crate::serials::{MARKS, Mark};

/// Nothing here takes this long, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// What a driver is to do.
#[derive(Debug, Clone)]
pub struct Orders {
    /// Nodes.
    pub nodes: u64,
    /// What is done, and in which order.
    pub seed: u64,
    /// The first serial.
    pub first: u64,
    /// Acknowledged writes after which it ends; 0: when told.
    pub writes: u64,
    /// Writers a node; each waits for its write before it goes on.
    pub writers: u64,
    /// What is done besides.
    pub stir: Stir,
    /// The boot of the machine that the nodes are to believe in.
    pub boot: String,
    /// SIGKILL in the place of the so-manieth call that changes the disk.
    pub kill_at: Option<u64>,
}

impl Orders {
    /// Everything that a PoP does, on so many nodes, until it is told to end.
    pub fn busy(nodes: u64, seed: u64) -> Self {
        Self {
            nodes,
            seed,
            first: 1,
            writes: 0,
            writers: 2,
            stir: Stir::All,
            boot: FIRST_BOOT.into(),
            kill_at: None,
        }
    }
}

/// What a driver does besides writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Stir {
    /// Nothing: and only its first node is written to.
    Nothing,
    /// Snapshots, with purging; and the cloud acknowledges.
    Snapshots,
    /// That, bundles, handing over leadership, and restarts.
    All,
}

impl Stir {
    fn as_str(self) -> &'static str {
        match self {
            Stir::Nothing => "nothing",
            Stir::Snapshots => "snapshots",
            Stir::All => "all",
        }
    }
}

/// Where a driver works, and where it is watched from.
#[derive(Debug, Clone)]
pub struct Place {
    dir: PathBuf,
}

impl Place {
    /// Below an existing folder.
    ///
    /// # Errors
    /// Where the folders cannot be made.
    pub fn new(dir: &Path) -> Result<Self> {
        // Canonical: the kernel tells paths of descriptors that way.
        let dir = dir.canonicalize()?;
        fs::create_dir_all(dir.join("root"))?;
        Ok(Self { dir })
    }

    /// The folder of the nodes.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// What was done to it.
    pub fn trace(&self) -> PathBuf {
        self.dir.join("trace")
    }

    /// What the driver logged.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join("log"))?)
    }

    /// What it said up to now.
    ///
    /// # Errors
    /// Where that cannot be read.
    pub fn marks(&self) -> Result<Vec<Mark>> {
        let text = fs::read_to_string(self.root().join(MARKS)).unwrap_or_default();
        // A line that is being written has no end yet.
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(Mark::parse).collect()
    }

    /// Which calls fail from now on (`disk/src/control.rs`).
    ///
    /// # Errors
    /// Where the rules cannot be written.
    pub fn faults(&self, rules: &str) -> Result<()> {
        let next = self.dir.join("control.next");
        fs::write(&next, rules)?;
        Ok(fs::rename(next, self.dir.join("control"))?)
    }
}

/// A driver that runs; killed when it is dropped.
#[derive(Debug)]
pub struct Driver {
    child: Child,
    place: Place,
}

impl Driver {
    /// Starts one.
    ///
    /// # Errors
    /// Where the driver or the library was not built.
    pub fn start(place: &Place, orders: &Orders) -> Result<Self> {
        let mut command = command(place, orders)?;
        let log = File::options().create(true).append(true).open(place.dir.join("log"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().context("the storage driver cannot be started")?;
        Ok(Self { child, place: place.clone() })
    }

    /// Tells it something: `restart N`, `quit`.
    ///
    /// # Errors
    /// Where it does not listen any more.
    pub fn tell(&mut self, order: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("the driver's standard input")?;
        Ok(writeln!(stdin, "{order}")?)
    }

    /// Waits until its marks fulfil a condition.
    ///
    /// # Errors
    /// Where they do not in time, or the driver ended.
    pub fn until(&mut self, what: &str, holds: impl Fn(&[Mark]) -> bool) -> Result<Vec<Mark>> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait()?;
            let marks = self.place.marks()?;
            if holds(&marks) {
                return Ok(marks);
            }
            if let Some(status) = ended {
                bail!("the driver ended ({status}) before: {what}\n{}", self.place.log()?);
            }
            ensure!(Instant::now() < give_up, "waited in vain: {what}\n{}", self.place.log()?);
            pause();
        }
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// Where it does not in time.
    pub fn ended(mut self) -> Result<ExitStatus> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < give_up, "the driver does not end\n{}", self.place.log()?);
            pause();
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a pause between two looks at another process; nothing here is async"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// The command that runs a driver on a watched disk.
///
/// # Errors
/// Where the driver or the library was not built.
pub fn command(place: &Place, orders: &Orders) -> Result<Command> {
    let (library, driver) = (built("libfaulty_disk.so")?, built("storage-driver")?);
    let number = |number: u64| number.to_string();
    let mut command = Command::new(driver);
    command
        .arg("--root")
        .arg(place.root())
        .args(["--nodes", &number(orders.nodes), "--seed", &number(orders.seed)])
        .args(["--first", &number(orders.first), "--writes", &number(orders.writes)])
        .args(["--writers", &number(orders.writers), "--stir", orders.stir.as_str()])
        .args(["--boot", &orders.boot])
        .env("LD_PRELOAD", library)
        .env("FAULTY_DISK_ROOT", place.root())
        .env("FAULTY_DISK_TRACE", place.trace())
        .env("FAULTY_DISK_CONTROL", place.dir.join("control"));
    if let Some(at) = orders.kill_at {
        command.env("FAULTY_DISK_KILL_AT", number(at));
    }
    Ok(command)
}

/// What cargo built along: beside this executable, or beside its folder.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let beside = executable.parent().context("an executable lies in a folder")?;
    let above = beside.parent().unwrap_or(beside);
    let places = [beside.join("deps").join(name), beside.join(name), above.join(name)];
    let found = places.iter().find(|path| path.exists());
    found.cloned().with_context(|| format!("{name} was not built: cargo build -p chaos --bins"))
}
