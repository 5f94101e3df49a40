//! The machine that the figures are of.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

/// Appends that are made to see what a durable one costs.
const PROBES: usize = 200;
/// Bytes of each.
const PROBE_BYTES: usize = 1_280;

/// What it is.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Cores that we may use.
    pub cores: usize,
    /// The processor's name.
    pub cpu: String,
    /// The file system of the data: device and type.
    pub file_system: String,
    /// A plain append of 1,280 bytes with fdatasync there, in microseconds: median, and 99 of 100.
    pub fdatasync_p50_us: u64,
    /// 99 of 100 are faster.
    pub fdatasync_p99_us: u64,
    /// Load average of the last minute when the run began: others at work make figures smaller.
    pub load_average: f64,
}

impl Machine {
    /// Looks at it; `dir` is where data will lie.
    ///
    /// # Errors
    /// Where `dir` is in memory: nothing could be durable there.
    pub fn look(dir: &Path) -> anyhow::Result<Self> {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
        let (device, kind) = file_system(dir)?;
        anyhow::ensure!(
            !["tmpfs", "ramfs"].contains(&kind.as_str()),
            "{} is in memory ({kind}), where nothing is durable: give a folder on a disk with --dir",
            dir.display()
        );
        let mut probes = probes(dir)?;
        probes.sort_unstable();
        let load = std::fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            cpu: model.map_or("unknown processor", |(_, name)| name).to_owned(),
            file_system: format!("{kind} on {device}"),
            fdatasync_p50_us: probes[PROBES / 2],
            fdatasync_p99_us: probes[PROBES * 99 / 100],
            load_average: load.split(' ').next().unwrap_or_default().parse()?,
        })
    }
}

/// Device and type of the file system that holds a folder.
fn file_system(dir: &Path) -> anyhow::Result<(String, String)> {
    let dir = dir.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("only Linux says what is mounted")?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields.len() > 2 && dir.starts_with(fields[1]))
        .max_by_key(|fields| fields[1].len())
        .map(|fields| (fields[0].to_owned(), fields[2].to_owned()))
        .with_context(|| format!("nothing is mounted at {}", dir.display()))
}

/// Microseconds of durable appends.
fn probes(dir: &Path) -> anyhow::Result<Vec<u64>> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut took = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        let began = Instant::now();
        file.write_all(&[7; PROBE_BYTES])?;
        file.sync_data()?;
        took.push(u64::try_from(began.elapsed().as_micros())?);
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_mounted_as_proc() {
        assert_eq!(file_system(Path::new("/proc/self")).unwrap().1, "proc");
    }
}
