//! Whether the cloud can serve: asked of the storage once a second, so that a probe costs nothing and cannot be used to load
//! the database.

use std::sync::Arc;
use std::time::Duration;

use cloud_storage::Storage;
use service::shutdown::Shutdown;
use tokio::sync::watch;

use crate::clock::now_ms;
use crate::pops::Pops;

const PING_EVERY_MS: u64 = 1_000;
const PING_TIMEOUT_MS: u64 = 2_000;

/// The last answer. Clones see the same.
#[derive(Debug, Clone)]
pub struct Health {
    state: Arc<watch::Sender<Result<(), String>>>,
    remarks: Arc<watch::Sender<Vec<String>>>,
}

impl Default for Health {
    fn default() -> Self {
        let state = Arc::new(watch::Sender::new(Err("starting".to_owned())));
        Self { state, remarks: Arc::default() }
    }
}

impl Health {
    /// Why the cloud cannot serve, if it cannot.
    pub fn check(&self) -> Result<(), String> {
        self.state.borrow().clone()
    }

    /// What a person should look at, though the cloud can serve.
    pub fn remarks(&self) -> Vec<String> {
        self.remarks.borrow().clone()
    }

    /// Keeps the answer fresh until shutdown; from then on it is "shutting down".
    pub async fn watch(self, storage: Storage, pops: Pops, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(Duration::from_millis(PING_EVERY_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {
                    self.tell(ping(&storage).await);
                    self.look(&pops).await;
                }
            }
        }
        self.tell(Err("shutting down".to_owned()));
    }

    async fn look(&self, pops: &Pops) {
        let looked = tokio::time::timeout(Duration::from_millis(PING_TIMEOUT_MS), pops.remarks(now_ms()));
        // What the database says to the question before is said already.
        let Ok(Ok(remarks)) = looked.await else { return };
        self.remarks.send_if_modified(|known| {
            for new in remarks.iter().filter(|remark| !known.contains(remark)) {
                tracing::error!("{new}");
            }
            std::mem::replace(known, remarks.clone()) != remarks
        });
    }

    fn tell(&self, now: Result<(), String>) {
        self.state.send_if_modified(|state| {
            let changed = *state != now;
            if changed {
                match &now {
                    Ok(()) => tracing::info!("ready"),
                    Err(reason) => tracing::warn!(reason, "not ready"),
                }
                *state = now;
            }
            changed
        });
    }
}

async fn ping(storage: &Storage) -> Result<(), String> {
    match tokio::time::timeout(Duration::from_millis(PING_TIMEOUT_MS), storage.ping()).await {
        Ok(answered) => answered.map_err(|e| e.reply().message),
        Err(_) => Err(format!("storage did not answer within {PING_TIMEOUT_MS} ms")),
    }
}
