//! What the uplink counts.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

/// What the uplink counts, under `rockpool_uplink_`.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Events that the cloud acknowledged to this node.
    pub events: IntCounter,
    /// Seconds from sending a batch to its acknowledgement.
    pub append_seconds: Histogram,
    /// Batches, dials and pulls that failed.
    pub failures: IntCounter,
    /// 1 while connected.
    pub connected: IntGauge,
    /// 1 while the cloud's and the PoP's offsets contradict each other and a person must act.
    pub diverged: IntGauge,
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            events: IntCounter::new("rockpool_uplink_events_total", "Events acknowledged by the cloud")?,
            append_seconds: Histogram::with_opts(HistogramOpts::new(
                "rockpool_uplink_append_seconds",
                "From sending a batch to its acknowledgement",
            ))?,
            failures: IntCounter::new(
                "rockpool_uplink_failures_total",
                "Batches, dials and pulls that failed",
            )?,
            connected: IntGauge::new("rockpool_uplink_connected", "1 while connected to the cloud")?,
            diverged: IntGauge::new(
                "rockpool_uplink_diverged",
                "1 while the offsets of cloud and PoP contradict each other: a person must act",
            )?,
        };
        registry.register(Box::new(metrics.events.clone()))?;
        registry.register(Box::new(metrics.append_seconds.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        registry.register(Box::new(metrics.connected.clone()))?;
        registry.register(Box::new(metrics.diverged.clone()))?;
        Ok(metrics)
    }
}
