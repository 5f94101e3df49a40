//! The cloud as its callers see it: real QUIC with certificates of a CA of its own, real HTTP, a real database.
#![allow(clippy::unwrap_used, reason = "tests, and what helps them")]

mod api;
mod identities;
mod process;
mod uplink;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cloud::config::Config;
use cloud::server::Server;
use inference::{Signer, testing};
use proto::bundle::ArtifactKind;
use proto::control::{ArtifactStored, BundleView, EventCounts};
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{Event, EventId, EventKind, ItemId, NodeId, Offset, PopId, SlotId, TraceId, UserId, VisitorId};
use service::shutdown::Shutdown;
use transport::pki::{Authority, Credentials, Trust, Validity};
use transport::quic::{QuicDialer, Settings};
use transport::{Dialer, Link, Peer};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const TOKEN: &str = "a-token-for-tests-only";

/// A folder with a CA and the cloud's state.
pub(crate) struct Deployment {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Deployment {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(&folder.path().join("pki"), lifetime()).unwrap();
        authority.issue_cloud(&[], lifetime()).unwrap();
        Self { folder, authority }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.folder.path().join("cloud")
    }

    /// Variables that make the default settings fit for a test.
    pub(crate) fn variables(&self, extra: &[(&str, &str)]) -> Vec<(String, String)> {
        let pki = |name: &str| self.folder.path().join("pki").join(name).display().to_string();
        let mut variables = vec![
            ("CLOUD__DIR".to_owned(), self.dir().display().to_string()),
            ("CLOUD__TLS__CA".to_owned(), pki("ca.pem")),
            ("CLOUD__TLS__CERTIFICATE".to_owned(), pki("cloud.pem")),
            ("CLOUD__TLS__KEY".to_owned(), pki("cloud.key")),
            ("CLOUD__UPLINK__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("CLOUD__API__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("CLOUD__ADMIN__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        ];
        variables.extend(extra.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        variables
    }

    pub(crate) async fn start(&self) -> Cloud {
        self.start_with(&[]).await
    }

    pub(crate) async fn start_with(&self, extra: &[(&str, &str)]) -> Cloud {
        let config = Config::from_sources(None, self.variables(extra).into_iter()).unwrap();
        let shutdown = Shutdown::new();
        let server = Server::start(config, Some(TOKEN.to_owned()), shutdown.clone()).await.unwrap();
        Cloud { server, shutdown, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    pub(crate) fn trust(&self) -> Trust {
        self.authority.trust().unwrap()
    }

    pub(crate) fn node_credentials(&self, pop: &str, node: u64) -> Credentials {
        let pop = PopId::new(pop).unwrap();
        self.authority.issue_node(&pop, NodeId(node), &[], lifetime()).unwrap().credentials().unwrap()
    }

    /// A node's link to the cloud at `address`.
    pub(crate) async fn node(&self, address: &str, pop: &str, node: u64) -> Node {
        let credentials = self.node_credentials(pop, node);
        // A cloud that was killed says nothing: a short silence is enough here.
        let settings = Settings { keep_alive_ms: 200, idle_timeout_ms: 2_000, ..Settings::peers() };
        let dialer =
            QuicDialer::new(&self.trust(), Some(&credentials), proto::ALPN_UPLINK, &settings).unwrap();
        let link = dialer.dial(address, &Peer::Cloud, PATIENCE).await.unwrap();
        Node { link, _dialer: dialer }
    }
}

fn lifetime() -> Validity {
    Validity::starting_now(Duration::from_secs(3600))
}

/// A running cloud.
pub(crate) struct Cloud {
    pub(crate) server: Server,
    pub(crate) shutdown: Shutdown,
    pub(crate) http: reqwest::Client,
}

impl Cloud {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.server.join().await.unwrap();
    }

    pub(crate) fn uplink(&self) -> &str {
        &self.server.addresses.uplink
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.addresses.api)
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(self.url(path)).bearer_auth(TOKEN).send().await.unwrap()
    }

    /// What a path answers, which must be a success.
    pub(crate) async fn read<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let request = self.http.post(self.url(path)).bearer_auth(TOKEN);
        request.header("content-type", "application/json").body(body).send().await.unwrap()
    }

    pub(crate) async fn counts(&self) -> EventCounts {
        self.read("/v1/events/count").await
    }

    pub(crate) async fn upload(&self, files: &HashMap<ArtifactKind, Vec<u8>>) -> serde_json::Value {
        let mut artifacts = Vec::new();
        for (kind, bytes) in files {
            let kind = serde_json::to_value(kind).unwrap();
            let response =
                self.post(&format!("/v1/artifacts?kind={}", kind.as_str().unwrap()), bytes.clone()).await;
            assert_eq!(response.status(), 200);
            let stored: ArtifactStored = response.json().await.unwrap();
            assert_eq!(stored.size, bytes.len() as u64);
            artifacts.push(serde_json::json!({ "kind": kind, "digest": stored.digest, "size": stored.size }));
        }
        serde_json::json!({ "artifacts": artifacts, "note": "a test" })
    }

    pub(crate) async fn publish(&self, files: &HashMap<ArtifactKind, Vec<u8>>) -> BundleView {
        let bundle = self.upload(files).await;
        let response = self.post("/v1/bundles", bundle.to_string()).await;
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        response.json().await.unwrap()
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.server.addresses.admin);
        self.http.get(url).send().await.unwrap().text().await.unwrap()
    }
}

/// An edge node as the cloud sees it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) link: Arc<dyn Link>,
    _dialer: QuicDialer,
}

impl Node {
    pub(crate) async fn call(&self, request: UplinkRequest) -> UplinkReply {
        transport::call(&*self.link, &request, PATIENCE).await.unwrap()
    }

    pub(crate) async fn append(&self, first: u64, events: Vec<Event>) -> UplinkReply {
        self.call(UplinkRequest::Append { first: Offset(first), events }).await
    }

    /// Appends, which must be acknowledged.
    pub(crate) async fn acknowledged(&self, first: u64, events: Vec<Event>) -> u64 {
        match self.append(first, events).await {
            UplinkReply::Ack { upto, .. } => upto.0,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn position(&self) -> u64 {
        match self.call(UplinkRequest::Position).await {
            UplinkReply::Ack { upto, .. } => upto.0,
            other => panic!("{other:?}"),
        }
    }
}

/// Appends without a pause, 50 events a batch, from `upto` on, until the link is gone; returns the last acknowledged offset.
/// What is acknowledged meanwhile can be watched.
pub(crate) fn keep_appending(
    node: Node,
    mut upto: u64,
) -> (tokio::task::JoinHandle<u64>, tokio::sync::watch::Receiver<u64>) {
    let (progress, seen) = tokio::sync::watch::channel(upto);
    let sender = tokio::spawn(async move {
        loop {
            let request = UplinkRequest::Append { first: Offset(upto + 1), events: events(upto..upto + 50) };
            match transport::call(&*node.link, &request, PATIENCE).await {
                Ok(UplinkReply::Ack { upto: now, .. }) => upto = now.0,
                Ok(other) => panic!("{other:?}"),
                Err(_) => return upto,
            }
            progress.send_replace(upto);
        }
    });
    (sender, seen)
}

/// Event number `n`: the same number gives the same event.
pub(crate) fn event(n: u64) -> Event {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let at_ms = 1_760_000_000_000 + n;
    Event {
        id: EventId(uuid::Builder::from_unix_timestamp_millis(at_ms, &random).into_uuid()),
        visitor: VisitorId::User(UserId::new(format!("{}", n % 100)).unwrap()),
        at_ms,
        trace: TraceId(u128::from(n) + (1 << 100)),
        kind: EventKind::Click {
            item: ItemId::new(format!("i{}", n % 20)).unwrap(),
            slot: SlotId::new("home").unwrap(),
            answer: None,
        },
    }
}

pub(crate) fn events(numbers: std::ops::Range<u64>) -> Vec<Event> {
    numbers.map(event).collect()
}

/// Files that are fit to be published.
pub(crate) fn files(seed: u64) -> HashMap<ArtifactKind, Vec<u8>> {
    testing::bundle(&Signer::from_seed(&[7; 32]), 1, 20, seed).artifacts
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
