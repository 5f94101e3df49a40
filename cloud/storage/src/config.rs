//! The storage's settings. The commented defaults are in the `cloud` binary's `cloud.default.toml`.

use proto::limits::ARTIFACT_BYTES_MAX;
use serde::Deserialize;

use crate::error::StorageError;

/// How much may be kept, and how long to wait for it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How long to wait for a lock that another process holds, in milliseconds.
    pub busy_timeout_ms: u64,
    /// How long to wait for a connection that is in use, in milliseconds.
    pub acquire_timeout_ms: u64,
    /// Connections that read at the same time.
    pub readers: u32,
    /// The database never grows beyond this; appends are then refused, and nothing is acknowledged. Bytes.
    pub database_bytes_max: u64,
    /// Largest artifact, in bytes; at most [`ARTIFACT_BYTES_MAX`].
    pub artifact_bytes_max: u64,
    /// All artifacts together never grow beyond this. Bytes.
    pub artifacts_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            busy_timeout_ms: 5_000,
            acquire_timeout_ms: 10_000,
            readers: 4,
            database_bytes_max: 64 << 30,
            artifact_bytes_max: ARTIFACT_BYTES_MAX,
            artifacts_bytes_max: 20 << 30,
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        let wrong = |what: &str| Err(StorageError::Config(what.to_owned()));
        match self {
            c if c.readers == 0 || c.readers > 64 => wrong("readers must be from 1 to 64"),
            c if c.acquire_timeout_ms == 0 => wrong("acquire_timeout_ms must not be 0"),
            c if c.database_bytes_max < 1 << 18 => wrong("database_bytes_max must be at least 256 KiB"),
            c if c.artifact_bytes_max == 0 || c.artifact_bytes_max > ARTIFACT_BYTES_MAX => {
                wrong(&format!("artifact_bytes_max must be from 1 to {ARTIFACT_BYTES_MAX}"))
            }
            _ => Ok(()),
        }
    }
}
