//! What an app sets. Everything but the first four fields has a default that suits a phone and a server alike.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::SdkError;
use crate::queue::DeadLetter;

/// Most nodes that may be configured, and that are remembered with those that are learned.
pub(crate) const NODES_MAX: usize = 16;
/// Bounds of [`Config::queue_bytes_max`].
const QUEUE_BYTES: std::ops::RangeInclusive<u64> = 128 * 1024..=1024 * 1024 * 1024;

/// Default of [`Config::certificate_grace_ms`]: a week.
pub const CERTIFICATE_GRACE_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// The app's secret key. Not shown by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct AppKey(String);

impl AppKey {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for AppKey {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for AppKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppKey(..)")
    }
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The certificate authority in this PEM file: the `ca.pem` of the deployment.
    CaFile(PathBuf),
    /// The certificate authority in this PEM text.
    CaPem(String),
    /// The dialer given to [`crate::Client::connect_with`] has its own trust.
    OfDialer,
}

/// Hears of every event that is put aside because no node will ever take it. Called on a task of the client: it must
/// not block.
#[derive(Clone)]
pub struct DeadLetterHook(pub Arc<dyn Fn(&DeadLetter) + Send + Sync>);

impl fmt::Debug for DeadLetterHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeadLetterHook(..)")
    }
}

/// Times, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Deadline of a request that sets none.
    pub deadline_ms: u64,
    /// How long a connection may take: handshake and session.
    pub connect_timeout_ms: u64,
    /// How long the acknowledgement of a batch may take before the batch is sent again.
    pub delivery_timeout_ms: u64,
    /// First pause after a failure; it doubles.
    pub backoff_base_ms: u64,
    /// Longest pause after a failure.
    pub backoff_max_ms: u64,
    /// How often nodes are measured again, jittered by a quarter.
    pub remeasure_ms: u64,
    /// How soon nodes are measured again after another than the nearest had to answer, jittered by a quarter.
    pub remeasure_soon_ms: u64,
    /// After the first node has answered at connecting, how long slower ones are waited for.
    pub connect_grace_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            deadline_ms: 250,
            connect_timeout_ms: 3_000,
            delivery_timeout_ms: 5_000,
            backoff_base_ms: 100,
            backoff_max_ms: 2_000,
            remeasure_ms: 10 * 60 * 1000,
            remeasure_soon_ms: 30 * 1000,
            connect_grace_ms: 50,
        }
    }
}

/// How a client is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses (`host:port`) of some nodes, 1 to 16; the nodes of their PoP are learned.
    pub nodes: Vec<String>,
    /// The name that the nodes' certificates must carry: `edge.<pop>.rockpool.internal`.
    pub server_name: String,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// How long after its end a node's certificate is still believed, in milliseconds; by default a week. Nodes' certificates
    /// hold for hours and are renewed by the cloud: while it cannot be reached, the PoP goes on serving.
    pub certificate_grace_ms: u64,
    /// The app's secret key.
    pub app_key: AppKey,
    /// Folder of the durable queue, made if need be and used by one client at a time. `None`: events wait in memory
    /// and are lost with the process.
    pub queue_dir: Option<PathBuf>,
    /// Most bytes that events may take on disk (or in memory) while they wait; 128 KiB to 1 GiB.
    pub queue_bytes_max: u64,
    /// Whether connecting succeeds while no node can be reached. Events are queued then, and recommendations fail
    /// until a node is there.
    pub start_offline: bool,
    /// Hears of events that are put aside.
    pub on_dead_letter: Option<DeadLetterHook>,
    /// Times.
    pub timing: Timing,
}

impl Config {
    /// A configuration with defaults: no folder, 16 MiB of events, a reachable node is needed.
    pub fn new(
        nodes: Vec<String>,
        server_name: impl Into<String>,
        trust: Trust,
        app_key: impl Into<AppKey>,
    ) -> Self {
        Self {
            nodes,
            server_name: server_name.into(),
            trust,
            certificate_grace_ms: CERTIFICATE_GRACE_MS,
            app_key: app_key.into(),
            queue_dir: None,
            queue_bytes_max: 16 * 1024 * 1024,
            start_offline: false,
            on_dead_letter: None,
            timing: Timing::default(),
        }
    }

    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), SdkError> {
        let refuse = |what: String| Err(SdkError::Config(what));
        if self.nodes.is_empty() || self.nodes.len() > NODES_MAX {
            return refuse(format!("nodes: 1 to {NODES_MAX} addresses, not {}", self.nodes.len()));
        }
        if let Some(address) = self.nodes.iter().find(|address| !address.contains(':')) {
            return refuse(format!("nodes: {address:?} is not host:port"));
        }
        if self.server_name.is_empty() {
            return refuse("server_name: must not be empty".into());
        }
        if self.app_key.0.is_empty() {
            return refuse("app_key: must not be empty".into());
        }
        if !QUEUE_BYTES.contains(&self.queue_bytes_max) {
            let (min, max) = QUEUE_BYTES.into_inner();
            return refuse(format!("queue_bytes_max: {min} to {max}, not {}", self.queue_bytes_max));
        }
        let timing = &self.timing;
        for (name, value) in [
            ("deadline_ms", timing.deadline_ms),
            ("connect_timeout_ms", timing.connect_timeout_ms),
            ("delivery_timeout_ms", timing.delivery_timeout_ms),
            ("backoff_base_ms", timing.backoff_base_ms),
            ("backoff_max_ms", timing.backoff_max_ms),
            ("remeasure_ms", timing.remeasure_ms),
            ("remeasure_soon_ms", timing.remeasure_soon_ms),
        ] {
            if value == 0 || value > u64::from(u32::MAX) {
                return refuse(format!("timing.{name}: 1 to {}, not {value}", u32::MAX));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new(vec!["n:1".into()], "edge.a.rockpool.internal", Trust::OfDialer, "very secret")
    }

    #[test]
    fn the_default_is_sound_and_what_cannot_work_is_named() {
        config().check().unwrap();
        type Change = fn(&mut Config);
        let cases: [(&str, Change); 6] = [
            ("nodes", |c| c.nodes.clear()),
            ("nodes", |c| c.nodes = vec!["no-port".into()]),
            ("server_name", |c| c.server_name.clear()),
            ("app_key", |c| c.app_key = "".into()),
            ("queue_bytes_max", |c| c.queue_bytes_max = 1),
            ("timing.deadline_ms", |c| c.timing.deadline_ms = 0),
        ];
        for (named, spoil) in cases {
            let mut config = config();
            spoil(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn the_key_is_not_shown() {
        assert!(!format!("{:?}", config()).contains("secret"));
    }
}
