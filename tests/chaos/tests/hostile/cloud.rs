//! A cloud that lies: it hands out what it is told to, over the uplink protocol.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proto::bundle::SignedManifest;
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{Code, Digest, ErrorReply, Offset, Revision};
use tokio::sync::watch;
use transport::memory::Network;
use transport::{Door, Identity, Link, Listener, Stream};

pub const ADDRESS: &str = "cloud:1";

/// A file as the cloud hands it out.
#[derive(Debug, Clone)]
pub struct File {
    pub bytes: Arc<Vec<u8>>,
    /// The length it claims.
    pub size: u64,
    /// How much it sends at once.
    pub part: usize,
}

impl File {
    pub fn honest(bytes: Vec<u8>) -> Self {
        Self { size: bytes.len() as u64, bytes: Arc::new(bytes), part: proto::limits::ARTIFACT_PART_BYTES }
    }
}

/// What the cloud hands out.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// The revision it announces, whatever the manifest says.
    pub announced: u64,
    pub signed: Option<SignedManifest>,
    pub files: HashMap<Digest, File>,
}

#[derive(Clone)]
pub struct Cloud {
    published: Arc<Mutex<Published>>,
    newest: watch::Sender<u64>,
}

impl Cloud {
    pub fn start(network: &Network) -> Self {
        let listener = network.listener(ADDRESS, Identity::Cloud, Door::Uplink).unwrap();
        let cloud = Self { published: Arc::default(), newest: watch::Sender::new(0) };
        let serving = cloud.clone();
        tokio::spawn(async move {
            while let Some(link) = listener.accept().await {
                tokio::spawn(serving.clone().serve(link));
            }
        });
        cloud
    }

    pub fn publish(&self, published: Published) {
        let announced = published.announced;
        *self.published.lock().unwrap() = published;
        self.newest.send_replace(announced);
    }

    async fn serve(self, link: Arc<dyn Link>) {
        while let Ok(stream) = link.accept().await {
            tokio::spawn(self.clone().answer(stream));
        }
    }

    async fn answer(self, mut stream: Stream) {
        let Ok(request) = stream.recv::<UplinkRequest>().await else { return };
        if request == UplinkRequest::Subscribe {
            return self.push(stream).await;
        }
        let now = self.published.lock().unwrap().clone();
        let ack = |upto| UplinkReply::Ack { upto, control_revision: Revision(now.announced) };
        let reply = match request {
            UplinkRequest::Position => ack(Offset(0)),
            UplinkRequest::Append { first, events } => ack(Offset(first.0 + events.len() as u64 - 1)),
            UplinkRequest::Manifest => UplinkReply::Manifest(now.signed),
            UplinkRequest::Artifact { digest, offset } => artifact(now.files.get(&digest), offset),
            UplinkRequest::Report(_) | UplinkRequest::Standing(_) => UplinkReply::Noted,
            UplinkRequest::Revoked { .. } => UplinkReply::Revoked(Vec::new()),
            UplinkRequest::Erasures { .. } => UplinkReply::Erasures(Vec::new()),
            UplinkRequest::Renew(_) | UplinkRequest::Subscribe => {
                UplinkReply::Error(ErrorReply::new(Code::NotReady, "not here"))
            }
        };
        if stream.send(&reply).await.is_ok() {
            stream.finish();
        }
    }

    /// Says at every change that there is something newer; and first, that all there is is the first bundle.
    async fn push(self, mut stream: Stream) {
        let mut newest = self.newest.subscribe();
        loop {
            let announced = *newest.borrow_and_update();
            for revision in [announced.min(1), announced] {
                if stream.send(&UplinkReply::Newer(Revision(revision))).await.is_err() {
                    return;
                }
            }
            if newest.changed().await.is_err() {
                return;
            }
        }
    }
}

fn artifact(file: Option<&File>, offset: u64) -> UplinkReply {
    let Some(file) = file else {
        return UplinkReply::Error(ErrorReply::new(Code::NotFound, "no such artifact"));
    };
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.bytes.len());
    let to = (from + file.part).min(file.bytes.len());
    UplinkReply::Artifact { size: file.size, part: file.bytes[from..to].to_vec() }
}
