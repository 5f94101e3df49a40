//! What is counted of the node's identity.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// What is counted of the node's identity, under `rockpool_certificate_` and `rockpool_identity_`.
#[derive(Debug, Clone)]
pub struct IdentityMetrics {
    /// When the certificate that is shown ends, seconds since 1970 UTC.
    pub expires_seconds: IntGauge,
    /// Attempts to renew it by `result`: ok, away, refused, failed.
    pub renewals: IntCounterVec,
    /// Nodes of the PoP that were revoked.
    pub revoked: IntGauge,
}

impl IdentityMetrics {
    /// Registers all of them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let renewals = Opts::new(
            "rockpool_certificate_renewals_total",
            "Attempts to renew the certificate: ok, away (no cloud), refused, failed",
        );
        let metrics = Self {
            expires_seconds: IntGauge::new(
                "rockpool_certificate_expires_seconds",
                "When the certificate that is shown ends, seconds since 1970 UTC",
            )?,
            renewals: IntCounterVec::new(renewals, &["result"])?,
            revoked: IntGauge::new("rockpool_identity_revoked_nodes", "Nodes of the PoP that were revoked")?,
        };
        registry.register(Box::new(metrics.expires_seconds.clone()))?;
        registry.register(Box::new(metrics.renewals.clone()))?;
        registry.register(Box::new(metrics.revoked.clone()))?;
        Ok(metrics)
    }

    pub(super) fn expires(&self, at: SystemTime) {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.expires_seconds.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}
