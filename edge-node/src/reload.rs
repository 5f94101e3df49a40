//! SIGHUP: the settings are read again. App keys and the operator's certificate files change while the node runs; of all else that
//! has changed, the log says that it takes effect at the next start. Settings that are wrong change nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use service::settings::Table;
use service::shutdown::Shutdown;
use tokio::sync::watch;
use transport::Identity;
use transport::pki::Credentials;

use crate::config::{ClientsConfig, Config};
use crate::gateway::Gateway;
use crate::identity;

/// Settings that change while the node runs.
const LIVE: [&str; 4] = ["clients.apps", "clients.address_requests_per_s", "tls.certificate", "tls.key"];

/// Where settings come from, and what they were when they were read last. Clones are the same.
#[derive(Clone)]
pub struct Settings {
    file: Option<PathBuf>,
    hangups: watch::Receiver<u64>,
    present: Arc<Mutex<Present>>,
}

struct Present {
    /// What the node was started with.
    start: Table,
    table: Table,
    config: Config,
    /// What the deployment's CA file held at the start.
    authority: Vec<u8>,
}

/// What is changed while a node runs.
pub struct Changing {
    /// The doors.
    pub gateway: Arc<Gateway>,
    /// What the node shows.
    pub credentials: Credentials,
    /// Who it is.
    pub identity: Identity,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// Where a setting is wrong.
    pub fn read(file: Option<PathBuf>, hangups: watch::Receiver<u64>) -> anyhow::Result<Self> {
        let (table, config) = Config::read(file.as_deref())?;
        let authority = std::fs::read(&config.tls.ca).unwrap_or_default();
        let present = Present { start: table.clone(), table, config, authority };
        Ok(Self { file, hangups, present: Arc::new(Mutex::new(present)) })
    }

    /// As they are in force: those of the start, with what has changed since and could.
    pub fn config(&self) -> Config {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Reads them again at every SIGHUP, until shutdown: one that came while the node started, too.
    pub async fn follow(mut self, changing: Changing, shutdown: Shutdown) {
        while let Some(Ok(())) = shutdown.run_until_cancelled(self.hangups.changed()).await {
            if let Err(error) = self.again(&changing) {
                let error = format!("{error:#}");
                tracing::error!(error, "SIGHUP: the settings are wrong, and stay as they were");
            }
        }
    }

    fn again(&self, changing: &Changing) -> anyhow::Result<()> {
        let (table, new) = Config::read(self.file.as_deref())?;
        // As at a start: of the operator's files and the node's own, what holds longer. Whatever is wrong is found before anything
        // is changed.
        let found = identity::on_disk(&new, &changing.identity)?;
        changing.gateway.apps.replace(&new.clients.apps, new.clients.address_requests_per_s)?;
        if let Some(found) = found {
            changing.credentials.replace(&found);
        }
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = service::settings::differences(&present.table, &table);
        let live: Vec<_> = changed.into_iter().filter(|name| LIVE.contains(&name.as_str())).collect();
        let ClientsConfig { apps, address_requests_per_s, .. } = new.clients;
        (present.config.clients.apps, present.config.clients.address_requests_per_s) =
            (apps, address_requests_per_s);
        (present.config.tls.certificate, present.config.tls.key) = (new.tls.certificate, new.tls.key);
        present.table = table;
        tracing::info!(changed = ?live, "SIGHUP: settings and certificate files were read again");
        // What was changed back since waits for nothing.
        let mut waiting = service::settings::differences(&present.start, &present.table);
        waiting.retain(|name| !LIVE.contains(&name.as_str()));
        let authority = std::fs::read(&present.config.tls.ca).unwrap_or_default();
        if authority != present.authority && !waiting.iter().any(|name| name == "tls.ca") {
            waiting.push("tls.ca".to_owned());
        }
        if !waiting.is_empty() {
            tracing::warn!(settings = ?waiting, "SIGHUP: these changed and take effect when the node is started again");
        }
        Ok(())
    }
}
