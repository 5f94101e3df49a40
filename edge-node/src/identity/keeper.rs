//! Keeps the node's identity: renews its certificate at half of its life, and asks whether somebody was revoked.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use edge_uplink::{CloudLink, PullError};
use prometheus::Registry;
use proto::uplink::{UplinkReply, UplinkRequest};
use service::shutdown::Shutdown;
use transport::Identity;
use transport::pki::{Credentials, PkiError, Request, Trust};

use super::metrics::IdentityMetrics;
use super::public::{PublicCertificate, PublicMetrics};
use super::renewal::{self, Urgency};
use super::{IdentityConfig, Own, RevokedFile};

/// The clock is looked at this often while nothing is due: it may be set, and the machine may have slept.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A link that has just failed is not asked again at once.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Why the certificate was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Pki(#[from] PkiError),
}

impl RenewError {
    /// The metric's label.
    fn result(&self) -> &'static str {
        match self {
            Self::Pull(PullError::Away | PullError::Link(_)) => "away",
            Self::Pull(PullError::Refused(_)) => "refused",
            _ => "failed",
        }
    }
}

/// Keeps what [`Own::open`] opened.
pub struct Keeper {
    identity: Identity,
    credentials: Credentials,
    trust: Trust,
    revoked: RevokedFile,
    file: PathBuf,
    ask_every: Duration,
    cloud: CloudLink,
    metrics: IdentityMetrics,
    public: Option<(PublicCertificate, PublicMetrics)>,
}

impl Keeper {
    /// Keeps `own`, asking the cloud over `cloud`.
    pub fn new(
        own: Own,
        config: &IdentityConfig,
        cloud: CloudLink,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let Own { credentials, trust, revoked, identity, public } = own;
        let metrics = IdentityMetrics::new(registry)?;
        let public = match public {
            Some(public) => Some((public, PublicMetrics::new(registry)?)),
            None => None,
        };
        metrics.expires(credentials.validity().not_after);
        metrics.revoked.set(i64::try_from(revoked.len()).unwrap_or(i64::MAX));
        Ok(Self {
            identity,
            credentials,
            trust,
            revoked,
            file: config.file.clone(),
            ask_every: Duration::from_millis(config.revoked_every_ms),
            cloud,
            metrics,
            public,
        })
    }

    /// Runs until shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let Self { identity, credentials, trust, revoked, file, ask_every, cloud, metrics, public } = self;
        let renewing =
            Renewing { identity, credentials, trust, file, cloud: cloud.clone(), metrics: metrics.clone() };
        let public = async {
            match public {
                Some((public, metrics)) => public.keep(metrics).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = public => {}
            () = renewing.run() => {}
            () = ask_for_revoked(revoked, cloud, ask_every, metrics) => {}
        }
    }
}

struct Renewing {
    identity: Identity,
    credentials: Credentials,
    trust: Trust,
    file: PathBuf,
    cloud: CloudLink,
    metrics: IdentityMetrics,
}

impl Renewing {
    async fn run(&self) {
        loop {
            let due = renewal::due(&self.credentials.validity(), renewal::random());
            while let Ok(left) = due.duration_since(SystemTime::now()) {
                tokio::time::sleep(left.clamp(Duration::from_millis(1), LOOK_EVERY)).await;
            }
            while let Err(error) = self.renew().await {
                self.failed(&error);
                let pause = renewal::jittered(renewal::pause(&self.credentials.validity()));
                tokio::time::sleep(pause.min(RECONNECT_PAUSE)).await;
                if error.result() == "away" {
                    // Its link comes back by itself, with pauses of its own; until then there is a word now and then.
                    let _ = tokio::time::timeout(pause, self.cloud.connected()).await;
                } else {
                    tokio::time::sleep(pause.saturating_sub(RECONNECT_PAUSE)).await;
                }
            }
        }
    }

    /// One attempt. What is shown is durable before.
    async fn renew(&self) -> Result<(), RenewError> {
        let request = Request::new(&self.identity)?;
        let reply = self.cloud.ask(&UplinkRequest::Renew(request.der().to_vec())).await?;
        let UplinkReply::Issued(chain) = reply else {
            return Err(PullError::Unexpected { asked: "Renew" }.into());
        };
        let bundle = request.complete(&chain, &self.trust)?;
        let file = self.file.clone();
        let newer =
            tokio::task::spawn_blocking(move || bundle.write(&file).and_then(|()| bundle.credentials()))
                .await
                .map_err(|_| PkiError::Unusable("writing it broke off".into()))??;
        self.credentials.replace(&newer);
        self.metrics.renewals.with_label_values(&["ok"]).inc();
        self.metrics.expires(newer.validity().not_after);
        tracing::info!(identity = %self.identity, "the certificate was renewed");
        Ok(())
    }

    fn failed(&self, error: &RenewError) {
        self.metrics.renewals.with_label_values(&[error.result()]).inc();
        let error = error as &(dyn std::error::Error + 'static);
        match renewal::urgency(&self.credentials.validity(), SystemTime::now()) {
            Urgency::Calm => tracing::debug!(error, "the certificate was not renewed yet"),
            Urgency::Late => {
                tracing::warn!(
                    error,
                    "three quarters of the certificate's life are over and it was not renewed"
                );
            }
            Urgency::Ended => tracing::error!(
                error,
                "the certificate has ended: the PoP and its apps believe it for identity.grace_s longer; let the node reach \
                 the cloud, or enrol it again with a token"
            ),
        }
    }
}

/// Asks at every tick, and at once when the cloud is back.
async fn ask_for_revoked(
    mut revoked: RevokedFile,
    cloud: CloudLink,
    every: Duration,
    metrics: IdentityMetrics,
) {
    loop {
        cloud.connected().await;
        let known = revoked.len();
        match cloud.ask(&UplinkRequest::Revoked { known }).await {
            Ok(UplinkReply::Revoked(nodes)) => match revoked.add(&nodes) {
                Ok(new) => {
                    new.iter().for_each(
                        |node| tracing::warn!(%node, "a node of this PoP was revoked: it is cut off"),
                    );
                    metrics.revoked.set(i64::try_from(revoked.len()).unwrap_or(i64::MAX));
                }
                Err(error) => tracing::error!(error = format!("{error:#}"), "who was revoked is not on disk"),
            },
            Ok(_) => tracing::warn!("the cloud answered Revoked with something else"),
            Err(error) => {
                let error = &error as &(dyn std::error::Error + 'static);
                tracing::debug!(error, "cannot ask who was revoked");
            }
        }
        tokio::time::sleep(renewal::jittered(every)).await;
    }
}
