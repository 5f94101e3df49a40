//! Connections to servers that are not ours: the origins of content.

use std::path::PathBuf;
use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::pki::provider;

/// Connects hyper's client, over TLS (1.2 or 1.3) or without.
pub type Connector = HttpsConnector<HttpConnector>;

/// Who may sign a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Nobody: only plain HTTP will be asked.
    Nobody,
    /// Whom the operating system believes.
    System,
    /// Those in this PEM file.
    File(PathBuf),
}

/// Why there are no roots.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system has none.
    #[error(
        "this system knows no certificate authorities (Debian: the package ca-certificates), and no `ca` is set"
    )]
    System,
    /// A certificate that is none.
    #[error(transparent)]
    Certificate(#[from] rustls::Error),
}

/// Makes a connector.
///
/// # Errors
/// Where nobody could be believed.
pub fn connector(roots: &Roots, connect_within: Duration) -> Result<Connector, RootsError> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::Nobody => {}
        Roots::System => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(RootsError::System);
            }
        }
        Roots::File(path) => {
            let wrong = |reason: String| RootsError::File { path: path.clone(), reason };
            for certificate in
                CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?
            {
                store.add(certificate.map_err(|error| wrong(error.to_string()))?)?;
            }
            if store.is_empty() {
                return Err(wrong("there is no certificate in it".to_owned()));
            }
        }
    }
    let tls = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    http.set_connect_timeout(Some(connect_within));
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http))
}
