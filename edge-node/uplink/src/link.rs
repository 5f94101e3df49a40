//! One long-lived connection to the cloud: kept up, subscribed to new revisions, and lent to whoever has to ask.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use proto::bundle::{ArtifactRef, SignedManifest};
use proto::control::{NodeReport, Standing};
use proto::limits::ARTIFACT_BYTES_MAX;
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{Code, Digest, ErrorReply, Revision};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use transport::{Dialer, Link, LinkError, LinkErrorKind, Peer};

use crate::config::UplinkConfig;
use crate::metrics::Metrics;

/// Shortest part of an artifact, in bytes, but for its last: who sends less only keeps us waiting.
const PART_BYTES_MIN: usize = 64 * 1024;

/// Why something could not be had from the cloud.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// There is no connection.
    #[error("the cloud cannot be reached")]
    Away,
    /// The connection failed.
    #[error("the link to the cloud failed")]
    Link(#[from] LinkError),
    /// The cloud refused.
    #[error("the cloud refused: {0}")]
    Refused(ErrorReply),
    /// The cloud answered something else than was asked.
    #[error("the cloud answered {asked} with something else")]
    Unexpected {
        /// What was asked.
        asked: &'static str,
    },
    /// An artifact does not have the size or the digest that its manifest states.
    #[error("artifact {digest}: {what}")]
    Artifact {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        what: String,
    },
}

impl PullError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            PullError::Away | PullError::Link(_) => Code::Unavailable,
            PullError::Refused(reply) => reply.code,
            PullError::Unexpected { .. } | PullError::Artifact { .. } => Code::Corrupt,
        }
    }
}

/// How long a dial may take. Short beside the pauses: whoever dials at the moment when the cloud comes back gets in at once, so few
/// must be dialling at any moment.
const DIAL_WITHIN: Duration = Duration::from_secs(1);

/// Says how the node is, whenever it is asked.
pub type Report = Arc<dyn Fn() -> NodeReport + Send + Sync>;

/// What the cloud is told again and again.
#[derive(Clone)]
pub struct Reports {
    /// How the node is.
    pub report: Report,
    /// Where it stands in its PoP; `diverged` is the uplink's own to say.
    pub standing: Arc<dyn Fn() -> Standing + Send + Sync>,
}

/// The connection to the cloud. Cheap to clone.
#[derive(Clone)]
pub struct CloudLink {
    shared: Arc<Shared>,
}

struct Shared {
    config: UplinkConfig,
    metrics: Metrics,
    dialer: Arc<dyn Dialer>,
    current: watch::Sender<Option<Arc<dyn Link>>>,
    newest: watch::Sender<Revision>,
    /// Why the tail stands still, if it does.
    diverged: watch::Sender<Option<String>>,
}

impl CloudLink {
    /// A link that connects once [`CloudLink::run`] runs.
    pub fn new(config: UplinkConfig, dialer: Arc<dyn Dialer>, metrics: Metrics) -> Self {
        let (current, newest) = (watch::Sender::new(None), watch::Sender::new(Revision(0)));
        let diverged = watch::Sender::new(None);
        Self { shared: Arc::new(Shared { config, metrics, dialer, current, newest, diverged }) }
    }

    /// The newest revision the cloud has told of; 0 until it told.
    pub fn newest(&self) -> watch::Receiver<Revision> {
        self.shared.newest.subscribe()
    }

    /// Whether there is a connection at this moment.
    pub fn is_connected(&self) -> bool {
        self.shared.current.borrow().as_ref().is_some_and(|link| !link.is_closed())
    }

    /// Why this node, as its PoP's leader, sends no events, if cloud and PoP contradict each other.
    pub fn diverged(&self) -> Option<String> {
        self.shared.diverged.borrow().clone()
    }

    /// Notes why the tail stands still, or that it does not. True where that is news.
    pub(crate) fn set_diverged(&self, why: Option<String>) -> bool {
        self.shared.metrics.diverged.set(i64::from(why.is_some()));
        self.shared.diverged.send_if_modified(|known| std::mem::replace(known, why.clone()) != why)
    }

    /// Keeps the connection up until shutdown: dials, subscribes, reports, redials with growing, jittered pauses.
    pub async fn run(&self, reports: Reports, shutdown: CancellationToken) {
        let mut failures: u32 = 0;
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => break,
                held = self.hold_one(&reports) => match held {
                    // A cloud that takes connections and drops them is no better than one that takes none.
                    Ok(lived) => failures = if lived < self.timeout() { failures.saturating_add(1) } else { 0 },
                    Err(error) => {
                        if failures == 0 && matches!(error.kind, LinkErrorKind::Forbidden(_) | LinkErrorKind::Tls(_)) {
                            tracing::error!(%error, "the cloud and this node do not believe each other: was it revoked, or has \
                                its certificate ended?");
                        }
                        tracing::debug!(error = &error as &dyn std::error::Error, failures, "no link to the cloud");
                        self.shared.metrics.failures.inc();
                        failures = failures.saturating_add(1);
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(self.pause(failures)) => {}
            }
        }
        if let Some(link) = self.shared.current.send_replace(None) {
            link.close("shutting down");
        }
    }

    /// Dials, and holds the connection for as long as it lives: so long. An error: it never came up.
    async fn hold_one(&self, reports: &Reports) -> Result<Duration, LinkError> {
        let config = &self.shared.config;
        let link =
            self.shared.dialer.dial(&config.cloud, &Peer::Cloud, self.timeout().min(DIAL_WITHIN)).await?;
        let since = Instant::now();
        tracing::info!(cloud = %config.cloud, "connected to the cloud");
        self.shared.metrics.connected.set(1);
        self.shared.current.send_replace(Some(link.clone()));
        let error = tokio::select! {
            error = self.subscribe(&*link) => error,
            error = self.keep_reporting(&*link, reports) => error,
            error = link.closed() => error,
        };
        self.shared.current.send_replace(None);
        self.shared.metrics.connected.set(0);
        link.close("gone");
        tracing::info!(cloud = %config.cloud, reason = %error, "disconnected from the cloud");
        Ok(since.elapsed())
    }

    async fn subscribe(&self, link: &dyn Link) -> LinkError {
        let heard = async {
            let mut stream = link.open().await?;
            stream.send(&UplinkRequest::Subscribe).await?;
            loop {
                if let UplinkReply::Newer(revision) = stream.recv().await? {
                    self.hear(revision);
                }
            }
        };
        match heard.await {
            Ok(never) => never,
            Err(error) => error,
        }
    }

    async fn keep_reporting(&self, link: &dyn Link, reports: &Reports) -> LinkError {
        let mut ticks = tokio::time::interval(Duration::from_millis(self.shared.config.report_every_ms));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // A cloud of an older version does not know the second question; it is not asked again on this link.
        let mut understood = true;
        loop {
            ticks.tick().await;
            let report = UplinkRequest::Report((reports.report)());
            if let Err(error) = transport::call::<_, UplinkReply>(link, &report, self.timeout()).await {
                return error;
            }
            if !understood {
                continue;
            }
            let standing = Standing { diverged: self.diverged(), ..(reports.standing)() };
            match transport::call(link, &UplinkRequest::Standing(standing), self.timeout()).await {
                Ok(UplinkReply::Error(error)) => understood = error.code != Code::Malformed,
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }

    /// The revision only grows: what was heard first or arrives late changes nothing.
    fn hear(&self, revision: Revision) {
        self.shared.newest.send_if_modified(|newest| {
            let newer = revision > *newest;
            *newest = revision.max(*newest);
            newer
        });
    }

    /// Asks once over the present connection.
    pub async fn ask(&self, request: &UplinkRequest) -> Result<UplinkReply, PullError> {
        let link = self.shared.current.borrow().clone().ok_or(PullError::Away)?;
        match transport::call(&*link, request, self.timeout()).await? {
            UplinkReply::Error(reply) => Err(PullError::Refused(reply)),
            reply => {
                if let UplinkReply::Ack { control_revision, .. } = &reply {
                    self.hear(*control_revision);
                }
                Ok(reply)
            }
        }
    }

    /// Resolves when there is a connection.
    pub async fn connected(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.shared.current.subscribe().wait_for(Option::is_some).await;
    }

    /// The newest manifest, its signature not checked yet.
    pub async fn manifest(&self) -> Result<Option<SignedManifest>, PullError> {
        match self.ask(&UplinkRequest::Manifest).await? {
            UplinkReply::Manifest(manifest) => Ok(manifest),
            _ => Err(PullError::Unexpected { asked: "Manifest" }),
        }
    }

    /// One artifact, part by part. Its size is checked before memory is taken, its digest before it is returned.
    pub async fn artifact(&self, artifact: &ArtifactRef) -> Result<Vec<u8>, PullError> {
        let wrong = |what: String| PullError::Artifact { digest: artifact.digest, what };
        if artifact.size > ARTIFACT_BYTES_MAX {
            return Err(wrong(format!("{} bytes, at most {ARTIFACT_BYTES_MAX} are allowed", artifact.size)));
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < artifact.size {
            let request = UplinkRequest::Artifact { digest: artifact.digest, offset: bytes.len() as u64 };
            let UplinkReply::Artifact { size, part } = self.ask(&request).await? else {
                return Err(PullError::Unexpected { asked: "Artifact" });
            };
            if size != artifact.size || part.is_empty() || bytes.len() + part.len() > artifact.size as usize {
                return Err(wrong(format!(
                    "the manifest says {} bytes, the cloud sends {size}",
                    artifact.size
                )));
            }
            bytes.extend_from_slice(&part);
            if part.len() < PART_BYTES_MIN && (bytes.len() as u64) < artifact.size {
                return Err(wrong(format!(
                    "a part of {} bytes, at least {PART_BYTES_MIN} are due",
                    part.len()
                )));
            }
        }
        match Digest::of(&bytes) {
            digest if digest == artifact.digest => Ok(bytes),
            digest => Err(wrong(format!("its bytes have the digest {digest}"))),
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.shared.config.timeout_ms)
    }

    /// Anything up to a bound that doubles with every failure ("full jitter": Brooker, "Exponential Backoff and Jitter", 2015): a
    /// thousand edges lose the cloud at the same moment, and must not find it again at the same moment.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        let config = &self.shared.config;
        let full = config.backoff_ms.saturating_mul(1 << failures.min(16)).min(config.backoff_max_ms);
        // The standard library's hasher is seeded anew each time: randomness enough for this.
        Duration::from_millis(RandomState::new().hash_one(failures) % (full + 1))
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(crate) fn config(&self) -> &UplinkConfig {
        &self.shared.config
    }
}
