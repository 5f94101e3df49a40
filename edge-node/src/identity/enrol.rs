//! The first certificate, for a one-time token.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use proto::enrol::{EnrolReply, EnrolRequest, Token};
use proto::limits::TOKEN_BYTES_MAX;
use proto::{ALPN_ENROL, ErrorReply, Retry};
use transport::pki::{Credentials, Request, Trust};
use transport::quic::{QuicDialer, Settings};
use transport::{Dialer, Identity, LinkError, Peer};

use super::IdentityConfig;
use super::renewal::jittered;

/// How long one attempt may take.
const WITHIN: Duration = Duration::from_secs(5);
/// First pause after a failed attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("the cloud's door for enrolment cannot be reached")]
    Link(#[from] LinkError),
    #[error("the cloud refused: {0}")]
    Refused(ErrorReply),
}

/// Enrols; with `patience`, tries until the cloud answers. Whatever the moment of a crash, the next start goes on: the key is
/// on disk before it is sent, the cloud gives the same key a certificate again, and the token is removed last but the key.
pub(super) async fn enrol(
    config: &IdentityConfig,
    identity: &Identity,
    trust: &Trust,
    patience: bool,
) -> anyhow::Result<Credentials> {
    let Identity::Node { pop, node } = identity.clone() else { anyhow::bail!("{identity} is not a node") };
    let token = service::secrets::read(&config.token)?;
    anyhow::ensure!(
        token.len() <= TOKEN_BYTES_MAX,
        "{} has {} bytes: a token has at most {TOKEN_BYTES_MAX}",
        config.token.display(),
        token.len()
    );
    let pending = pending_key(&config.file);
    let request = Request::open_or_create(identity, &pending)?;
    let message = EnrolRequest { pop, node, token: Token(token), request: request.der().to_vec() };
    let dialer = QuicDialer::new(trust, None, ALPN_ENROL, &Settings::peers())?;
    let mut pause = PAUSE;
    let chain = loop {
        match attempt(&dialer, &config.enrol, &message).await {
            Ok(chain) => break chain,
            Err(AttemptError::Refused(reply)) if reply.code.retry() == Retry::Never => {
                anyhow::bail!("the cloud refused to enrol {identity}: {reply}");
            }
            Err(error) if !patience => return Err(error.into()),
            Err(error) => {
                let error = &error as &(dyn std::error::Error + 'static);
                tracing::warn!(error, cloud = %config.enrol, ?pause, "cannot enrol yet");
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    };
    dialer.shutdown("enrolled", WITHIN).await;
    let bundle = request.complete(&chain, trust)?;
    bundle.write(&config.file)?;
    for used in [&config.token, &pending] {
        std::fs::remove_file(used).with_context(|| format!("cannot remove {}", used.display()))?;
    }
    tracing::info!(%identity, file = %config.file.display(), "enrolled");
    Ok(bundle.credentials()?)
}

/// Where the key lies until there is a certificate for it.
fn pending_key(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".pending");
    file.with_file_name(name)
}

async fn attempt(dialer: &QuicDialer, cloud: &str, message: &EnrolRequest) -> Result<String, AttemptError> {
    let link = dialer.dial(cloud, &Peer::Cloud, WITHIN).await?;
    match transport::call(&*link, message, WITHIN).await? {
        EnrolReply::Issued(chain) => Ok(chain),
        EnrolReply::Error(reply) => Err(AttemptError::Refused(reply)),
    }
}
