//! The certificate that browsers believe, for the HTTP doors: files of somebody else's making, looked at again and again, since whoever
//! renews them (certbot, lego, a secret of Kubernetes) tells nobody. A pair that cannot be used changes nothing.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use proto::Digest;
use tokio::signal::unix::{SignalKind, signal};
use transport::pki::Credentials;

use crate::config::HttpConfig;

/// How often the files are looked at. A new pair is read when it was the same twice: its two files are not written at once.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Of a file, as far as changes are looked for.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// What is counted of it.
#[derive(Debug, Clone)]
pub struct PublicMetrics {
    expires_seconds: IntGauge,
    reloads: IntCounterVec,
}

impl PublicMetrics {
    /// Registers them, for a node that has such a certificate.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let expires_seconds = IntGauge::new(
            "rockpool_http_certificate_expires_seconds",
            "When the certificate of http.certificate that is shown ends, seconds since 1970 UTC",
        )?;
        let reloads = Opts::new(
            "rockpool_http_certificate_reloads_total",
            "New files of http.certificate and http.key: ok, failed (what was shown before is shown on)",
        );
        let reloads = IntCounterVec::new(reloads, &["result"])?;
        registry.register(Box::new(expires_seconds.clone()))?;
        registry.register(Box::new(reloads.clone()))?;
        Ok(Self { expires_seconds, reloads })
    }
}

/// A certificate and its key, in files.
#[derive(Debug)]
pub struct PublicCertificate {
    files: Files,
    credentials: Credentials,
    /// Of the files when they were last used, or found to be of no use.
    judged: Option<Digest>,
}

#[derive(Debug, Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl PublicCertificate {
    /// Reads the files, where the settings name any.
    ///
    /// # Errors
    /// Where they cannot be used.
    pub fn open(config: &HttpConfig) -> anyhow::Result<Option<Self>> {
        if config.certificate.as_os_str().is_empty() {
            return Ok(None);
        }
        let files = Files { certificate: config.certificate.clone(), key: config.key.clone() };
        let judged = files.digest();
        let credentials = files.read()?;
        if let Err(error) = files.holds(&credentials) {
            // Browsers refuse it; apps with the SDK, and the PoP, need the node all the same.
            tracing::error!(
                error = format!("{error:#}"),
                "the certificate of http.certificate is shown, and is not believed"
            );
        }
        Ok(Some(Self { files, credentials, judged }))
    }

    /// What is shown: replaced when the files are.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Looks at the files, without end.
    pub async fn keep(mut self, metrics: PublicMetrics) {
        self.tell(&metrics);
        let mut hangup = signal(SignalKind::hangup())
            .inspect_err(
                |error| tracing::warn!(%error, "SIGHUP is not heard; files are looked at all the same"),
            )
            .ok();
        let mut seen = self.judged;
        loop {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            let asked = tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => false,
                _ = hung_up => true,
            };
            let files = self.files.clone();
            let now = tokio::task::spawn_blocking(move || files.digest()).await.ok().flatten();
            let settled = now == std::mem::replace(&mut seen, now);
            if now != self.judged && (asked || settled) {
                self.reload(now, &metrics).await;
            }
        }
    }

    async fn reload(&mut self, judged: Option<Digest>, metrics: &PublicMetrics) {
        self.judged = judged;
        let files = self.files.clone();
        let read = move || files.read().and_then(|read| files.holds(&read).map(|()| read));
        match tokio::task::spawn_blocking(read).await.map_err(anyhow::Error::new).flatten() {
            Ok(newer) => {
                self.credentials.replace(&newer);
                metrics.reloads.with_label_values(&["ok"]).inc();
                tracing::info!(names = ?newer.names(), "the certificate of http.certificate was reloaded");
                self.tell(metrics);
            }
            Err(error) => {
                metrics.reloads.with_label_values(&["failed"]).inc();
                tracing::error!(
                    error = format!("{error:#}"),
                    "the files of http.certificate and http.key have changed and cannot be used: the certificate of before is shown on"
                );
            }
        }
    }

    fn tell(&self, metrics: &PublicMetrics) {
        let ends = self.credentials.validity().not_after;
        let seconds = ends.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        metrics.expires_seconds.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}

impl Files {
    /// Of both, as far as they can be read.
    fn digest(&self) -> Option<Digest> {
        let read = |path: &Path| {
            let mut bytes = Vec::new();
            File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
            // Whether others can read a key is a part of whether it can be used.
            bytes.extend(std::fs::metadata(path).ok()?.mode().to_be_bytes());
            Some(Digest::of(&bytes))
        };
        let (certificate, key) = (read(&self.certificate)?, read(&self.key)?);
        Some(Digest::of(&[certificate.0, key.0].concat()))
    }

    fn read(&self) -> anyhow::Result<Credentials> {
        let (certificate, key) = (&self.certificate, &self.key);
        Credentials::read(certificate, key).with_context(|| {
            format!("http.certificate {} with http.key {}", certificate.display(), key.display())
        })
    }

    /// Whether browsers may believe it.
    fn holds(&self, credentials: &Credentials) -> anyhow::Result<()> {
        let shown = self.certificate.display();
        if let Ok(since) = SystemTime::now().duration_since(credentials.validity().not_after) {
            anyhow::bail!("http.certificate {shown} ended {} s ago", since.as_secs());
        }
        let names = credentials.names();
        anyhow::ensure!(!names.is_empty(), "http.certificate {shown} names no host (subjectAltName)");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proto::{NodeId, PopId};
    use transport::pki::{Authority, Validity};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn issue(folder: &Path, node: u64, lifetime: Duration) -> Files {
        let authority = Authority::open_or_create(folder, Validity::starting_now(DAY)).unwrap();
        let validity = Validity::starting_now(lifetime);
        let issued =
            authority.issue_node(&PopId::new("p").unwrap(), NodeId(node), &["shop.example".into()], validity);
        let issued = issued.unwrap();
        Files { certificate: issued.certificate, key: issued.key }
    }

    #[test]
    fn a_pair_that_cannot_be_used_is_refused_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (issue(folder.path(), 1, DAY), issue(folder.path(), 2, DAY));
        assert_eq!(one.read().unwrap().names().last().map(String::as_str), Some("shop.example"));
        let why = |certificate: &Path, key: &Path| {
            let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
            format!("{:#}", files.read().unwrap_err())
        };
        let said = why(&one.certificate, &other.key);
        assert!(
            said.contains("it is not the key of the first certificate") && said.contains("node-1.p.pem"),
            "{said}"
        );
        let said = why(&one.key, &one.key);
        assert!(said.contains("none found"), "{said}");
        let ended = issue(folder.path(), 3, Duration::ZERO);
        let said = format!("{:#}", ended.holds(&ended.read().unwrap()).unwrap_err());
        assert!(said.contains("ended"), "{said}");
        let before = one.digest();
        std::fs::set_permissions(&one.key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let said = why(&one.certificate, &one.key);
        assert!(said.contains("can be read by others"), "{said}");
        assert_ne!(one.digest(), before, "a key that is closed again is looked at again");
        std::fs::remove_file(&one.key).unwrap();
        assert_eq!(one.digest(), None);
    }
}
