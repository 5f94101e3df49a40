//! What a process shows: a certificate chain and its private key, replaced while connections come and go.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;

use super::{PkiError, certificates, files, provider};
use crate::identity::{Identity, IdentityError};

/// Clocks of a deployment may differ by this much: certificates are valid from a little before they are made.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// When a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From when on.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
}

impl Validity {
    /// From now (less five minutes, as clocks differ, but at most a tenth of `lifetime`) for `lifetime`.
    pub fn starting_now(lifetime: Duration) -> Self {
        let now = SystemTime::now();
        Self { not_before: now - CLOCK_SKEW.min(lifetime / 10), not_after: now + lifetime }
    }

    /// How long the whole of it is.
    pub fn length(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

/// What a process shows. Clones are the same: what is replaced in one is replaced in all, for every connection that is made
/// from then on, by listeners and dialers that hold one. Connections that live go on.
#[derive(Clone)]
pub struct Credentials {
    shown: Arc<RwLock<Arc<Shown>>>,
    /// What those see who speak HTTP/3, where that is something else.
    http3: Option<Arc<RwLock<Arc<Shown>>>>,
}

struct Shown {
    certified: Arc<CertifiedKey>,
    validity: Validity,
}

impl Credentials {
    /// Reads PEM files.
    ///
    /// # Errors
    /// Where a file cannot be read, is not PEM, the key can be read by others, or is not the certificate's.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, PkiError> {
        let chain = files::read(certificate)?;
        let key = files::read_secret(key)?;
        Self::from_pem(&chain, &key)
    }

    /// Reads one PEM file with key and chain, as [`super::Bundle::write`] writes it.
    ///
    /// # Errors
    /// As [`Credentials::read`].
    pub fn read_bundle(path: &Path) -> Result<Self, PkiError> {
        let text = files::read_secret(path)?;
        Self::from_pem(&text, &text)
    }

    /// Takes PEM texts.
    ///
    /// # Errors
    /// Where there is no certificate or no key in them, or the key is another certificate's.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        let wrong = |what: &str, reason: String| PkiError::Pem { what: what.into(), reason };
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| wrong("private key", e.to_string()))?;
        let validity = facts(&chain[0])?.validity;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                wrong("private key", "it is not the key of the first certificate".into())
            }
            error => wrong("private key", error.to_string()),
        })?;
        let shown = Shown { certified: Arc::new(certified), validity };
        Ok(Self { shown: Arc::new(RwLock::new(Arc::new(shown))), http3: None })
    }

    /// The same, but for those who offer nothing but HTTP/3 (ALPN): browsers, whom a listener shows what `public` shows. What is replaced
    /// in either is replaced here.
    #[must_use]
    pub fn with_http3(&self, public: &Credentials) -> Self {
        Self { shown: Arc::clone(&self.shown), http3: Some(Arc::clone(&public.shown)) }
    }

    /// Shows what `newer` shows from now on.
    pub fn replace(&self, newer: &Credentials) {
        let newer = newer.shown();
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = newer;
    }

    /// Who the certificate names.
    ///
    /// # Errors
    /// Where it names no or more than one identity.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::of_certificate(&self.shown().certified.cert[0])
    }

    /// When the certificate holds.
    pub fn validity(&self) -> Validity {
        self.shown().validity
    }

    /// DNS names and IP addresses of the certificate.
    pub fn names(&self) -> Vec<String> {
        facts(&self.shown().certified.cert[0]).map(|facts| facts.names).unwrap_or_default()
    }

    fn shown(&self) -> Arc<Shown> {
        now(&self.shown)
    }
}

fn now(shown: &RwLock<Arc<Shown>>) -> Arc<Shown> {
    Arc::clone(&shown.read().unwrap_or_else(PoisonError::into_inner))
}

/// Whether a caller offers nothing but HTTP/3 or its drafts.
fn is_http3(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.all(|protocol| protocol.starts_with(b"h3")))
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = match &self.http3 {
            Some(public) if is_http3(&hello) => now(public),
            _ => self.shown(),
        };
        Some(Arc::clone(&shown.certified))
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.shown().certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

// The key is a secret: it must not reach a log through `{:?}`.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

/// What a certificate says besides its identity.
pub(crate) struct Facts {
    pub(crate) validity: Validity,
    /// DNS names and IP addresses, those of identities among them.
    pub(crate) names: Vec<String>,
    /// Whether it may issue others.
    pub(crate) is_authority: bool,
    /// Whether it is signed by itself.
    pub(crate) is_root: bool,
}

/// Reads a certificate. Says nothing of whether it is to be believed.
pub(crate) fn facts(der: &CertificateDer<'_>) -> Result<Facts, PkiError> {
    let wrong = |reason: String| PkiError::Pem { what: "certificate".into(), reason };
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|e| wrong(e.to_string()))?;
    let validity = certificate.validity();
    let names = certificate.subject_alternative_name().map_err(|e| wrong(e.to_string()))?;
    let names = names.map(|names| names.value.general_names.iter().filter_map(name_text).collect());
    Ok(Facts {
        validity: Validity {
            not_before: moment(validity.not_before.timestamp()),
            not_after: moment(validity.not_after.timestamp()),
        },
        names: names.unwrap_or_default(),
        is_authority: certificate.is_ca(),
        is_root: certificate.subject() == certificate.issuer(),
    })
}

fn moment(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|octets| IpAddr::from(octets).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|octets| IpAddr::from(octets).to_string()),
        },
        _ => None,
    }
}
