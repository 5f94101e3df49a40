//! Who is believed in a handshake: rustls' own checks (webpki), and those again at the moment in which the certificate ended
//! where that is no longer ago than the grace.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::error::LinkErrorKind;
use crate::pki::{Trust, provider};

/// Checks whoever dials a door with mutual TLS.
pub(super) fn dialers(trust: &Trust) -> Result<Arc<dyn ClientCertVerifier>, LinkErrorKind> {
    let strict = WebPkiClientVerifier::builder_with_provider(trust.roots(), provider())
        .build()
        .map_err(|e| LinkErrorKind::Tls(e.to_string().into()))?;
    Ok(Arc::new(Dialers { strict, grace: trust.grace() }))
}

/// Checks whoever is dialed.
pub(super) fn listeners(trust: &Trust) -> Result<Arc<dyn ServerCertVerifier>, LinkErrorKind> {
    let strict = WebPkiServerVerifier::builder_with_provider(trust.roots(), provider())
        .build()
        .map_err(|e| LinkErrorKind::Tls(e.to_string().into()))?;
    Ok(Arc::new(Listeners { strict, grace: trust.grace() }))
}

#[derive(Debug)]
struct Dialers {
    strict: Arc<dyn ClientCertVerifier>,
    grace: Duration,
}

#[derive(Debug)]
struct Listeners {
    strict: Arc<WebPkiServerVerifier>,
    grace: Duration,
}

/// Verifies now, else at the certificate's end.
fn within_grace<T>(
    grace: Duration,
    now: UnixTime,
    verify: impl Fn(UnixTime) -> Result<T, Error>,
) -> Result<T, Error> {
    let refused = match verify(now) {
        Ok(verified) => return Ok(verified),
        Err(refused) => refused,
    };
    match refused {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })
            if now.as_secs().saturating_sub(not_after.as_secs()) < grace.as_secs() =>
        {
            verify(not_after).map_err(|_| refused)
        }
        refused => Err(refused),
    }
}

impl ClientCertVerifier for Dialers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        within_grace(self.grace, now, |at| self.strict.verify_client_cert(end_entity, intermediates, at))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Listeners {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        within_grace(self.grace, now, |at| {
            self.strict.verify_server_cert(end_entity, intermediates, name, ocsp, at)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}
