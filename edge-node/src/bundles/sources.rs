//! Where a node gets an artifact: its own folder, else the cloud, else a peer that has it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use edge_store::Store;
use edge_uplink::CloudLink;
use proto::bundle::ArtifactRef;
use proto::limits::ARTIFACT_BYTES_MAX;
use proto::peer::{PeerReply, PeerRequest};
use proto::{NodeId, PopId};
use transport::{Dialer, Link, Peer};

use super::Folder;

/// How long a peer may take to connect, or to send one part.
const PEER_WITHIN: Duration = Duration::from_secs(5);

/// Where a node gets an artifact.
pub struct Sources {
    /// Its own folder.
    pub folder: Folder,
    /// The cloud.
    pub cloud: CloudLink,
    /// Who the peers are.
    pub store: Store,
    /// How they are reached.
    pub dialer: Arc<dyn Dialer>,
    /// Whose PoP this is.
    pub pop: PopId,
    /// Who this node is.
    pub node: NodeId,
}

impl Sources {
    /// Makes sure that the artifact is in the folder, whole.
    pub async fn fetch(&self, artifact: &ArtifactRef) -> anyhow::Result<()> {
        let (folder, wanted) = (self.folder.clone(), artifact.clone());
        if tokio::task::spawn_blocking(move || folder.has(&wanted)).await? {
            return Ok(());
        }
        let bytes = match self.cloud.artifact(artifact).await {
            Ok(bytes) => bytes,
            Err(cloud) => {
                self.of_peers(artifact).await.with_context(|| format!("nor from the cloud ({cloud})"))?
            }
        };
        inference::verify_artifact(artifact, &bytes)?;
        let (folder, wanted) = (self.folder.clone(), artifact.clone());
        tokio::task::spawn_blocking(move || folder.keep(&wanted, &bytes)).await?
    }

    async fn of_peers(&self, artifact: &ArtifactRef) -> anyhow::Result<Vec<u8>> {
        for member in self.store.members().into_iter().filter(|member| member.node != self.node) {
            let expect = Peer::Node { pop: self.pop.clone(), node: member.node };
            let Ok(link) = self.dialer.dial(&member.address, &expect, PEER_WITHIN).await else { continue };
            match from_peer(&*link, artifact).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => {
                    tracing::debug!(peer = %member.node, error = format!("{error:#}"), "no artifact there")
                }
            }
        }
        anyhow::bail!("artifact {} of {:?} cannot be had from any peer", artifact.digest, artifact.kind)
    }
}

async fn from_peer(link: &dyn Link, artifact: &ArtifactRef) -> anyhow::Result<Vec<u8>> {
    anyhow::ensure!(artifact.size <= ARTIFACT_BYTES_MAX, "{} bytes are more than allowed", artifact.size);
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < artifact.size {
        let request = PeerRequest::Artifact { digest: artifact.digest, offset: bytes.len() as u64 };
        match transport::call(link, &request, PEER_WITHIN).await? {
            PeerReply::Artifact { size, part }
                if size == artifact.size && !part.is_empty() && bytes.len() + part.len() <= size as usize =>
            {
                bytes.extend_from_slice(&part);
            }
            PeerReply::Error(reply) => anyhow::bail!(reply),
            _ => anyhow::bail!("the peer answered with something else"),
        }
    }
    inference::verify_artifact(artifact, &bytes)?;
    Ok(bytes)
}
