//! Makes the authority and issues certificates for nodes and for the cloud.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proto::{Digest, NodeId, PopId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Credentials, PkiError, Trust, files};
use crate::identity::{Identity, ZONE, edge_name};

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
    /// From now (less five minutes, as clocks differ) for `lifetime`.
    pub fn starting_now(lifetime: Duration) -> Self {
        let now = SystemTime::now();
        Self { not_before: now - CLOCK_SKEW, not_after: now + lifetime }
    }
}

/// Where a certificate and its key were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// `<name>.pem`.
    pub certificate: PathBuf,
    /// `<name>.key`, mode 0600.
    pub key: PathBuf,
}

impl Issued {
    /// Reads both.
    ///
    /// # Errors
    /// As [`Credentials::read`].
    pub fn credentials(&self) -> Result<Credentials, PkiError> {
        Credentials::read(&self.certificate, &self.key)
    }
}

/// The deployment's certificate authority: a folder with `ca.pem`, `ca.key` and what was issued.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority in `folder`, which is made too if it is not there.
    ///
    /// # Errors
    /// [`PkiError::Exists`] where there is one already: it is never replaced.
    pub fn create(folder: &Path, validity: Validity) -> Result<Self, PkiError> {
        files::make_folder(folder)?;
        let (certificate_path, key_path) = paths(folder, "ca");
        if let Some(taken) = [&certificate_path, &key_path].into_iter().find(|path| path.exists()) {
            return Err(PkiError::Exists(taken.clone()));
        }
        let failed =
            |e: rcgen::Error| PkiError::Issue { subject: "the authority".into(), reason: e.to_string() };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let params = authority_params(&key, validity);
        let certificate = params.self_signed(&key).map_err(failed)?.pem().into_bytes();
        files::write(&key_path, key.serialize_pem().as_bytes(), true)?;
        files::write(&certificate_path, &certificate, false)?;
        Ok(Self { folder: folder.to_owned(), certificate, issuer: Issuer::new(params, key) })
    }

    /// Opens the authority that [`Authority::create`] made in `folder`.
    ///
    /// # Errors
    /// Where the files cannot be read, the key can be read by others, or the two do not belong together.
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = paths(folder, "ca");
        let certificate = files::read(&certificate_path)?;
        let key = files::read_secret(&key_path)?;
        let wrong = |path: &Path, reason: String| PkiError::Pem { what: path.display().to_string(), reason };
        let key = std::str::from_utf8(&key)
            .map_err(|e| e.to_string())
            .and_then(|text| KeyPair::from_pem(text).map_err(|e| e.to_string()))
            .map_err(|reason| wrong(&key_path, reason))?;
        let der = CertificateDer::from_pem_slice(&certificate)
            .map_err(|e| wrong(&certificate_path, e.to_string()))?;
        let anchor =
            webpki::anchor_from_trusted_cert(&der).map_err(|e| wrong(&certificate_path, format!("{e:?}")))?;
        // webpki leaves out the outer SEQUENCE of the key info; our key's own ends with the same bytes.
        if !key.subject_public_key_info().ends_with(&anchor.subject_public_key_info) {
            return Err(wrong(&key_path, "is not the key of ca.pem".into()));
        }
        // Only name, key usages and key identifier of these count for an issuer, and they follow from the key.
        let params = authority_params(&key, Validity::starting_now(Duration::ZERO));
        Ok(Self { folder: folder.to_owned(), certificate, issuer: Issuer::new(params, key) })
    }

    /// [`Authority::open`] where there is one, else [`Authority::create`].
    ///
    /// # Errors
    /// As those.
    pub fn open_or_create(folder: &Path, validity: Validity) -> Result<Self, PkiError> {
        if paths(folder, "ca").0.exists() { Self::open(folder) } else { Self::create(folder, validity) }
    }

    /// The authority's certificate, PEM: what others must trust.
    pub fn certificate_pem(&self) -> &[u8] {
        &self.certificate
    }

    /// Trust in this authority.
    ///
    /// # Errors
    /// Where its certificate is not one.
    pub fn trust(&self) -> Result<Trust, PkiError> {
        Trust::from_pem(&self.certificate)
    }

    /// Path of `ca.pem`.
    pub fn certificate_path(&self) -> PathBuf {
        paths(&self.folder, "ca").0
    }

    /// Issues a node's certificate, `node-<id>.<pop>.pem` and `.key`, and replaces an older one. It names the node, the
    /// PoP's [`edge_name`], and `public_names`: DNS names or IP addresses that apps dial.
    ///
    /// # Errors
    /// Where a name is not one, or would lie in the zone of identities.
    pub fn issue_node(
        &self,
        pop: &PopId,
        node: NodeId,
        public_names: &[String],
        validity: Validity,
    ) -> Result<Issued, PkiError> {
        let identity = Identity::Node { pop: pop.clone(), node };
        let names = [vec![identity.dns_name()?, edge_name(pop)?], outside(&identity, public_names)?].concat();
        self.issue(&format!("node-{node}.{pop}"), &identity, names, validity)
    }

    /// Issues the cloud's certificate, `cloud.pem` and `cloud.key`, and replaces an older one.
    ///
    /// # Errors
    /// As [`Authority::issue_node`].
    pub fn issue_cloud(&self, names: &[String], validity: Validity) -> Result<Issued, PkiError> {
        let identity = Identity::Cloud;
        let names = [vec![identity.dns_name()?], outside(&identity, names)?].concat();
        self.issue("cloud", &identity, names, validity)
    }

    fn issue(
        &self,
        file: &str,
        identity: &Identity,
        names: Vec<String>,
        validity: Validity,
    ) -> Result<Issued, PkiError> {
        let failed =
            |e: rcgen::Error| PkiError::Issue { subject: identity.to_string(), reason: e.to_string() };
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.not_before = validity.not_before.into();
        params.not_after = validity.not_after.into();
        params.distinguished_name.push(DnType::CommonName, identity.to_string());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every process is a server to some and a client to others.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let (certificate_path, key_path) = paths(&self.folder, file);
        files::write(&key_path, key.serialize_pem().as_bytes(), true)?;
        files::write(&certificate_path, certificate.pem().as_bytes(), false)?;
        Ok(Issued { certificate: certificate_path, key: key_path })
    }
}

/// `<name>.pem` and `<name>.key`. Names hold dots, so `Path::with_extension` would cut them.
fn paths(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")))
}

/// Everything about the authority follows from its key, so that [`Authority::open`] needs no parser of certificates.
fn authority_params(key: &KeyPair, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    let digest = Digest::of(&key.subject_public_key_info()).to_string();
    let name = format!("Rockpool authority {}", &digest[..16]);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Names for clients. They must not lie in the zone of identities: that would be another's name.
fn outside(identity: &Identity, names: &[String]) -> Result<Vec<String>, PkiError> {
    let inside = |name: &&String| {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        name == ZONE || name.ends_with(&format!(".{ZONE}"))
    };
    match names.iter().find(inside) {
        Some(name) => Err(PkiError::Issue {
            subject: identity.to_string(),
            reason: format!("{name:?} lies in {ZONE}, where only identities are"),
        }),
        None => Ok(names.to_vec()),
    }
}
