//! Settings of the cloud, parsed and checked before anything starts. The commented defaults are in `cloud.default.toml`,
//! which is compiled in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use service::settings::{Table, TlsConfig, path_in};
use service::telemetry::LogConfig;

/// The commented defaults.
pub const DEFAULTS: &str = include_str!("../cloud.default.toml");
/// Longest life of a certificate: 30 days, in seconds.
const LIFETIME_S_MAX: u64 = 30 * 24 * 60 * 60;
/// The variable that goes before the token's file.
pub const TOKEN_VARIABLE: &str = "ROCKPOOL_ADMIN_TOKEN";

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// State folder; relative paths in other settings start here.
    pub dir: PathBuf,
    /// Certificates.
    pub tls: TlsConfig,
    /// Who may be a node.
    pub identity: IdentityConfig,
    /// The nodes' door.
    pub uplink: UplinkConfig,
    /// The people's door.
    pub api: ApiConfig,
    /// The admin port.
    pub admin: AdminConfig,
    /// What is kept.
    pub storage: cloud_storage::Config,
    /// What is published.
    pub registry: cloud_registry::Config,
    /// How bundles prove themselves.
    pub rollout: cloud_registry::rollout::Config,
    /// With what bundles are validated and signed.
    pub models: ModelsConfig,
    /// Logs.
    pub log: LogConfig,
}

/// Who may be a node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Certificate of what issues certificates; empty: this cloud issues none.
    pub issuer: PathBuf,
    /// Its key, mode 0600.
    pub issuer_key: PathBuf,
    /// UDP address for nodes that enrol.
    pub listen: SocketAddr,
    /// How long a certificate holds.
    pub lifetime_s: u64,
    /// How long after its end a node's certificate can still be renewed.
    pub grace_s: u64,
}

/// The nodes' door.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkConfig {
    /// UDP address.
    pub listen: SocketAddr,
    /// Most connections.
    pub connections_max: usize,
    /// Most requests at once.
    pub in_flight_max: usize,
    /// Most requests at once on one connection.
    pub streams_max: u32,
    /// How long a request's bytes may take to come, and its reply's to go.
    pub request_timeout_ms: u64,
    /// Age at which a connection is closed.
    pub connection_age_max_ms: u64,
    /// How long requests in flight may take at a shutdown.
    pub drain_ms: u64,
}

/// The people's door.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// TCP address.
    pub listen: SocketAddr,
    /// Allow an address other than loopback.
    pub allow_remote: bool,
    /// Token file.
    pub token: PathBuf,
    /// Most connections.
    pub connections_max: usize,
    /// Most requests at once.
    pub in_flight_max: usize,
    /// Most uploads at once.
    pub uploads_max: usize,
    /// Largest JSON body.
    pub body_bytes_max: usize,
    /// How long a request may take.
    pub timeout_ms: u64,
    /// How long an upload or a publication may take.
    pub upload_timeout_ms: u64,
}

/// The admin port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// TCP address.
    pub listen: SocketAddr,
}

/// With what bundles are validated and signed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelsConfig {
    /// The Ed25519 key, PKCS #8, mode 0600.
    pub signing_key: PathBuf,
    /// Path of ONNX Runtime; empty: look for it.
    pub onnxruntime: PathBuf,
}

impl Config {
    /// Reads defaults, file and environment, and checks what types cannot.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        Self::from_sources(file, std::env::vars())
    }

    /// The same with an environment of the caller's.
    pub fn from_sources(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<Self> {
        Self::read(file, variables).map(|(_, config)| config)
    }

    /// The same, with the table that it was parsed from.
    pub fn read(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<(Table, Self)> {
        let table = service::settings::table(DEFAULTS, file, "CLOUD", variables)?;
        let mut config: Config = service::settings::parsed(table.clone())?;
        config.check()?;
        // Threads change no working folder, but a path in a log should say where it is.
        let dir = std::path::absolute(&config.dir).context("dir is not a path")?;
        let tls = &mut config.tls;
        let paths = [
            &mut tls.ca,
            &mut tls.certificate,
            &mut tls.key,
            &mut config.api.token,
            &mut config.models.signing_key,
            &mut config.identity.issuer,
            &mut config.identity.issuer_key,
        ];
        for path in paths {
            *path = path_in(&dir, path);
        }
        config.dir = dir;
        Ok((table, config))
    }

    fn check(&self) -> anyhow::Result<()> {
        let positive = [
            ("uplink.connections_max", self.uplink.connections_max as u64),
            ("uplink.in_flight_max", self.uplink.in_flight_max as u64),
            ("uplink.streams_max", u64::from(self.uplink.streams_max)),
            ("uplink.request_timeout_ms", self.uplink.request_timeout_ms),
            ("uplink.connection_age_max_ms", self.uplink.connection_age_max_ms),
            ("api.connections_max", self.api.connections_max as u64),
            ("api.in_flight_max", self.api.in_flight_max as u64),
            ("api.uploads_max", self.api.uploads_max as u64),
            ("api.body_bytes_max", self.api.body_bytes_max as u64),
            ("api.timeout_ms", self.api.timeout_ms),
            ("api.upload_timeout_ms", self.api.upload_timeout_ms),
        ];
        for (name, value) in positive {
            anyhow::ensure!(value > 0, "{name} must be at least 1");
        }
        let needed = [
            ("tls.ca", &self.tls.ca),
            ("api.token", &self.api.token),
            ("models.signing_key", &self.models.signing_key),
        ];
        for (name, path) in needed {
            anyhow::ensure!(!path.as_os_str().is_empty(), "{name} is empty: name a file");
        }
        let identity = &self.identity;
        anyhow::ensure!(
            (1..=LIFETIME_S_MAX).contains(&identity.lifetime_s),
            "identity.lifetime_s is {}: a certificate holds from 1 second to 30 days ({LIFETIME_S_MAX})",
            identity.lifetime_s
        );
        anyhow::ensure!(
            identity.issuer.as_os_str().is_empty() == identity.issuer_key.as_os_str().is_empty(),
            "identity.issuer and identity.issuer_key go together: set both or none"
        );
        let own = [&self.tls.certificate, &self.tls.key].map(|path| path.as_os_str().is_empty());
        anyhow::ensure!(own[0] == own[1], "tls.certificate and tls.key go together: set both or none");
        anyhow::ensure!(
            !own[0] || !identity.issuer.as_os_str().is_empty(),
            "without tls.certificate the cloud issues its own: set identity.issuer and identity.issuer_key"
        );
        let listen = self.api.listen;
        anyhow::ensure!(
            listen.ip().is_loopback() || self.api.allow_remote,
            "api.listen is {listen}, which others can reach without TLS: use a loopback address behind a proxy, or set \
             api.allow_remote"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> anyhow::Result<Config> {
        let variables: Vec<_> = variables.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Config::from_sources(None, variables.into_iter())
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = with(&[]).unwrap();
        assert!(config.tls.key.starts_with(&config.dir));
        assert!(config.dir.is_absolute());
    }

    #[test]
    fn a_remote_address_must_be_allowed() {
        let remote = ("CLOUD__API__LISTEN", "0.0.0.0:0");
        assert!(with(&[remote]).unwrap_err().to_string().contains("api.allow_remote"));
        with(&[remote, ("CLOUD__API__ALLOW_REMOTE", "true")]).unwrap();
    }

    #[test]
    fn an_empty_path_is_no_folder() {
        for name in ["TLS__CA", "API__TOKEN", "MODELS__SIGNING_KEY"] {
            let error = with(&[(&format!("CLOUD__{name}"), "")]).unwrap_err().to_string();
            assert!(error.contains("is empty"), "{name}: {error}");
        }
    }

    #[test]
    fn a_zero_is_named() {
        let error = with(&[("CLOUD__API__UPLOADS_MAX", "0")]).unwrap_err();
        assert!(error.to_string().contains("api.uploads_max"), "{error}");
    }
}
