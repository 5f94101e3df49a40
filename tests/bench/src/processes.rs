//! CPU time and memory of processes, from /proc (`man 5 proc`).

use std::collections::HashMap;

use anyhow::Context as _;
use serde::Serialize;

/// Clock ticks a second in /proc/PID/stat: 100 on every Linux that reports to user space (`man 5 proc`).
const TICKS_PER_S: f64 = 100.0;

/// CPU seconds that processes have used: in user space and in the kernel, all threads, and what their children had used that ended.
///
/// # Errors
/// Where one has ended.
pub fn cpu_s(processes: &[u32]) -> anyhow::Result<f64> {
    let mut ticks = 0.0;
    for process in processes {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))
            .with_context(|| format!("process {process} has ended"))?;
        // The second field, the name, may hold blanks; it ends with the last parenthesis. utime, stime, cutime and cstime are 14 to 17.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
        for field in fields {
            ticks += field.parse::<f64>()?;
        }
    }
    Ok(ticks / TICKS_PER_S)
}

/// CPU seconds that these processes have used with all their children, those too that have ended: nginx's cache loader ends a
/// minute after its start.
///
/// # Errors
/// Where one of `roots` has ended.
pub fn families_cpu_s(roots: &[u32]) -> anyhow::Result<f64> {
    // First the children: who ends meanwhile is in its parent's count.
    families(roots)?.iter().rev().try_fold(0.0, |sum, process| match cpu_s(&[*process]) {
        Err(_) if !roots.contains(process) => Ok(sum),
        seconds => Ok(sum + seconds?),
    })
}

/// These processes with all their children, and theirs.
///
/// # Errors
/// Where /proc cannot be read.
pub fn families(roots: &[u32]) -> anyhow::Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").context("only Linux says what runs")?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit(')').next().unwrap_or_default().split_whitespace().nth(1);
        if let Some(parent) = parent.and_then(|parent| parent.parse().ok()) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut found = roots.to_vec();
    let mut at = 0;
    while at < found.len() {
        found.extend(children.remove(&found[at]).unwrap_or_default());
        at += 1;
    }
    Ok(found)
}

/// CPU seconds that all cores together have been busy since the machine started: whatever runs on them, and what other machines on
/// the same processor took away.
///
/// # Errors
/// Where /proc/stat is not as it should be.
pub fn busy_s() -> anyhow::Result<f64> {
    let page = std::fs::read_to_string("/proc/stat").context("only Linux says how busy it is")?;
    let all = page.lines().find_map(|line| line.strip_prefix("cpu "));
    let fields = all.context("/proc/stat has no line for all cores")?.split_whitespace();
    let ticks = fields.map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; what guests use is in user already.
    Ok([0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum::<f64>() / TICKS_PER_S)
}

/// What processes hold in memory.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Memory {
    /// Resident sets, added up: what processes share counts for each.
    pub rss_mib: f64,
    /// The same with what is shared divided among those who share it (PSS).
    pub pss_mib: f64,
}

impl Memory {
    /// Adds up what processes hold now.
    ///
    /// # Errors
    /// Where one has ended.
    pub fn of(processes: &[u32]) -> anyhow::Result<Self> {
        let mut memory = Self::default();
        for process in processes {
            let path = format!("/proc/{process}/smaps_rollup");
            let page = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            let mib = |name: &str| -> anyhow::Result<f64> {
                let value = page.lines().find_map(|line| line.strip_prefix(name));
                let kib = value.and_then(|value| value.trim().strip_suffix(" kB"));
                Ok(kib.with_context(|| format!("{path} has no {name}"))?.parse::<f64>()? / 1024.0)
            };
            memory.rss_mib += mib("Rss:")?;
            memory.pss_mib += mib("Pss:")?;
        }
        Ok(memory)
    }
}

/// Resident set of a process. Unlike [`Memory::of`] it asks for no walk through the page tables, which would hold up a process
/// that is measured.
///
/// # Errors
/// Where it has ended.
pub fn rss_mib(process: u32) -> anyhow::Result<f64> {
    let page = std::fs::read_to_string(format!("/proc/{process}/status"))
        .with_context(|| format!("process {process} has ended"))?;
    let kib = page.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(kib.context("a status without VmRSS")?.trim().parse::<f64>()? / 1024.0)
}

/// CPU seconds that the calling thread has used, to the nanosecond.
///
/// # Errors
/// Where the kernel does not count them.
pub fn thread_cpu_s() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse::<f64>()? / 1e9)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn our_own_cpu_time_grows() {
        let (own, began) = ([std::process::id()], Instant::now());
        let now = || [cpu_s(&own).unwrap(), thread_cpu_s().unwrap(), busy_s().unwrap()];
        let before = now();
        while now().iter().zip(before).any(|(now, before)| *now <= before) {
            assert!(began.elapsed().as_secs() < 10, "no CPU time in 10 s of work");
        }
    }

    #[test]
    fn a_child_is_of_the_family_and_holds_memory() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let family = families(&[std::process::id()]).unwrap();
        assert!(family.contains(&child.id()));
        let memory = Memory::of(&[std::process::id()]).unwrap();
        assert!(memory.rss_mib >= memory.pss_mib && memory.pss_mib > 0.1, "{memory:?}");
        assert!(rss_mib(child.id()).unwrap() > 0.1);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_a_child_has_used_still_counts_when_it_has_ended() {
        // A shell, whose child works for two tenths of a second and ends, and who then waits to be told to end.
        let work = "timeout 0.2 sh -c 'while :; do :; done'; echo; read end";
        let mut shell = std::process::Command::new("sh");
        let shell =
            shell.args(["-c", work]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert_eq!(families(&[shell.id()]).unwrap(), [shell.id()]);
        assert!(families_cpu_s(&[shell.id()]).unwrap() > 0.02);
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(families_cpu_s(&[shell.id()]).is_err(), "a root that has ended is an error");
    }
}
