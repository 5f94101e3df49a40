//! Makes a bundle of a data set and trained models, and publishes it.

use std::path::Path;

use anyhow::Context as _;
use dataset::Dataset;
use proto::bundle::{ArtifactKind, ArtifactRef};
use proto::control::{BundleView, PublishBundle};

use crate::control::Control;

/// The files of a models folder.
const MODEL_FILES: [(ArtifactKind, &str); 4] = [
    (ArtifactKind::RetrievalModel, "retrieval.onnx"),
    (ArtifactKind::RetrievalCard, "retrieval.card.json"),
    (ArtifactKind::RankerModel, "ranker.onnx"),
    (ArtifactKind::RankerCard, "ranker.card.json"),
];

/// The artifacts of a bundle: catalog and rules of the data set, and the models in `models`.
pub fn artifacts(data: &Dataset, models: &Path) -> anyhow::Result<Vec<(ArtifactKind, Vec<u8>)>> {
    let mut artifacts = vec![
        (ArtifactKind::Catalog, serde_json::to_vec(&data.catalog())?),
        (ArtifactKind::Rules, serde_json::to_vec(&dataset::popularity::rules(data))?),
    ];
    for (kind, name) in MODEL_FILES {
        let path = models.join(name);
        let bytes = std::fs::read(&path)
            .with_context(|| format!("cannot read {}; `rockpool train` makes the models", path.display()))?;
        artifacts.push((kind, bytes));
    }
    Ok(artifacts)
}

/// Stores the artifacts and publishes them as one bundle.
pub async fn publish(
    control: &Control,
    artifacts: Vec<(ArtifactKind, Vec<u8>)>,
    note: &str,
) -> anyhow::Result<BundleView> {
    let mut stored = Vec::with_capacity(artifacts.len());
    for (kind, bytes) in artifacts {
        let artifact = control.store_artifact(kind, bytes).await?;
        stored.push(ArtifactRef { kind, digest: artifact.digest, size: artifact.size });
    }
    control.publish(&PublishBundle { artifacts: stored, note: note.to_owned() }).await
}
