//! The deployment's own certificate authority, and what it issues.
//!
//! One authority a deployment: ECDSA P-256, path length 0, so that nothing it issues can issue in turn. Keys lie in PEM
//! files (PKCS #8) with mode 0600; a key that others can read is refused.

mod authority;
mod files;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub use authority::{Authority, Issued, Validity};

use crate::identity::{Identity, IdentityError};

/// Most certificates in a chain or among the trusted.
const CERTIFICATES_MAX: usize = 16;

/// Certificates or keys cannot be read, made or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A private key that others can read is no secret any more.
    #[error("{} can be read by others (mode {mode:o}); make it 600, or better make a new key", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something is in the way.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The text is not PEM, or holds something else than is needed.
    #[error("{what}: {reason}")]
    Pem {
        /// What was to be read.
        what: String,
        /// Why it cannot be.
        reason: String,
    },
    /// A certificate cannot be made so.
    #[error("cannot issue a certificate for {subject}: {reason}")]
    Issue {
        /// For whom.
        subject: String,
        /// Why not.
        reason: String,
    },
    /// Not an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What a process shows: a certificate chain and its private key.
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// Reads PEM files.
    ///
    /// # Errors
    /// Where a file cannot be read, is not PEM, or the key can be read by others.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, PkiError> {
        let chain = files::read(certificate)?;
        let key = files::read_secret(key)?;
        Self::from_pem(&chain, &key)
    }

    /// Takes PEM texts.
    ///
    /// # Errors
    /// Where there is no certificate or no key in them.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|e| PkiError::Pem { what: "private key".into(), reason: e.to_string() })?;
        Ok(Self { chain, key })
    }

    /// Who the certificate names.
    ///
    /// # Errors
    /// Where it names no or more than one identity.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::of_certificate(&self.chain[0])
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

// The key is a secret: it must not reach a log through `{:?}`.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

/// Whom a process believes: the deployment's authority. During a change of authority, the old and the new one.
#[derive(Debug, Clone)]
pub struct Trust {
    roots: Arc<RootCertStore>,
}

impl Trust {
    /// Reads a PEM file of one or more authorities.
    ///
    /// # Errors
    /// Where it cannot be read or holds no certificate of an authority.
    pub fn read(path: &Path) -> Result<Self, PkiError> {
        Self::from_pem(&files::read(path)?)
    }

    /// Takes a PEM text of one or more authorities.
    ///
    /// # Errors
    /// Where it holds no certificate of an authority.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(text)? {
            roots
                .add(certificate)
                .map_err(|e| PkiError::Pem { what: "authority".into(), reason: e.to_string() })?;
        }
        Ok(Self { roots: Arc::new(roots) })
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

/// At least one certificate.
fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let wrong = |reason: String| PkiError::Pem { what: "certificate".into(), reason };
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .take(CERTIFICATES_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(e.to_string()))?;
    match found.len() {
        0 => Err(wrong("none found".into())),
        len if len > CERTIFICATES_MAX => Err(wrong(format!("more than {CERTIFICATES_MAX}"))),
        _ => Ok(found),
    }
}
