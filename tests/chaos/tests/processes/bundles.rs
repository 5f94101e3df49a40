//! A cloud that lies. The node's uplink is turned to a cloud of the test, which has the deployment's certificate and key, and
//! hands out bundles that are corrupt, oversized, unsigned, expired or of the wrong shape: each is refused with a reason,
//! and the bundle that was good serves on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client_sdk::{EventKind, SlotRequest};
use inference::Signer;
use inference::testing::SignedBundle;
use proto::bundle::{ArtifactKind, SignedManifest};
use proto::client::ServedBy;
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{Code, Digest, ErrorReply, NodeId, Offset, Revision, codec};
use rockpool::local::{Deployment, Overrides};
use serde::Deserialize;
use tokio::sync::watch;
use transport::pki::{Credentials, Trust};
use transport::quic::{QuicListener, Settings};
use transport::{Door, Link, Listener, Stream};

use crate::support::{Pop, READY, tiny_bundle, visitors};

/// What the lying cloud hands out.
#[derive(Clone, Default)]
struct Published {
    revision: u64,
    signed: Option<SignedManifest>,
    files: HashMap<Digest, Vec<u8>>,
}

struct LyingCloud {
    published: Arc<Mutex<Published>>,
    newest: watch::Sender<u64>,
    address: String,
}

impl LyingCloud {
    fn start(pki: &std::path::Path) -> Self {
        let credentials = Credentials::read(&pki.join("cloud.pem"), &pki.join("cloud.key")).unwrap();
        let trust = Trust::read(&pki.join("ca.pem")).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let listener =
            QuicListener::bind(any, Door::Uplink, &credentials, &trust, &Settings::peers()).unwrap();
        let address = listener.local_address();
        let (published, newest) = (Arc::new(Mutex::new(Published::default())), watch::Sender::new(0));
        let (shared, notices) = (published.clone(), newest.clone());
        tokio::spawn(async move {
            while let Some(link) = listener.accept().await {
                tokio::spawn(serve(link, shared.clone(), notices.clone()));
            }
        });
        Self { published, newest, address }
    }

    fn publish(&self, published: Published) {
        let revision = published.revision;
        *self.published.lock().unwrap() = published;
        self.newest.send_replace(revision);
    }
}

async fn serve(link: Arc<dyn Link>, published: Arc<Mutex<Published>>, newest: watch::Sender<u64>) {
    while let Ok(stream) = link.accept().await {
        tokio::spawn(answer(stream, published.clone(), newest.subscribe()));
    }
}

async fn answer(mut stream: Stream, published: Arc<Mutex<Published>>, mut newest: watch::Receiver<u64>) {
    let Ok(request) = stream.recv::<UplinkRequest>().await else { return };
    let now = published.lock().unwrap().clone();
    let ack = |upto| UplinkReply::Ack { upto, control_revision: Revision(now.revision) };
    let reply = match request {
        UplinkRequest::Subscribe => loop {
            let revision = *newest.borrow_and_update();
            if stream.send(&UplinkReply::Newer(Revision(revision))).await.is_err()
                || newest.changed().await.is_err()
            {
                return;
            }
        },
        UplinkRequest::Position => ack(Offset(0)),
        UplinkRequest::Append { first, events } => ack(Offset(first.0 + events.len() as u64 - 1)),
        UplinkRequest::Manifest => UplinkReply::Manifest(now.signed),
        UplinkRequest::Artifact { digest, offset } => match now.files.get(&digest) {
            Some(bytes) => {
                let part =
                    bytes[(offset as usize).min(bytes.len())..].iter().copied().take(300_000).collect();
                UplinkReply::Artifact { size: bytes.len() as u64, part }
            }
            None => UplinkReply::Error(ErrorReply::new(Code::NotFound, "no such artifact")),
        },
        UplinkRequest::Report(_) | UplinkRequest::Standing(_) => UplinkReply::Noted,
        UplinkRequest::Revoked { .. } => UplinkReply::Revoked(Vec::new()),
        UplinkRequest::Erasures { .. } => UplinkReply::Erasures(Vec::new()),
        UplinkRequest::Renew(_) => UplinkReply::Error(proto::ErrorReply::new(
            proto::Code::NotReady,
            "this cloud issues no certificates",
        )),
    };
    if stream.send(&reply).await.is_ok() {
        stream.finish();
    }
}

/// Publishes a bundle as it is, after something was done to its files and its manifest.
fn honest(bundle: &SignedBundle) -> Published {
    let mut files = HashMap::new();
    for artifact in &bundle.manifest.artifacts {
        files.insert(artifact.digest, bundle.artifact(artifact.kind).unwrap());
    }
    Published { revision: bundle.manifest.revision.0, signed: Some(bundle.signed.clone()), files }
}

/// A bundle whose file of one kind is replaced, signed as it should be.
fn with_file(signer: &Signer, revision: u64, kind: ArtifactKind, bytes: Vec<u8>) -> Published {
    let good = tiny_bundle(signer, revision);
    let mut files: HashMap<ArtifactKind, Vec<u8>> = good
        .manifest
        .artifacts
        .iter()
        .map(|artifact| (artifact.kind, good.artifact(artifact.kind).unwrap()))
        .collect();
    files.insert(kind, bytes);
    honest(&SignedBundle::new(signer, revision, files))
}

#[derive(Debug, Deserialize)]
struct Status {
    revision: u64,
    bundle_error: Option<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bundles_are_refused_and_the_old_one_serves() {
    let signer = Signer::from_seed(&[1; 32]);
    // The folder's keys are needed before the node starts, so the deployment starts once without nodes.
    let mut pop = Pop::start(0, Overrides::default()).await;
    let cloud = LyingCloud::start(&pop.deployment.dir().join("pki"));
    pop.deployment.override_node("uplink.cloud", cloud.address.clone().into());
    pop.deployment.override_node("bundles.trusted_keys", vec![signer.public_key().to_string()].into());
    pop.deployment.found_node(NodeId(1)).unwrap();
    cloud.publish(honest(&tiny_bundle(&signer, 1)));
    pop.deployment.until_ready(READY).await.unwrap();

    let (client, visitor) = (pop.client().await, visitors(1).remove(0));
    let kind = EventKind::Rating { item: "i1".parse().unwrap(), stars: 5.0 };
    client.track(&visitor, kind).await.unwrap();
    client.flush(READY).await.unwrap();
    for (number, (name, published)) in (2..).zip(lies(&signer)) {
        assert_eq!(published.revision, number, "{name}");
        cloud.publish(published);
        refused(&pop.deployment, name, number).await;
        let answer =
            client.recommend(SlotRequest::new(visitor.clone(), "home".parse().unwrap())).await.unwrap();
        assert_eq!((answer.served_by, answer.revision), (ServedBy::Ranked, Revision(1)), "{name}");
    }
    let good = 100;
    cloud.publish(honest(&tiny_bundle(&signer, good)));
    pop.deployment
        .until("a good bundle is taken again", READY, async |this: &Deployment| {
            let status: Status = this.admin(NodeId(1))?.status().await?;
            anyhow::ensure!(status.revision == good && status.bundle_error.is_none(), "{status:?}");
            Ok(())
        })
        .await
        .unwrap();
}

/// One of each kind, with revisions from 2.
fn lies(signer: &Signer) -> Vec<(&'static str, Published)> {
    let good = tiny_bundle(signer, 1);
    let onnx = good.artifact(ArtifactKind::RetrievalModel).unwrap();
    let mut lies = Vec::new();
    let mut revision = 1;
    let mut next = || {
        revision += 1;
        revision
    };

    let mut unsigned = honest(&tiny_bundle(signer, next()));
    unsigned.signed.as_mut().unwrap().signature = vec![0; 64];
    lies.push(("unsigned", unsigned));
    lies.push(("signed by another", honest(&tiny_bundle(&Signer::from_seed(&[2; 32]), next()))));

    let mut corrupt = honest(&tiny_bundle(signer, next()));
    corrupt.files.values_mut().for_each(|bytes| *bytes.last_mut().unwrap() ^= 1);
    // The files that the node has already are good; a new one is needed for it to ask.
    let mut other = onnx.clone();
    other.push(0);
    let wanted = with_file(signer, corrupt.revision, ArtifactKind::RetrievalModel, other);
    corrupt.signed = wanted.signed;
    corrupt.files.extend(wanted.files.into_iter().map(|(digest, mut bytes)| {
        bytes[0] ^= 1;
        (digest, bytes)
    }));
    lies.push(("corrupt", corrupt));

    let mut oversized = tiny_bundle(signer, next()).manifest;
    oversized.artifacts.iter_mut().for_each(|artifact| artifact.size = u64::MAX);
    oversized
        .artifacts
        .iter_mut()
        .for_each(|artifact| artifact.digest = Digest::of(&artifact.size.to_be_bytes()));
    let signed = Some(signer.sign(&oversized));
    lies.push(("oversized", Published { revision: oversized.revision.0, signed, files: HashMap::new() }));

    let mut expired = tiny_bundle(signer, next()).manifest;
    expired.expires_at_ms = 2;
    let signed = Some(signer.sign(&expired));
    lies.push(("expired", Published { revision: expired.revision.0, signed, ..honest(&good) }));

    let truncated = onnx[..onnx.len() / 2].to_vec();
    lies.push(("truncated model", with_file(signer, next(), ArtifactKind::RetrievalModel, truncated)));
    let ranker = good.artifact(ArtifactKind::RankerModel).unwrap();
    lies.push(("wrong-shape model", with_file(signer, next(), ArtifactKind::RetrievalModel, ranker)));
    lies.push(("random model", with_file(signer, next(), ArtifactKind::RankerModel, vec![0x5a; 4096])));
    lies.push((
        "catalog that is not JSON",
        with_file(signer, next(), ArtifactKind::Catalog, b"[[[[".to_vec()),
    ));

    let mut garbage = honest(&tiny_bundle(signer, next()));
    garbage.signed = Some(SignedManifest { manifest: vec![0xff; 100], signature: vec![1; 64] });
    lies.push(("manifest that is none", garbage));

    // Announced as newer, but the manifest says an older number.
    let mut replayed = honest(&tiny_bundle(signer, 1));
    replayed.revision = next();
    lies.push(("replayed", replayed));
    assert!(lies.iter().all(|(_, lie)| {
        codec::decode::<SignedManifest>(&codec::encode(lie.signed.as_ref().unwrap())).is_ok()
    }));
    lies
}

async fn refused(deployment: &Deployment, name: &str, revision: u64) {
    let reason = format!("bundle {revision} is refused");
    deployment
        .until(
            &format!("{name}: the bundle is refused"),
            Duration::from_secs(20),
            async |this: &Deployment| {
                let status: Status = this.admin(NodeId(1))?.status().await?;
                assert_eq!(status.revision, 1, "{name}: the old bundle serves on");
                let error = status.bundle_error.unwrap_or_default();
                anyhow::ensure!(error.starts_with(&reason) && error.len() > reason.len() + 5, "{error:?}");
                Ok(())
            },
        )
        .await
        .unwrap();
    deployment.admin(NodeId(1)).unwrap().ready().await.unwrap();
}
