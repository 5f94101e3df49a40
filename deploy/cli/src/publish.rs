//! Makes a bundle of a data set and trained models, and publishes it.

use std::path::Path;

use anyhow::Context as _;
use dataset::{Dataset, Source};
use proto::bundle::{ArtifactKind, ArtifactRef, RuleSettings, Rules};
use proto::control::{BundleView, PublishBundle};

use crate::commands::say;
use crate::control::Control;
use crate::table::thousands;

/// The models of a folder: each one's file and its card.
const MODELS: [[(ArtifactKind, &str); 2]; 2] = [
    [(ArtifactKind::RetrievalModel, "retrieval.onnx"), (ArtifactKind::RetrievalCard, "retrieval.card.json")],
    [(ArtifactKind::RankerModel, "ranker.onnx"), (ArtifactKind::RankerCard, "ranker.card.json")],
];

/// In place of a models folder: publish catalog and rules alone.
pub const NO_MODELS: &str = "none";

/// The artifacts of a bundle: catalog and rules of the data set, and the models in `models`: both, or the one that there is.
/// What people decide of the rules has its defaults; [`decided`] changes that. Whether the models belong to the catalog is checked by the cloud, as by every node.
///
/// # Errors
/// Where the folder has no model (and is not [`NO_MODELS`]), or a model without its card.
pub fn artifacts(data: &Dataset, models: &Path) -> anyhow::Result<Vec<(ArtifactKind, Vec<u8>)>> {
    let mut artifacts = vec![
        (ArtifactKind::Catalog, serde_json::to_vec(&data.catalog())?),
        (ArtifactKind::Rules, serde_json::to_vec(&dataset::popularity::rules(data))?),
    ];
    if models == Path::new(NO_MODELS) {
        return Ok(artifacts);
    }
    let without_models = artifacts.len();
    for files in MODELS {
        let there = files.map(|(_, name)| models.join(name)).map(|path| path.exists());
        anyhow::ensure!(
            there[0] == there[1],
            "{} has only one of {} and {}; `rockpool train --out {}` writes both",
            models.display(),
            files[0].1,
            files[1].1,
            models.display()
        );
        for (kind, name) in files.into_iter().filter(|_| there[0]) {
            let path = models.join(name);
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            artifacts.push((kind, bytes));
        }
    }
    anyhow::ensure!(
        artifacts.len() > without_models,
        "there is no model in {}: `rockpool train --out {}` makes them, `--models {NO_MODELS}` does without",
        models.display(),
        models.display()
    );
    Ok(artifacts)
}

/// What a bundle is made of, in a few words: `1,682 items, retrieval-20261122-1a2b3c4d, no ranker`.
pub fn contents(data: &Dataset, artifacts: &[(ArtifactKind, Vec<u8>)]) -> anyhow::Result<String> {
    #[derive(serde::Deserialize)]
    struct Card {
        version: String,
    }
    let mut said = vec![format!("{} items", thousands(data.items.len() as u64))];
    for (kind, missing) in
        [(ArtifactKind::RetrievalCard, "no retrieval model"), (ArtifactKind::RankerCard, "no ranker")]
    {
        let card = artifacts.iter().find(|(of, _)| *of == kind);
        said.push(match card {
            Some((_, card)) => {
                serde_json::from_slice::<Card>(card).context("a model's card is wrong")?.version
            }
            None => missing.to_owned(),
        });
    }
    Ok(said.join(", "))
}

/// Reads a data set, and shows the same report as `rockpool train`.
pub fn read(source: &Source) -> anyhow::Result<Dataset> {
    let fetched =
        if source.data == dataset::ML_100K { " (`python3 deploy/fetch.py` fetches it)" } else { "" };
    let data = source.read().with_context(|| format!("cannot read the data set {}{fetched}", source.data))?;
    data.reports.iter().flat_map(dataset::FileReport::lines).for_each(|line| say(&line));
    Ok(data)
}

/// Puts what people decided into the rules among the artifacts.
pub fn decided(artifacts: &mut [(ArtifactKind, Vec<u8>)], settings: RuleSettings) -> anyhow::Result<()> {
    for (_, bytes) in artifacts.iter_mut().filter(|(kind, _)| *kind == ArtifactKind::Rules) {
        *bytes = serde_json::to_vec(&serde_json::from_slice::<Rules>(bytes)?.with(settings.clone()))?;
    }
    Ok(())
}

/// What people decided of the rules in force, so that a new bundle does not lift a block list. None: nothing was published yet.
pub async fn rules_in_force(control: &Control) -> anyhow::Result<Option<RuleSettings>> {
    if control.bundles().await?.is_empty() {
        return Ok(None);
    }
    control.rules().await.map(Some)
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
