//! How the uplink behaves.

use serde::Deserialize;

/// How the uplink behaves. All have a default in the node's settings file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkConfig {
    /// The cloud's uplink address, `host:port`.
    pub cloud: String,
    /// Most events in one batch.
    pub batch_len_max: usize,
    /// Most bytes of events in one batch.
    pub batch_bytes_max: usize,
    /// How long to wait for more events before a batch that is not full is sent, in milliseconds.
    pub linger_ms: u64,
    /// How long the cloud may take to answer, in milliseconds.
    pub timeout_ms: u64,
    /// Longest first pause after a failure or a lost connection, in milliseconds; it doubles from there. Pauses are anything up to
    /// that.
    pub backoff_ms: u64,
    /// Longest pause after a failure, in milliseconds.
    pub backoff_max_ms: u64,
    /// How often acknowledged offsets are written back through Raft, at the least, in milliseconds.
    pub acknowledge_every_ms: u64,
    /// How often the node reports how it is, in milliseconds.
    pub report_every_ms: u64,
}
