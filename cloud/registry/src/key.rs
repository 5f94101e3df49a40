//! The signing key's file: made at the first start, and never again.

use std::path::Path;

use inference::Signer;

use crate::error::RegistryError;

/// Reads the key; makes one where none is, unless bundles were signed with one that is gone.
pub(crate) fn open(path: &Path, published: bool) -> Result<Signer, RegistryError> {
    if path.exists() {
        return Signer::read(path).map_err(RegistryError::Key);
    }
    if published {
        return Err(RegistryError::KeyLost(path.display().to_string()));
    }
    let signer = Signer::create(path).map_err(RegistryError::Key)?;
    tracing::info!(path = %path.display(), public = %signer.public_key(), "made the signing key of bundles");
    Ok(signer)
}
