//! What a node sends to get a certificate, and what it keeps then.

use std::fmt;
use std::path::Path;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::{ServerName, UnixTime};

use super::{Credentials, PkiError, Trust, certificates, files, provider};
use crate::identity::Identity;

/// A new key, and the signing request (PKCS #10, RFC 2986) that proves who has it.
pub struct Request {
    identity: Identity,
    key: KeyPair,
    der: Vec<u8>,
}

impl Request {
    /// Makes a key, in memory only.
    ///
    /// # Errors
    /// [`PkiError::Identity`] where the identity cannot be named in a certificate.
    pub fn new(identity: &Identity) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| failed(identity, &e))?;
        Self::of_key(identity, key)
    }

    /// Takes the key that lies in a file (mode 0600), or makes it and writes it there: whoever asks again after an answer was
    /// lost asks with the same key.
    ///
    /// # Errors
    /// Where the file cannot be read or written, or can be read by others.
    pub fn open_or_create(identity: &Identity, path: &Path) -> Result<Self, PkiError> {
        if !path.exists() {
            let request = Self::new(identity)?;
            files::write(path, request.key.serialize_pem().as_bytes(), true)?;
            return Ok(request);
        }
        let text = files::read_secret(path)?;
        let wrong = |reason: String| PkiError::Pem { what: path.display().to_string(), reason };
        let text = std::str::from_utf8(&text).map_err(|e| wrong(e.to_string()))?;
        Self::of_key(identity, KeyPair::from_pem(text).map_err(|e| wrong(e.to_string()))?)
    }

    fn of_key(identity: &Identity, key: KeyPair) -> Result<Self, PkiError> {
        let mut params =
            CertificateParams::new(vec![identity.dns_name()?]).map_err(|e| failed(identity, &e))?;
        params.distinguished_name.push(DnType::CommonName, identity.to_string());
        let der = params.serialize_request(&key).map_err(|e| failed(identity, &e))?.der().to_vec();
        Ok(Self { identity: identity.clone(), key, der })
    }

    /// The signing request, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What to keep, once the chain (PEM) was issued: checked to be this identity's, for this key, now, and believed by those
    /// who believe `trust`.
    ///
    /// # Errors
    /// [`PkiError::Unusable`] where it is not.
    pub fn complete(&self, chain: &str, trust: &Trust) -> Result<Bundle, PkiError> {
        let unusable = |reason: String| PkiError::Unusable(reason);
        let certificates = certificates(chain.as_bytes())?;
        let (own, between) = certificates.split_first().ok_or_else(|| unusable("it is empty".into()))?;
        let name = self.identity.dns_name()?;
        let name = ServerName::try_from(name).map_err(|e| unusable(e.to_string()))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(trust.roots(), provider())
            .build()
            .map_err(|e| unusable(e.to_string()))?;
        verifier
            .verify_server_cert(own, between, &name, &[], UnixTime::now())
            .map_err(|e| unusable(e.to_string()))?;
        let bundle = Bundle::new(self, chain);
        // Also that the key is the certificate's.
        match bundle.credentials()?.identity()? {
            identity if identity == self.identity => Ok(bundle),
            other => Err(unusable(format!("it is {other}'s"))),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("identity", &self.identity).finish_non_exhaustive()
    }
}

fn failed(identity: &Identity, error: &rcgen::Error) -> PkiError {
    PkiError::Issue { subject: identity.to_string(), reason: error.to_string() }
}

/// A key and its certificate chain as one PEM text: in one file, they cannot part in a crash. A secret.
pub struct Bundle(String);

impl Bundle {
    pub(super) fn new(request: &Request, chain: &str) -> Self {
        Self(request.key.serialize_pem() + chain)
    }

    /// Writes it: whole or not at all, durable, mode 0600.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PkiError> {
        files::write(path, self.0.as_bytes(), true)
    }

    /// What to show.
    ///
    /// # Errors
    /// Where key and certificate do not belong together.
    pub fn credentials(&self) -> Result<Credentials, PkiError> {
        Credentials::from_pem(self.0.as_bytes(), self.0.as_bytes())
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bundle(..)")
    }
}
