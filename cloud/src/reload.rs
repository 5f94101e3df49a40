//! SIGHUP: the certificate files are read again, and shown from then on. Of settings that have changed, the log says that they take
//! effect at the next start.

use std::path::PathBuf;

use service::settings::{Table, differences};
use service::shutdown::Shutdown;
use tokio::sync::watch;
use transport::pki::Credentials;

use crate::config::Config;

/// Where settings come from, and what they were at the start.
pub struct Settings {
    file: Option<PathBuf>,
    hangups: watch::Receiver<u64>,
    table: Table,
    config: Config,
    /// What the deployment's CA, the issuer's file and the token held once the cloud had started.
    trusted: Vec<(&'static str, Vec<u8>)>,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// Where a setting is wrong.
    pub fn read(file: Option<PathBuf>, hangups: watch::Receiver<u64>) -> anyhow::Result<Self> {
        let (table, config) = Config::read(file.as_deref(), std::env::vars())?;
        Ok(Self { file, hangups, table, config, trusted: Vec::new() })
    }

    /// As they were at the start.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads them again at every SIGHUP, until shutdown.
    pub async fn follow(mut self, credentials: Credentials, shutdown: Shutdown) -> anyhow::Result<()> {
        self.trusted = trusted(&self.config);
        while let Some(Ok(())) = shutdown.run_until_cancelled(self.hangups.changed()).await {
            if let Err(error) = self.again(&credentials) {
                let error = format!("{error:#}");
                tracing::error!(error, "SIGHUP: the settings are wrong, and stay as they were");
            }
        }
        shutdown.cancelled().await;
        Ok(())
    }

    fn again(&self, credentials: &Credentials) -> anyhow::Result<()> {
        let (table, new) = Config::read(self.file.as_deref(), std::env::vars())?;
        let tls = &new.tls;
        // Whether the cloud issues its own is settled at the start.
        let by_files = [&self.config.tls, tls].iter().all(|tls| !tls.certificate.as_os_str().is_empty());
        if by_files {
            credentials.replace(&Credentials::read(&tls.certificate, &tls.key)?);
        }
        tracing::info!(certificate = by_files, "SIGHUP: settings and certificate files were read again");
        let mut waiting = differences(&self.table, &table);
        waiting.retain(|name| !(by_files && ["tls.certificate", "tls.key"].contains(&name.as_str())));
        let files = trusted(&self.config).into_iter().zip(&self.trusted);
        waiting.extend(files.filter(|(now, before)| now != *before).map(|((name, _), _)| name.to_owned()));
        if !waiting.is_empty() {
            tracing::warn!(settings = ?waiting, "SIGHUP: these changed and take effect when the cloud is started again");
        }
        Ok(())
    }
}

fn trusted(config: &Config) -> Vec<(&'static str, Vec<u8>)> {
    let files = [
        ("tls.ca", &config.tls.ca),
        ("identity.issuer", &config.identity.issuer),
        ("api.token", &config.api.token),
    ];
    files.into_iter().map(|(name, path)| (name, std::fs::read(path).unwrap_or_default())).collect()
}
