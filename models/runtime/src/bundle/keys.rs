//! Ed25519 (RFC 8032) keys of bundles: the cloud signs, the edges know the public half.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use proto::bundle::{MANIFEST_CONTEXT, Manifest, SignedManifest};
use proto::codec;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::error::BundleError;

/// Largest key file, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// The public half of a key. Text form: 64 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Reads 64 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        proto::Digest::from_hex(text).map(|bytes| Self(bytes.0))
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        proto::Digest(self.0).fmt(f)
    }
}

/// The secret half, held by the cloud. It is never shown, not even by `{:?}`.
pub struct Signer(Ed25519KeyPair);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("public", &self.public_key().to_string()).finish_non_exhaustive()
    }
}

impl Signer {
    /// From a 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed"))
    }

    /// Makes a key and writes it (PKCS #8, DER) to a new file that only its owner can read. An existing file is an error.
    pub fn create(path: &Path) -> Result<Self, BundleError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| wrong(path, "the system gave no random numbers"))?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(|error| wrong(path, error))?;
        file.write_all(document.as_ref())
            .and_then(|()| file.sync_all())
            .map_err(|error| wrong(path, error))?;
        Self::from_pkcs8(path, document.as_ref())
    }

    /// Reads a key file written by [`Signer::create`]. One that others may read or write is refused.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let file = File::open(path).map_err(|error| wrong(path, error))?;
        let metadata = file.metadata().map_err(|error| wrong(path, error))?;
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
            if mode & 0o077 != 0 {
                return Err(wrong(path, format!("others may use it (mode {mode:o}): chmod 600")));
            }
        }
        if metadata.len() > KEY_FILE_BYTES_MAX {
            return Err(wrong(path, format!("{} bytes are no key", metadata.len())));
        }
        let mut bytes = Vec::new();
        file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| wrong(path, error))?;
        Self::from_pkcs8(path, &bytes)
    }

    fn from_pkcs8(path: &Path, bytes: &[u8]) -> Result<Self, BundleError> {
        Ed25519KeyPair::from_pkcs8(bytes)
            .map(Self)
            .map_err(|error| wrong(path, format!("no Ed25519 key: {error}")))
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs a manifest.
    pub fn sign(&self, manifest: &Manifest) -> SignedManifest {
        let manifest = codec::encode(manifest);
        let message = [MANIFEST_CONTEXT, &manifest].concat();
        SignedManifest { manifest, signature: self.0.sign(&message).as_ref().to_vec() }
    }
}

fn wrong(path: &Path, reason: impl fmt::Display) -> BundleError {
    BundleError::Key { path: path.display().to_string(), reason: reason.to_string() }
}
