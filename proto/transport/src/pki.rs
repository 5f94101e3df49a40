//! The deployment's own certificate authority, what it issues, and whom a process believes.
//!
//! One authority a deployment, and where its key shall stay offline an intermediate that issues for it: ECDSA P-256, and
//! nothing that they issue for a node can issue in turn. Keys lie in PEM files (PKCS #8) with mode 0600; a key that others
//! can read is refused.
//!
//! | module | what |
//! |---|---|
//! | `authority` | makes authorities |
//! | `issuer` | signs certificates |
//! | `request` | what a node sends to get one, and what it keeps |
//! | `credentials` | what a process shows, replaced while it runs |
//! | `trust` | whom a process believes: authorities, the grace for what has expired, who was revoked |

mod authority;
mod credentials;
mod files;
mod issuer;
mod request;
mod trust;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub use authority::{Authority, Issued};
pub use credentials::{Credentials, Validity};
pub use issuer::{Issuer, Signed, check_names};
pub use request::{Bundle, Request};
pub use trust::{Revoked, Trust};

use crate::identity::IdentityError;

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
    #[error(
        "{} can be read by others (mode {mode:04o}): make a new key, or if nobody has read it run `chmod 600 {}`",
        path.display(), path.display()
    )]
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
    /// What was issued is not what was asked for.
    #[error("the certificate that was issued cannot be used: {0}")]
    Unusable(String),
    /// Not an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What a certificate names besides identities: DNS names and IP addresses that apps dial.
pub(crate) fn public_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let names = credentials::facts(certificate).map(|facts| facts.names).unwrap_or_default();
    names.into_iter().filter(|name| !issuer::in_zone(name)).collect()
}

/// Always `ring`, given explicitly, never the process's default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
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
