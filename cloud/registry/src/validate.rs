//! The dry run: a bundle is opened as an edge will open it.

use std::cell::RefCell;
use std::fmt;

use cloud_storage::Storage;
use inference::{Bundle, BundleError, Engine};
use proto::bundle::Manifest;

use crate::error::RegistryError;

/// The versions of a bundle's models, for logs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Models {
    items: usize,
    retrieval: Option<String>,
    ranker: Option<String>,
}

impl fmt::Display for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = || "none".to_owned();
        write!(
            f,
            "{} items, retrieval {}, ranker {}",
            self.items,
            self.retrieval.clone().unwrap_or_else(none),
            self.ranker.clone().unwrap_or_else(none)
        )
    }
}

/// Everything that can be said without reading an artifact.
pub(crate) async fn check_stored(storage: &Storage, manifest: &Manifest) -> Result<(), RegistryError> {
    inference::bundle::check_manifest(manifest).map_err(refused("manifest"))?;
    for artifact in &manifest.artifacts {
        let (kind, digest, said) = (artifact.kind, artifact.digest, artifact.size);
        match storage.artifact_size(digest).await? {
            None => return Err(RegistryError::NotUploaded { kind, digest }),
            Some(stored) if stored != said => {
                return Err(RegistryError::WrongSize { kind, digest, stored, said });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Opens the bundle in every engine. Takes as long as that takes: not for an async worker.
pub(crate) fn open(
    storage: &Storage,
    manifest: &Manifest,
    engines: &[Engine],
) -> Result<Models, RegistryError> {
    let mut models = Models::default();
    for engine in engines {
        let broken = RefCell::new(None);
        let artifact = |kind| {
            let digest = manifest.artifact(kind)?.digest;
            let read = storage.artifacts().read_blocking(digest);
            read.map_err(|error| broken.replace(Some(error))).ok()
        };
        let opened = Bundle::open(manifest.clone(), artifact, engine);
        // What could not be read looks like a missing artifact to `open`; the reason is here.
        if let Some(error) = broken.take() {
            return Err(error.into());
        }
        let bundle = opened.map_err(refused(engine.kind().as_str()))?;
        models = Models {
            items: bundle.catalog.items().len(),
            retrieval: bundle.retrieval.map(|stage| stage.model.card().version.to_string()),
            ranker: bundle.ranker.map(|stage| stage.model.card().version.to_string()),
        };
    }
    Ok(models)
}

fn refused(engine: &str) -> impl FnOnce(BundleError) -> RegistryError {
    let engine = engine.to_owned();
    move |error| RegistryError::Refused { engine, error }
}
