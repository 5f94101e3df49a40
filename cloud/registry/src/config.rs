//! The registry's settings. The commented defaults are in the `cloud` binary's `cloud.default.toml`.

use serde::Deserialize;

use crate::error::RegistryError;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const LIFETIME_DAYS_MAX: u64 = 3_650;

/// How long manifests live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Days after which an edge must not activate a manifest any more. The newest one is renewed at half of it.
    pub lifetime_days: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { lifetime_days: 30 }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        match self.lifetime_days {
            1..=LIFETIME_DAYS_MAX => Ok(()),
            days => Err(RegistryError::Config(format!(
                "lifetime_days must be from 1 to {LIFETIME_DAYS_MAX}, not {days}"
            ))),
        }
    }

    pub(crate) fn lifetime_ms(&self) -> u64 {
        self.lifetime_days * DAY_MS
    }
}
