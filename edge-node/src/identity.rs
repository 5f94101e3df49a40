//! Who this node is: its key and certificate, how it gets the first and the next one, and whom of its PoP it does not believe
//! any more.
//!
//! The key is made here and never leaves. Key and certificate lie in one file, so that a crash cannot part them; the newest is
//! shown from the moment that it is durable, on every connection that is made from then on. Whether a certificate ends while
//! the cloud is away is no matter for the PoP: its members and its apps believe it for `identity.grace_s` longer.

mod enrol;
mod keeper;
mod metrics;
mod public;
mod renewal;
mod revoked;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use transport::Identity;
use transport::pki::{Credentials, Trust};

use crate::config::Config;

pub use keeper::Keeper;
pub use public::PublicCertificate;
pub use revoked::RevokedFile;

/// How the node comes by its certificate, and how long it believes others'.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Key and certificate, once enrolled or renewed; mode 0600.
    pub file: PathBuf,
    /// One-time token; mode 0600. Removed when it was used.
    pub token: PathBuf,
    /// The cloud's door for nodes that enrol, `host:port`.
    pub enrol: String,
    /// How long after its end a certificate of a member is believed.
    pub grace_s: u64,
    /// How often the cloud is asked whether a node was revoked.
    pub revoked_every_ms: u64,
}

/// What this node shows and whom it believes.
#[derive(Debug)]
pub struct Own {
    /// What it shows: replaced while it runs.
    pub credentials: Credentials,
    /// Whom it believes.
    pub trust: Trust,
    /// Whom it does not believe, on disk.
    pub revoked: RevokedFile,
    /// Who it is.
    pub identity: Identity,
    /// What browsers see instead, where the settings name it.
    pub public: Option<PublicCertificate>,
}

impl Own {
    /// Reads what there is; enrols, if a token is there. Waits for the cloud where the node has no certificate yet.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let (pop, node) = (config.node.pop.clone(), config.node.id);
        let revoked = RevokedFile::open(&config.dir.join("revoked.json"), &pop)?;
        let trust = Trust::read(&config.tls.ca)?
            .with_grace(Duration::from_secs(config.identity.grace_s))
            .with_revoked(revoked.list().clone());
        let identity = Identity::Node { pop, node };
        let public = PublicCertificate::open(&config.http)?;
        let mut credentials = on_disk(config, &identity)?;
        if config.identity.token.exists() {
            match (
                enrol::enrol(&config.identity, &identity, &trust, credentials.is_none()).await,
                &credentials,
            ) {
                (Ok(new), _) => credentials = Some(new),
                (Err(error), None) => {
                    return Err(error.context("this node has no certificate and cannot enrol"));
                }
                (Err(error), Some(_)) => tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot enrol with the token that is there: going on with the certificate of before"
                ),
            }
        }
        let credentials = credentials.with_context(|| missing(config))?;
        Ok(Self { credentials, trust, revoked, identity, public })
    }
}

/// Of the node's own file and the operator's, what holds longer.
pub(crate) fn on_disk(config: &Config, identity: &Identity) -> anyhow::Result<Option<Credentials>> {
    let own = match config.identity.file.is_file() {
        true => Some(Credentials::read_bundle(&config.identity.file)?),
        false => None,
    };
    let given = match config.tls.certificate.exists() {
        true => Some(Credentials::read(&config.tls.certificate, &config.tls.key)?),
        false => None,
    };
    let found = own.into_iter().chain(given).max_by_key(|credentials| credentials.validity().not_after);
    if let Some(credentials) = &found {
        let named = credentials.identity()?;
        anyhow::ensure!(
            named == *identity,
            "the certificate is that of {named}, but by node.pop and node.id this is {identity}"
        );
    }
    Ok(found)
}

fn missing(config: &Config) -> String {
    let show = |path: &Path| path.display().to_string();
    if config.tls.certificate.as_os_str().is_empty() {
        return format!(
            "this node has no certificate: put a one-time token (`rockpool node enrol-token`) into {}, or name a certificate and \
             its key in tls.certificate and tls.key",
            show(&config.identity.token)
        );
    }
    format!(
        "this node has no certificate: put a one-time token (`rockpool node enrol-token`) into {}, or a certificate and its \
         key into {} and {}",
        show(&config.identity.token),
        show(&config.tls.certificate),
        show(&config.tls.key)
    )
}

#[cfg(test)]
mod tests;
