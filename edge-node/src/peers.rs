//! The peers' door: nodes of this PoP, by mutual TLS. Raft's messages go to the store, artifacts come from the folder.

use std::sync::Arc;
use std::time::Duration;

use edge_store::Store;
use proto::limits::ARTIFACT_PART_BYTES;
use proto::peer::{PeerReply, PeerRequest};
use proto::{Code, Digest, ErrorReply, NodeId};
use tokio_util::sync::CancellationToken;
use transport::{Identity, Link, Listener, Stream};

use crate::bundles::Folder;

/// How long a peer may take to send a request it has begun.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// What peers may ask for.
pub struct Peers {
    /// The replicated truth.
    pub store: Store,
    /// The artifacts.
    pub folder: Folder,
}

impl Peers {
    /// Accepts peers until shutdown.
    pub async fn serve(self: Arc<Self>, listener: Arc<dyn Listener>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                link = listener.accept() => match link {
                    Some(link) => drop(tokio::spawn(self.clone().connection(link))),
                    None => break,
                }
            }
        }
        listener.shutdown().await;
    }

    async fn connection(self: Arc<Self>, link: Arc<dyn Link>) {
        // The door lets only nodes of this PoP in, so the certificate names one.
        let Some(Identity::Node { node, .. }) = link.remote().identity.clone() else { return };
        while let Ok(stream) = link.accept().await {
            tokio::spawn(self.clone().stream(node, stream));
        }
    }

    async fn stream(self: Arc<Self>, from: NodeId, mut stream: Stream) {
        let reply = match tokio::time::timeout(READ_WITHIN, stream.recv::<PeerRequest>()).await {
            Ok(Ok(PeerRequest::Artifact { digest, offset })) => self.artifact(digest, offset).await,
            Ok(Ok(request)) => self.store.handle(from, request).await,
            Ok(Err(error)) => PeerReply::Error(ErrorReply::from(&error)),
            Err(_) => return stream.reset(Code::DeadlineExceeded),
        };
        if stream.send(&reply).await.is_ok() {
            stream.finish();
        }
    }

    async fn artifact(&self, digest: Digest, offset: u64) -> PeerReply {
        let folder = self.folder.clone();
        let read =
            tokio::task::spawn_blocking(move || folder.part(&digest, offset, ARTIFACT_PART_BYTES)).await;
        match read {
            Ok(Ok((size, part))) => PeerReply::Artifact { size, part },
            _ => PeerReply::Error(ErrorReply::new(Code::NotFound, format!("artifact {digest} is not here"))),
        }
    }
}
