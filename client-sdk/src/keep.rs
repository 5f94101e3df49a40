//! Stays with the nearest node: measures the candidates when the client connects and now and then after.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use proto::client::{Ask, ClientReply};
use tokio::time::Instant;

use crate::client::Inner;
use crate::error::SdkError;
use crate::ids::new_trace;
use crate::pool::AskError;
use crate::session::{Address, Failure};

/// Most nodes that are measured at a time.
const MEASURED_MAX: usize = 4;

impl Inner {
    /// Runs until the client closes.
    pub(crate) async fn keep_nearest(self: Arc<Self>) {
        let (soon_ms, rarely_ms) = (self.config.timing.remeasure_soon_ms, self.config.timing.remeasure_ms);
        let mut away_ms = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(jittered(away_ms.unwrap_or(rarely_ms))) => {}
                () = async {
                    self.measure_soon.notified().await;
                    tokio::time::sleep(jittered(soon_ms)).await;
                } => {}
            }
            if self.session().nodes.len() > 1
                && let Err(error) = self.measure().await
            {
                tracing::debug!(%error, "no node could be measured");
            }
            away_ms = self.session().nodes.remeasure_in_ms(away_ms, soon_ms, rarely_ms);
        }
    }

    /// Measures the candidates and settles on the nearest.
    ///
    /// # Errors
    /// The last error, where no node could be measured.
    pub(crate) async fn measure(&self) -> Result<(), SdkError> {
        let candidates = self.session().nodes.to_measure(self.now_ms(), MEASURED_MAX);
        let mut probes: FuturesUnordered<_> =
            candidates.into_iter().map(|address| self.probe(address)).collect();
        let grace = Duration::from_millis(self.config.timing.connect_grace_ms);
        let mut until: Option<Instant> = None;
        let mut last = None;
        loop {
            let probed = match until {
                None => probes.next().await,
                Some(until) => tokio::time::timeout_at(until, probes.next()).await.unwrap_or(None),
            };
            let Some((address, outcome)) = probed else { break };
            match outcome {
                Ok(rtt_us) => {
                    tracing::debug!(node = %address, rtt_us, "measured");
                    self.session().nodes.measured(&address, rtt_us);
                    until = until.or_else(|| Some(Instant::now() + grace));
                }
                Err(AskError { failure, error }) => {
                    // A node that refuses this app is there all the same.
                    if !matches!(failure, Failure::Refused(_)) {
                        self.session().nodes.failed(&address, self.now_ms(), fastrand::f64());
                    }
                    last = Some(error);
                }
            }
        }
        drop(probes);
        let nearest = self.session().nodes.settle(self.now_ms(), fastrand::f64());
        if let Some(nearest) = &nearest {
            self.pool.keep_only(nearest);
        }
        match (until, last) {
            (None, Some(error)) => Err(Arc::unwrap_or_clone(error)),
            _ => Ok(()),
        }
    }

    /// One round trip on an open session, in microseconds.
    async fn probe(&self, address: Address) -> (Address, Result<u64, AskError>) {
        let measured = async {
            let connection = self.connect(&address).await?;
            let timeout = Duration::from_millis(self.config.timing.connect_timeout_ms);
            let asked_at = Instant::now();
            match connection.ask(new_trace(), Ask::Ping, timeout).await? {
                ClientReply::Pong => Ok(u64::try_from(asked_at.elapsed().as_micros()).unwrap_or(u64::MAX)),
                _ => Err(connection.unexpected()),
            }
        };
        let measured = measured.await;
        (address, measured)
    }
}

/// Between three and five quarters of `ms`: thousands of clients that began together measure apart.
fn jittered(ms: u64) -> Duration {
    Duration::from_millis(ms).mul_f64(0.75 + fastrand::f64() / 2.0)
}
