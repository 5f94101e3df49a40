//! What the cache counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// What a request is called that what is stored answers.
pub const HIT: &str = "hit";

/// Counters and gauges.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    /// Of them those that are answered from here: looked up once.
    hits: IntCounter,
    /// Requests to origins, by origin and outcome.
    pub fetches: IntCounterVec,
    /// Requests that waited for another's fetch.
    pub coalesced: IntCounter,
    /// Whether an origin is asked: 1, or left alone: 0.
    pub origin_up: IntGaugeVec,
    /// Bytes of stored responses in memory.
    pub memory_bytes: IntGauge,
    /// Bytes of the disk's newer half.
    pub disk_bytes: IntGauge,
    /// Responses that were not written, as too many waited for that.
    pub disk_skipped: IntCounter,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// Where they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let vector = |name: &str, help: &str, labels: &[&str]| {
            let vector = IntCounterVec::new(Opts::new(format!("rockpool_cache_{name}"), help), labels)?;
            registry.register(Box::new(vector.clone()))?;
            prometheus::Result::Ok(vector)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("rockpool_cache_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("rockpool_cache_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let up = Opts::new("rockpool_cache_origin_up", "Whether an origin is asked (1) or left alone (0)");
        let origin_up = IntGaugeVec::new(up, &["origin"])?;
        registry.register(Box::new(origin_up.clone()))?;
        let requests = vector("requests_total", "Requests for content, by what was done", &["outcome"])?;
        Ok(Self {
            hits: requests.with_label_values(&[HIT]),
            requests,
            fetches: vector("fetches_total", "Requests to origins, by outcome", &["origin", "outcome"])?,
            coalesced: counter("coalesced_total", "Requests that waited for another's fetch")?,
            origin_up,
            memory_bytes: gauge("memory_bytes", "Bytes of stored responses in memory")?,
            disk_bytes: gauge("disk_bytes", "Bytes of the newer half of the cache's disk")?,
            disk_skipped: counter("disk_skipped_total", "Responses not written to disk: too many waited")?,
        })
    }

    /// Counts a request for content, by what was done.
    pub fn count(&self, outcome: &str) {
        match outcome {
            HIT => self.hits.inc(),
            outcome => self.requests.with_label_values(&[outcome]).inc(),
        }
    }
}
