//! What the store counts, under `rockpool_store_`.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry, exponential_buckets};

/// The store's metrics. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// From proposing a command to its effect.
    pub commit_seconds: Histogram,
    /// Commands in one Raft entry.
    pub group_len: Histogram,
    /// Proposals and notes that wait for a group.
    pub queue_len: IntGauge,
    /// Log index applied.
    pub applied_index: IntGauge,
    /// Highest log index held.
    pub last_log_index: IntGauge,
    /// From handing entries or a vote to the log until they are on disk.
    pub fsync_seconds: Histogram,
    /// Applying a group of entries.
    pub apply_seconds: Histogram,
    /// Writing a layer to sled.
    pub flush_seconds: Histogram,
    /// Writing a snapshot.
    pub snapshot_seconds: Histogram,
    /// Snapshots made.
    pub snapshots: IntCounter,
    /// Snapshots of a peer that took the place of the state.
    pub snapshots_installed: IntCounter,
    /// Events that wait for the cloud.
    pub outbox_len: IntGauge,
    /// Times that another node became the leader, as this node saw it.
    pub leader_changes: IntCounter,
    /// Notes that were not written.
    pub notes_dropped: IntCounter,
    /// Proposals refused because too many waited.
    pub overloaded: IntCounter,
    /// Views that could not be read, and were answered as if the visitor were unknown.
    pub view_errors: IntCounter,
}

impl Metrics {
    /// Registers the store's metrics.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Make { registry };
        Ok(Self {
            commit_seconds: make.seconds("commit_seconds", "From proposing a command to its effect.")?,
            group_len: make.lengths("group_len", "Commands in one Raft entry.")?,
            queue_len: make.gauge("queue_len", "Proposals and notes that wait for a group.")?,
            applied_index: make.gauge("applied_index", "Log index applied.")?,
            last_log_index: make.gauge("last_log_index", "Highest log index held.")?,
            fsync_seconds: make
                .seconds("fsync_seconds", "From handing entries to the log until they are durable.")?,
            apply_seconds: make.seconds("apply_seconds", "Applying a group of entries.")?,
            flush_seconds: make.seconds("flush_seconds", "Writing a layer to sled.")?,
            snapshot_seconds: make.seconds("snapshot_seconds", "Writing a snapshot.")?,
            snapshots: make.counter("snapshots_total", "Snapshots made.")?,
            snapshots_installed: make.counter("snapshots_installed_total", "Snapshots taken from a peer.")?,
            outbox_len: make.gauge("outbox_len", "Events that wait for the cloud.")?,
            leader_changes: make.counter("leader_changes_total", "Changes of the leader seen.")?,
            notes_dropped: make.counter("notes_dropped_total", "Notes that were not written.")?,
            overloaded: make.counter("overloaded_total", "Proposals refused because too many waited.")?,
            view_errors: make.counter("view_errors_total", "Views that could not be read.")?,
        })
    }
}

struct Make<'a> {
    registry: &'a Registry,
}

impl Make<'_> {
    fn seconds(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        self.histogram(name, help, exponential_buckets(0.000_1, 2.0, 18)?)
    }

    fn lengths(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        self.histogram(name, help, exponential_buckets(1.0, 2.0, 13)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, prometheus::Error> {
        let metric = Histogram::with_opts(HistogramOpts::new(full(name), help).buckets(buckets))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let metric = IntGauge::new(full(name), help)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let metric = IntCounter::new(full(name), help)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

fn full(name: &str) -> String {
    format!("rockpool_store_{name}")
}
