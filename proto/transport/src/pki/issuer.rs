//! Signs certificates: the deployment's authority, or an intermediate of it.

use std::path::Path;
use std::time::Duration;

use proto::Digest;
use proto::limits::{PUBLIC_NAMES_MAX, SIGNING_REQUEST_BYTES_MAX};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::credentials::facts;
use super::{Bundle, Credentials, PkiError, Request, Trust, Validity, files, provider};
use crate::identity::{Identity, ZONE, edge_name};

/// What was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The chain, PEM, the new certificate first.
    pub chain: String,
    /// SHA-256 of the public key that it is for.
    pub key: Digest,
}

/// Signs certificates. Never shown by `{:?}`: it holds a key.
#[derive(Debug)]
pub struct Issuer {
    /// As [`Issuer::read`] took it.
    certificate: Vec<u8>,
    /// What stands between a certificate and the authority that others trust, PEM; empty where the authority itself issues.
    between: String,
    signer: rcgen::Issuer<'static, KeyPair>,
}

impl Issuer {
    /// Reads an authority's certificate (or an intermediate's, followed by what stands between it and the authority) and its
    /// key.
    ///
    /// # Errors
    /// Where the files cannot be read, the key can be read by others, the two do not belong together, or the certificate is
    /// not an authority's.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, PkiError> {
        let text = files::read(certificate)?;
        let secret = files::read_secret(key)?;
        let wrong = |path: &Path, reason: String| PkiError::Pem { what: path.display().to_string(), reason };
        let pair = std::str::from_utf8(&secret)
            .map_err(|e| e.to_string())
            .and_then(|text| KeyPair::from_pem(text).map_err(|e| e.to_string()))
            .map_err(|reason| wrong(key, reason))?;
        let own = CertificateDer::from_pem_slice(&text).map_err(|e| wrong(certificate, e.to_string()))?;
        let said = facts(&own)?;
        if !said.is_authority {
            return Err(wrong(certificate, "is not an authority's certificate".into()));
        }
        let anchor =
            webpki::anchor_from_trusted_cert(&own).map_err(|e| wrong(certificate, format!("{e:?}")))?;
        // webpki leaves out the outer SEQUENCE of the key info; our key's own ends with the same bytes.
        if !pair.subject_public_key_info().ends_with(&anchor.subject_public_key_info) {
            let name = certificate.file_name().unwrap_or_default().to_string_lossy();
            return Err(wrong(key, format!("is not the key of {name}")));
        }
        let between = match said.is_root {
            true => String::new(),
            false => String::from_utf8(text.clone()).map_err(|e| wrong(certificate, e.to_string()))?,
        };
        let signer =
            rcgen::Issuer::from_ca_cert_der(&own, pair).map_err(|e| wrong(certificate, e.to_string()))?;
        Ok(Self { certificate: text, between, signer })
    }

    /// Whether it is an authority of its own, and no intermediate.
    pub fn is_root(&self) -> bool {
        self.between.is_empty()
    }

    /// Its certificate, PEM.
    pub fn certificate_pem(&self) -> &[u8] {
        &self.certificate
    }

    /// Trust in this issuer itself.
    ///
    /// # Errors
    /// Where its certificate is not one.
    pub fn trust(&self) -> Result<Trust, PkiError> {
        Trust::from_pem(&self.certificate)
    }

    /// Issues a certificate for the key of a signing request (PKCS #10, DER), which must name `identity` and be signed with
    /// that key. Of what else the request asks for, nothing is granted. `public_names` are names that apps dial.
    ///
    /// # Errors
    /// Where the request is not one, or names somebody else; and where a name is not one, or lies in the zone of identities.
    pub fn sign(
        &self,
        identity: &Identity,
        request: &[u8],
        public_names: &[String],
        lifetime: Duration,
    ) -> Result<Signed, PkiError> {
        let refused = |reason: String| PkiError::Issue { subject: identity.to_string(), reason };
        if request.len() > SIGNING_REQUEST_BYTES_MAX {
            return Err(refused(format!("the request has more than {SIGNING_REQUEST_BYTES_MAX} bytes")));
        }
        let asked = CertificateSigningRequestParams::from_der(&request.into())
            .map_err(|e| refused(format!("the signing request: {e}")))?;
        if asked.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(refused("the signing request's key must be ECDSA P-256".into()));
        }
        let names = asked.params.subject_alt_names.iter().filter_map(|name| match name {
            SanType::DnsName(name) => Some(name.as_str()),
            _ => None,
        });
        let named = Identity::of_names(names)?;
        if named != *identity {
            return Err(refused(format!("the signing request is {named}'s")));
        }
        let params = leaf(identity, public_names, Validity::starting_now(lifetime))?;
        let certificate =
            params.signed_by(&asked.public_key, &self.signer).map_err(|e| refused(e.to_string()))?;
        let key = Digest::of(asked.public_key.der_bytes());
        Ok(Signed { chain: certificate.pem() + &self.between, key })
    }

    /// Makes a key and a certificate for it at once: for who holds this issuer.
    ///
    /// # Errors
    /// As [`Issuer::sign`].
    pub fn issue(
        &self,
        identity: &Identity,
        public_names: &[String],
        lifetime: Duration,
    ) -> Result<Credentials, PkiError> {
        let request = Request::new(identity)?;
        let signed = self.sign(identity, request.der(), public_names, lifetime)?;
        Bundle::new(&request, &signed.chain).credentials()
    }

    /// Signs a certificate for a key pair; the chain, PEM.
    pub(super) fn certify(&self, params: &CertificateParams, key: &KeyPair) -> Result<String, rcgen::Error> {
        Ok(params.signed_by(key, &self.signer)?.pem() + &self.between)
    }
}

/// Whether certificates can be issued for this identity with these names.
///
/// # Errors
/// As [`Issuer::sign`].
pub fn check_names(identity: &Identity, public_names: &[String]) -> Result<(), PkiError> {
    leaf(identity, public_names, Validity::starting_now(Duration::ZERO)).map(drop)
}

/// What a certificate of a node or of the cloud says.
pub(super) fn leaf(
    identity: &Identity,
    public_names: &[String],
    validity: Validity,
) -> Result<CertificateParams, PkiError> {
    let refused = |reason: String| PkiError::Issue { subject: identity.to_string(), reason };
    let mut names = vec![identity.dns_name()?];
    if let Some(pop) = identity.pop() {
        names.push(edge_name(pop)?);
    }
    names.extend(outside(identity, public_names)?);
    let mut params = CertificateParams::new(names).map_err(|e| refused(e.to_string()))?;
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    params.distinguished_name.push(DnType::CommonName, identity.to_string());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Every process is a server to some and a client to others.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial_number());
    Ok(params)
}

/// A number that no other certificate of the same authority has (RFC 5280, 4.1.2.2): 127 random bits. One that is made of the key would
/// come again with each renewal, and browsers refuse two certificates of one number.
pub(super) fn serial_number() -> SerialNumber {
    let mut bytes = [0; 16];
    provider().secure_random.fill(&mut bytes).expect("the kernel's random source answers");
    // Positive, and never shorter.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Names for clients. They must not lie in the zone of identities: that would be another's name.
fn outside(identity: &Identity, names: &[String]) -> Result<Vec<String>, PkiError> {
    let refused = |reason: String| Err(PkiError::Issue { subject: identity.to_string(), reason });
    if names.len() > PUBLIC_NAMES_MAX {
        return refused(format!("more than {PUBLIC_NAMES_MAX} names"));
    }
    match names.iter().find(|name| in_zone(name)) {
        Some(name) => refused(format!("{name:?} lies in {ZONE}, where only identities are")),
        None => Ok(names.to_vec()),
    }
}

/// Whether a name lies in the zone of identities.
pub(crate) fn in_zone(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == ZONE || name.ends_with(&format!(".{ZONE}"))
}
