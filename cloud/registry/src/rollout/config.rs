//! The settings of rollouts. The commented defaults are in the `cloud` binary's `cloud.default.toml`.

use proto::PopId;
use serde::Deserialize;

use crate::error::RegistryError;

/// Most canary PoPs.
const CANARIES_MAX: usize = 100;
/// Longest time of a trial: a week, in seconds.
const VERDICT_WITHIN_S_MAX: u64 = 7 * 24 * 60 * 60;

/// How a bundle proves itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// PoPs on which new bundles are tried; empty: the first by id of those that are there.
    pub canary_pops: Vec<PopId>,
    /// How long every node of each canary must have served a bundle, and well, before all get it, in seconds.
    pub hold_s: u64,
    /// A bundle that has not proved itself for so long is stopped, in seconds.
    pub verdict_within_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { canary_pops: Vec::new(), hold_s: 60, verdict_within_s: 900 }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        let wrong = |what: String| Err(RegistryError::Config(what));
        if self.canary_pops.len() > CANARIES_MAX {
            return wrong(format!("rollout.canary_pops has at most {CANARIES_MAX} PoPs"));
        }
        if self.hold_s == 0 || self.hold_s >= self.verdict_within_s {
            return wrong(
                "rollout.hold_s must be at least 1 and less than rollout.verdict_within_s".to_owned(),
            );
        }
        if self.verdict_within_s > VERDICT_WITHIN_S_MAX {
            return wrong(format!("rollout.verdict_within_s must be at most {VERDICT_WITHIN_S_MAX}"));
        }
        Ok(())
    }

    pub(super) fn hold_ms(&self) -> u64 {
        self.hold_s * 1_000
    }

    /// When a trial ends that begins now.
    pub(super) fn until_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.verdict_within_s * 1_000)
    }
}
