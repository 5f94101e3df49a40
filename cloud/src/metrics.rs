//! What the cloud counts, under `rockpool_cloud_`.

use std::time::Duration;

use cloud_registry::{Offer, Offers};
use cloud_storage::Appended;
use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};

/// What the nodes' door counts.
#[derive(Debug, Clone)]
pub struct UplinkMetrics {
    events: IntCounterVec,
    known: IntCounter,
    batches: IntCounterVec,
    append_seconds: HistogramVec,
    requests: IntCounterVec,
    /// Connections of nodes now.
    pub links: IntGauge,
    /// What is offered.
    pub rollouts: RolloutMetrics,
}

impl UplinkMetrics {
    /// Registers all of them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            events: counters("events_total", "Events counted for the first time, by kind", &["kind"])?,
            known: IntCounter::new(
                name("events_known_total"),
                "Events that came again, or were known from another PoP",
            )?,
            batches: counters(
                "append_batches_total",
                "Batches by outcome: stored, or the error's code (out_of_order: a gap)",
                &["outcome"],
            )?,
            append_seconds: seconds("append_seconds", "From a batch's arrival to its outcome", &["outcome"])?,
            requests: counters(
                "uplink_requests_total",
                "Requests of nodes by kind and outcome: ok, or the error's code",
                &["request", "outcome"],
            )?,
            links: IntGauge::new(name("uplink_links"), "Connections of nodes now")?,
            rollouts: RolloutMetrics::new(registry)?,
        };
        register(registry, &metrics.events)?;
        register(registry, &metrics.known)?;
        register(registry, &metrics.batches)?;
        register(registry, &metrics.append_seconds)?;
        register(registry, &metrics.requests)?;
        register(registry, &metrics.links)?;
        Ok(metrics)
    }

    /// A batch was stored.
    pub fn appended(&self, appended: &Appended) {
        for (kind, n) in &appended.counted {
            self.events.with_label_values(&[kind.as_str()]).inc_by(*n);
        }
        self.known.inc_by(appended.known);
    }

    /// A batch was stored or refused.
    pub fn batch(&self, outcome: &str, took: Duration) {
        self.batches.with_label_values(&[outcome]).inc();
        self.append_seconds.with_label_values(&[outcome]).observe(took.as_secs_f64());
    }

    /// A request was answered.
    pub fn request(&self, request: &str, outcome: &str) {
        self.requests.with_label_values(&[request, outcome]).inc();
    }
}

/// What is counted of rollouts.
#[derive(Debug, Clone)]
pub struct RolloutMetrics {
    newest: IntGauge,
    promoted: IntGauge,
    trial: IntGauge,
    ended: IntCounterVec,
}

impl RolloutMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            newest: IntGauge::new(name("revision"), "The newest revision")?,
            promoted: IntGauge::new(
                name("revision_promoted"),
                "The newest revision that is offered to all PoPs",
            )?,
            trial: IntGauge::new(
                name("revision_on_trial"),
                "The revision that is offered to canary PoPs only; 0: none",
            )?,
            ended: counters(
                "rollouts_total",
                "Rollouts that have ended, by outcome: promoted, stopped, superseded",
                &["outcome"],
            )?,
        };
        register(registry, &metrics.newest)?;
        register(registry, &metrics.promoted)?;
        register(registry, &metrics.trial)?;
        register(registry, &metrics.ended)?;
        Ok(metrics)
    }

    /// Shows what is offered.
    pub fn show(&self, offers: &Offers) {
        let number = |offer: Option<&Offer>| offer.map_or(0, |offer| offer.revision.0);
        let shown = [
            (&self.newest, offers.newest.0),
            (&self.promoted, number(offers.promoted.as_ref())),
            (&self.trial, number(offers.trial.as_ref())),
        ];
        for (gauge, revision) in shown {
            gauge.set(i64::try_from(revision).unwrap_or(i64::MAX));
        }
        for (outcome, count) in &offers.ended {
            let counter = self.ended.with_label_values(&[*outcome]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}

/// What is counted of identities.
#[derive(Debug, Clone)]
pub struct IdentityMetrics {
    /// Enrolments that were answered, by outcome.
    pub enrolments: IntCounterVec,
    /// Nodes that were revoked.
    pub revoked: IntGauge,
}

impl IdentityMetrics {
    /// Registers all of them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            enrolments: counters(
                "enrolments_total",
                "Enrolments by outcome: ok, or the error's code",
                &["outcome"],
            )?,
            revoked: IntGauge::new(name("revoked_nodes"), "Nodes whose identity was revoked")?,
        };
        register(registry, &metrics.enrolments)?;
        register(registry, &metrics.revoked)?;
        Ok(metrics)
    }
}

/// What the people's door counts.
#[derive(Debug, Clone)]
pub struct ApiMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl ApiMetrics {
    /// Registers all of them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            requests: counters(
                "api_requests_total",
                "Requests of the control API",
                &["method", "route", "status"],
            )?,
            seconds: seconds(
                "api_seconds",
                "Time to answer a request of the control API",
                &["method", "route"],
            )?,
        };
        register(registry, &metrics.requests)?;
        register(registry, &metrics.seconds)?;
        Ok(metrics)
    }

    /// A request was answered. `route` is its pattern, so that there are only as many as routes.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        self.requests.with_label_values(&[method, route, &status.to_string()]).inc();
        self.seconds.with_label_values(&[method, route]).observe(took.as_secs_f64());
    }
}

fn name(name: &str) -> String {
    format!("rockpool_cloud_{name}")
}

fn counters(of: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name(of), help), labels)
}

fn seconds(of: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
    // 0.5 ms to 16 s.
    let buckets = exponential_buckets(0.0005, 2.0, 16)?;
    HistogramVec::new(HistogramOpts::new(name(of), help).buckets(buckets), labels)
}

fn register(registry: &Registry, metric: &(impl Collector + Clone + 'static)) -> prometheus::Result<()> {
    registry.register(Box::new(metric.clone()))
}
