//! What is measured: three processes that agree on every write, and clients of them.

use std::path::Path;

use crate::load::Writer;

/// Members on either side.
pub const MEMBERS: u64 = 3;

/// A replicated system that runs.
pub trait System: Sized {
    /// A client.
    type Writer: Writer;

    /// Starts [`MEMBERS`] processes with their data in a folder, and waits until they have a leader.
    ///
    /// # Errors
    /// Where they do not come up.
    async fn start(dir: &Path) -> anyhow::Result<Self>;

    /// Clients, each with a connection of its own, over the members in turn; the first is the leader's.
    ///
    /// # Errors
    /// Where a member cannot be reached.
    async fn writers(&self, count: usize) -> anyhow::Result<Vec<Self::Writer>>;

    /// Process ids of the members.
    fn process_ids(&self) -> Vec<u32>;

    /// Syncs of the leader's log so far, and writes that it holds.
    ///
    /// # Errors
    /// Where the leader does not say.
    async fn counts(&self) -> anyhow::Result<Counts>;

    /// Ends the processes.
    ///
    /// # Errors
    /// Where they do not end.
    async fn stop(self) -> anyhow::Result<()>;
}

/// What the leader has counted.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Syncs of its log.
    pub syncs: u64,
    /// Seconds that they took: ours from handing entries over until they are durable, etcd's the call alone.
    pub sync_s: f64,
    /// Writes that it holds.
    pub writes: u64,
}

/// One value of a page of metrics in Prometheus' text form.
///
/// # Errors
/// Where it is not there.
pub fn metric(page: &str, name: &str) -> anyhow::Result<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.ok_or_else(|| anyhow::anyhow!("there is no metric {name}"))?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let page = "# HELP a_count x\na_count_of 1\na_count 1.5e+03\n";
        assert_eq!(metric(page, "a_count").unwrap(), 1_500.0);
        assert!(metric(page, "a").is_err());
    }
}
