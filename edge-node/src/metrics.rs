//! What a node counts at its doors. The store, the uplink and the bundles count for themselves.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use proto::client::ServedBy;

/// What a node counts, under `rockpool_edge_`.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Requests by `ask` and `outcome` (`ok` or an error code).
    pub requests: IntCounterVec,
    /// Seconds from reading a request to writing its reply, by `ask`.
    pub request_seconds: HistogramVec,
    /// Answers by the stage that served them.
    pub served_by: IntCounterVec,
    /// Model stages that failed, by `stage`.
    pub stage_failures: IntCounterVec,
    /// Answers from a view older than the client's session token.
    pub stale: IntCounter,
    /// Served-item notes dropped because the queue was full.
    pub notes_dropped: IntCounter,
    /// Client requests in flight.
    pub in_flight: IntGauge,
    /// Seconds that what is ready waits for an IO thread.
    pub delays: Histogram,
    /// Client connections.
    pub connections: IntGauge,
    /// Connections and streams that broke the protocol.
    pub protocol_errors: IntCounter,
    /// The active bundle.
    pub revision: IntGauge,
    /// Bundles that were refused.
    pub bundles_refused: IntCounter,
    /// 1 for the ONNX runtime in use, by `engine`.
    pub engine: IntGaugeVec,
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(format!("rockpool_edge_{name}"), help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(format!("rockpool_edge_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(format!("rockpool_edge_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let seconds = HistogramOpts::new(
            "rockpool_edge_request_seconds",
            "From reading a request to having its reply, by ask",
        );
        let buckets =
            vec![0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
        let request_seconds = HistogramVec::new(seconds.buckets(buckets), &["ask"])?;
        registry.register(Box::new(request_seconds.clone()))?;
        let delays = HistogramOpts::new(
            "rockpool_edge_delay_seconds",
            "How long what is ready to go on waits for an IO thread",
        );
        let delays = Histogram::with_opts(delays.buckets(prometheus::exponential_buckets(0.0005, 2.0, 12)?))?;
        registry.register(Box::new(delays.clone()))?;
        let engine = IntGaugeVec::new(
            Opts::new("rockpool_edge_engine", "1 for the ONNX runtime in use"),
            &["engine"],
        )?;
        registry.register(Box::new(engine.clone()))?;
        Ok(Self {
            requests: counters("requests_total", "Requests by ask and outcome", &["ask", "outcome"])?,
            request_seconds,
            delays,
            served_by: counters("answers_total", "Answers by the stage that served them", &["served_by"])?,
            stage_failures: counters("stage_failures_total", "Model stages that failed", &["stage"])?,
            stale: counter("stale_answers_total", "Answers older than the client's session token")?,
            notes_dropped: counter("notes_dropped_total", "Served-item notes dropped, the queue being full")?,
            in_flight: gauge("requests_in_flight", "Client requests in flight")?,
            connections: gauge("connections", "Client connections")?,
            protocol_errors: counter("protocol_errors_total", "Streams that broke the protocol")?,
            revision: gauge("bundle_revision", "The active bundle; 0: none")?,
            bundles_refused: counter("bundles_refused_total", "Bundles that were refused")?,
            engine,
        })
    }

    /// The label of a stage.
    pub fn served_by_label(served_by: ServedBy) -> &'static str {
        match served_by {
            ServedBy::Ranked => "ranked",
            ServedBy::Retrieved => "retrieved",
            ServedBy::Segment => "segment",
            ServedBy::Popular => "popular",
            ServedBy::Nothing => "nothing",
        }
    }
}
