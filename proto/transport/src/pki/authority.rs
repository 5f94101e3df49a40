//! Makes the deployment's authority, and from its folder certificates for nodes and for the cloud. A key that is there is never
//! overwritten: whoever asks for a certificate again gets a newer one for the same key. A new key takes the place of an older one where
//! that was moved away first.

use std::path::{Path, PathBuf};

use proto::{Digest, NodeId, PopId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData,
};

use super::issuer::{leaf, serial_number};
use super::{Credentials, Issuer, PkiError, Trust, Validity, files};
use crate::identity::Identity;

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
    issuer: Issuer,
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
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("the authority"))?;
        // It may have intermediates, which may have none.
        let params = authority("authority", &key, 1, validity);
        let certificate = params.self_signed(&key).map_err(failed("the authority"))?.pem();
        files::write(&key_path, key.serialize_pem().as_bytes(), true)?;
        files::write(&certificate_path, certificate.as_bytes(), false)?;
        Self::open(folder)
    }

    /// Opens the authority that [`Authority::create`] made in `folder`.
    ///
    /// # Errors
    /// As [`Issuer::read`].
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = paths(folder, "ca");
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::read(&certificate, &key)? })
    }

    /// [`Authority::open`] where there is one, else [`Authority::create`].
    ///
    /// # Errors
    /// As those.
    pub fn open_or_create(folder: &Path, validity: Validity) -> Result<Self, PkiError> {
        if paths(folder, "ca").0.exists() { Self::open(folder) } else { Self::create(folder, validity) }
    }

    /// Makes a newer certificate for the authority's own key, in the place of the present one: what was issued before is believed
    /// as it was, by those who have the older certificate and by those who have the newer one.
    ///
    /// # Errors
    /// Where the authority is an intermediate, whose certificate its own authority renews, or the file cannot be written.
    pub fn renew(folder: &Path, validity: Validity) -> Result<Self, PkiError> {
        let present = Self::open(folder)?;
        let (certificate_path, key_path) = paths(folder, "ca");
        if !present.issuer.is_root() {
            let reason = "it is an intermediate's: the authority that issued it renews it".to_owned();
            return Err(PkiError::Pem { what: certificate_path.display().to_string(), reason });
        }
        let key = read_key(&key_path)?;
        let params = authority("authority", &key, 1, validity);
        let certificate = params.self_signed(&key).map_err(failed("the authority"))?.pem();
        files::write(&certificate_path, certificate.as_bytes(), false)?;
        Self::open(folder)
    }

    /// The authority's certificate, PEM: what others must trust.
    pub fn certificate_pem(&self) -> &[u8] {
        self.issuer.certificate_pem()
    }

    /// Trust in this authority.
    ///
    /// # Errors
    /// Where its certificate is not one.
    pub fn trust(&self) -> Result<Trust, PkiError> {
        self.issuer.trust()
    }

    /// Path of `ca.pem`.
    pub fn certificate_path(&self) -> PathBuf {
        paths(&self.folder, "ca").0
    }

    /// Makes an intermediate, `issuer.pem` and `issuer.key`, for the cloud to issue with, so that the authority's own key can
    /// stay offline. Where it is there, its certificate is renewed, and its key kept: what it issued is believed as before.
    ///
    /// # Errors
    /// Where the files cannot be written, or its key is elsewhere.
    pub fn issue_intermediate(&self, validity: Validity) -> Result<Issued, PkiError> {
        let key = self.key("issuer", "an intermediate")?;
        let mut params = authority("issuer", &key, 0, validity);
        params.use_authority_key_identifier_extension = true;
        let chain = self.issuer.certify(&params, &key).map_err(failed("an intermediate"))?;
        self.keep("issuer", &chain, &key)
    }

    /// Issues a node's certificate, `node-<id>.<pop>.pem` and `.key`, or a newer one for the key that is there. It names the node, the
    /// PoP's [`crate::edge_name`], and `public_names`: DNS names or IP addresses that apps dial.
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
        self.issue(&format!("node-{node}.{pop}"), &identity, public_names, validity)
    }

    /// Issues the cloud's certificate, `cloud.pem` and `cloud.key`, or a newer one for the key that is there.
    ///
    /// # Errors
    /// As [`Authority::issue_node`].
    pub fn issue_cloud(&self, names: &[String], validity: Validity) -> Result<Issued, PkiError> {
        self.issue("cloud", &Identity::Cloud, names, validity)
    }

    fn issue(
        &self,
        file: &str,
        identity: &Identity,
        public_names: &[String],
        validity: Validity,
    ) -> Result<Issued, PkiError> {
        let params = leaf(identity, public_names, validity)?;
        let subject = identity.to_string();
        let key = self.key(file, &subject)?;
        let chain = self.issuer.certify(&params, &key).map_err(failed(&subject))?;
        self.keep(file, &chain, &key)
    }

    /// The key that is there, or a new one.
    fn key(&self, file: &str, subject: &str) -> Result<KeyPair, PkiError> {
        let (certificate_path, key_path) = paths(&self.folder, file);
        if key_path.exists() {
            return read_key(&key_path);
        }
        // Whose key is elsewhere must not find another certificate here.
        if certificate_path.exists() {
            return Err(PkiError::Exists(certificate_path));
        }
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed(subject))
    }

    fn keep(&self, file: &str, chain: &str, key: &KeyPair) -> Result<Issued, PkiError> {
        let (certificate_path, key_path) = paths(&self.folder, file);
        if !key_path.exists() {
            files::write(&key_path, key.serialize_pem().as_bytes(), true)?;
        }
        files::write(&certificate_path, chain.as_bytes(), false)?;
        Ok(Issued { certificate: certificate_path, key: key_path })
    }
}

fn failed(subject: &str) -> impl Fn(rcgen::Error) -> PkiError + use<> {
    let subject = subject.to_owned();
    move |error| PkiError::Issue { subject: subject.clone(), reason: error.to_string() }
}

fn read_key(path: &Path) -> Result<KeyPair, PkiError> {
    let wrong = |reason: String| PkiError::Pem { what: path.display().to_string(), reason };
    let secret = files::read_secret(path)?;
    let text = std::str::from_utf8(&secret).map_err(|e| wrong(e.to_string()))?;
    KeyPair::from_pem(text).map_err(|e| wrong(e.to_string()))
}

/// `<name>.pem` and `<name>.key`. Names hold dots, so `Path::with_extension` would cut them.
fn paths(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")))
}

/// What an authority's certificate says, with so many levels of authorities below it.
fn authority(what: &str, key: &KeyPair, levels: u8, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    let digest = Digest::of(&key.subject_public_key_info()).to_string();
    params.distinguished_name.push(DnType::CommonName, format!("Rockpool {what} {}", &digest[..16]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(levels));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial_number());
    params
}
