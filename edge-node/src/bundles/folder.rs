//! Artifacts on disk, by digest, and the manifest that was last served. Bytes are checked at every read.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use proto::Digest;
use proto::bundle::{ArtifactRef, Manifest, SignedManifest};
use proto::codec;
use proto::limits::ARTIFACT_BYTES_MAX;

/// Largest manifest file, in bytes.
const MANIFEST_BYTES_MAX: u64 = 1024 * 1024;
const LAST_GOOD: &str = "last-good";

/// A folder of artifacts.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Opens the folder; makes it if it is missing.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Whether the artifact is there, whole.
    pub fn has(&self, artifact: &ArtifactRef) -> bool {
        self.read(artifact).is_ok()
    }

    /// Reads an artifact and checks its size and digest.
    pub fn read(&self, artifact: &ArtifactRef) -> anyhow::Result<Vec<u8>> {
        let bytes = read_bounded(&self.file(&artifact.digest), artifact.size.min(ARTIFACT_BYTES_MAX))?;
        inference::verify_artifact(artifact, &bytes)?;
        Ok(bytes)
    }

    /// Reads a part of an artifact, for a peer: its whole length, and at most `len_max` bytes from `offset`.
    pub fn part(&self, digest: &Digest, offset: u64, len_max: usize) -> std::io::Result<(u64, Vec<u8>)> {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::open(self.file(digest))?;
        let size = file.metadata()?.len();
        let len = size.saturating_sub(offset).min(len_max as u64);
        let mut part = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut part, offset)?;
        Ok((size, part))
    }

    /// Keeps an artifact whose bytes were verified.
    pub fn keep(&self, artifact: &ArtifactRef, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.file(&artifact.digest);
        service::files::publish(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Remembers the manifest as the last known good, and forgets artifacts that it does not name.
    pub fn remember(&self, signed: &SignedManifest, manifest: &Manifest) -> anyhow::Result<()> {
        let path = self.path.join(LAST_GOOD);
        service::files::publish(&path, &codec::encode(signed))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.keep_only([manifest])
    }

    /// Forgets artifacts that none of these manifests names.
    pub fn keep_only<'m>(&self, manifests: impl IntoIterator<Item = &'m Manifest>) -> anyhow::Result<()> {
        let named = manifests.into_iter().flat_map(|manifest| &manifest.artifacts);
        let named: HashSet<Digest> = named.map(|artifact| artifact.digest).collect();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            if digest.is_some_and(|digest| !named.contains(&digest)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The last known good manifest, its signature not checked yet.
    pub fn remembered(&self) -> anyhow::Result<Option<SignedManifest>> {
        let path = self.path.join(LAST_GOOD);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read_bounded(&path, MANIFEST_BYTES_MAX)?;
        Ok(Some(codec::decode(&bytes).with_context(|| format!("{} is damaged", path.display()))?))
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.path.join(digest.to_string())
    }
}

fn read_bounded(path: &Path, len_max: u64) -> anyhow::Result<Vec<u8>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(len_max + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(bytes.len() as u64 <= len_max, "{} has more than {len_max} bytes", path.display());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proto::Revision;
    use proto::bundle::ArtifactKind;

    use super::*;

    fn artifact(bytes: &[u8]) -> ArtifactRef {
        ArtifactRef { kind: ArtifactKind::Rules, digest: Digest::of(bytes), size: bytes.len() as u64 }
    }

    #[test]
    fn damaged_artifacts_are_not_read_and_forgotten_ones_are_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path().join("artifacts")).unwrap();
        let (kept, old) = (artifact(b"kept"), artifact(b"old"));
        folder.keep(&kept, b"kept").unwrap();
        folder.keep(&old, b"old").unwrap();
        assert_eq!(folder.read(&kept).unwrap(), b"kept");
        assert_eq!(folder.part(&kept.digest, 1, 2).unwrap(), (4, b"ep".to_vec()));

        std::fs::write(folder.file(&old.digest), b"odd").unwrap();
        assert!(!folder.has(&old));

        let manifest = Manifest {
            revision: Revision(1),
            published_at_ms: 0,
            expires_at_ms: 1,
            artifacts: vec![kept.clone()],
        };
        let signed = SignedManifest { manifest: codec::encode(&manifest), signature: vec![0; 64] };
        folder.remember(&signed, &manifest).unwrap();
        assert_eq!(folder.remembered().unwrap(), Some(signed));
        assert!(folder.has(&kept));
        assert!(!folder.file(&old.digest).exists());
    }
}
