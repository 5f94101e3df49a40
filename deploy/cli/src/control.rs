//! A client of the cloud's control API, and of the nodes' admin ports.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use proto::bundle::{ArtifactKind, RuleSettings};
use proto::control::{
    AcceptLoss, ArtifactStored, BundleView, EndRollout, EnrolNode, EnrolmentToken, EraseVisitor, ErasureView,
    EventCounts, EventPage, LossAccepted, PopView, Problem, PublishBundle, RevokeNode, RevokedNode,
    RolloutView,
};
use proto::peer::MemberChange;
use proto::profile::Profile;
use proto::{NodeId, PopId, VisitorId};
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;

/// How long a call may take; publishing validates models, which takes a while on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);
/// How long a change of members may take: longer than a node gives it (120 s), so that it is the node that says why it failed.
const MEMBER_WITHIN: Duration = Duration::from_secs(130);
/// Where the control API is unless said otherwise.
pub const DEFAULT_API: &str = "http://127.0.0.1:7710";

/// A client of the control API.
#[derive(Clone)]
pub struct Control {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Control {
    /// A client of the API at `base`, for example `http://127.0.0.1:7710`.
    pub fn new(base: &str, token: String) -> anyhow::Result<Self> {
        // The API is on this machine or behind a proxy that the base names: never through a proxy of the environment.
        let http = reqwest::Client::builder().timeout(WITHIN).no_proxy().build()?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token })
    }

    /// The same, with the token from a file (mode 0600) or, where none is given, from `ROCKPOOL_ADMIN_TOKEN`.
    pub fn with_token_from(base: &str, file: Option<&Path>) -> anyhow::Result<Self> {
        let token = match file {
            Some(path) => service::secrets::read(path)?,
            None => std::env::var("ROCKPOOL_ADMIN_TOKEN").context(
                "give the admin token: --token-file FILE, or ROCKPOOL_ADMIN_TOKEN in the environment",
            )?,
        };
        Self::new(base, token)
    }

    /// All PoPs with their nodes.
    pub async fn pops(&self) -> anyhow::Result<Vec<PopView>> {
        self.get("/v1/pops").await
    }

    /// Events that are durable in the cloud.
    pub async fn event_counts(&self) -> anyhow::Result<EventCounts> {
        self.get("/v1/events/count").await
    }

    /// All bundles, newest first.
    pub async fn bundles(&self) -> anyhow::Result<Vec<BundleView>> {
        self.get("/v1/bundles").await
    }

    /// Stores one artifact.
    pub async fn store_artifact(&self, kind: ArtifactKind, bytes: Vec<u8>) -> anyhow::Result<ArtifactStored> {
        let kind = serde_json::to_value(kind)?;
        let url = format!("{}/v1/artifacts?kind={}", self.base, kind.as_str().unwrap_or_default());
        let request = self.http.post(url).header("content-type", "application/octet-stream").body(bytes);
        self.send(request).await
    }

    /// Publishes artifacts that were stored before.
    pub async fn publish(&self, bundle: &PublishBundle) -> anyhow::Result<BundleView> {
        self.send(self.http.post(format!("{}/v1/bundles", self.base)).json(bundle)).await
    }

    /// Publishes an older bundle's contents under a newer revision.
    pub async fn roll_back(&self, revision: u64) -> anyhow::Result<BundleView> {
        self.send(self.http.post(format!("{}/v1/bundles/{revision}/rollback", self.base))).await
    }

    /// Erases what is known of a visitor.
    pub async fn erase_visitor(&self, visitor: &VisitorId) -> anyhow::Result<ErasureView> {
        let asked = EraseVisitor { visitor: visitor.to_string() };
        self.send(self.http.post(format!("{}/v1/visitors/erase", self.base)).json(&asked)).await
    }

    /// How far the last erasure of a visitor has come.
    pub async fn erasure(&self, visitor: &VisitorId) -> anyhow::Result<ErasureView> {
        let request = self.http.get(format!("{}/v1/visitors/erasure", self.base));
        self.send(request.query(&[("visitor", visitor.to_string())])).await
    }

    /// A page of a visitor's events, or of all.
    pub async fn events_page(&self, after: u64, visitor: Option<&VisitorId>) -> anyhow::Result<EventPage> {
        let mut request = self.http.get(format!("{}/v1/events/export", self.base)).query(&[("after", after)]);
        if let Some(visitor) = visitor {
            request = request.query(&[("visitor", visitor.to_string())]);
        }
        self.send(request).await
    }

    /// What people decided of the rules in force.
    pub async fn rules(&self) -> anyhow::Result<RuleSettings> {
        self.get("/v1/rules").await
    }

    /// Publishes the present bundle with these rules.
    pub async fn set_rules(&self, rules: &RuleSettings, note: &str) -> anyhow::Result<BundleView> {
        let request = self.http.put(format!("{}/v1/rules", self.base)).query(&[("note", note)]);
        self.send(request.json(rules)).await
    }

    /// How far each bundle has come, newest first.
    pub async fn rollouts(&self) -> anyhow::Result<Vec<RolloutView>> {
        self.get("/v1/rollouts").await
    }

    /// Offers the bundle on trial to every PoP, before its verdict.
    pub async fn promote(&self, revision: u64, reason: &str) -> anyhow::Result<RolloutView> {
        self.end_rollout(revision, "promote", reason).await
    }

    /// Stops the bundle on trial.
    pub async fn stop_rollout(&self, revision: u64, reason: &str) -> anyhow::Result<RolloutView> {
        self.end_rollout(revision, "stop", reason).await
    }

    async fn end_rollout(&self, revision: u64, how: &str, reason: &str) -> anyhow::Result<RolloutView> {
        let url = format!("{}/v1/rollouts/{revision}/{how}", self.base);
        self.send(self.http.post(url).json(&EndRollout { reason: reason.to_owned() })).await
    }

    /// Makes a one-time token with which a node enrols.
    pub async fn enrolment_token(&self, node: &EnrolNode) -> anyhow::Result<EnrolmentToken> {
        self.send(self.http.post(format!("{}/v1/nodes/enrolments", self.base)).json(node)).await
    }

    /// Revokes a node, for ever.
    pub async fn revoke(&self, pop: &PopId, node: NodeId, asked: &RevokeNode) -> anyhow::Result<RevokedNode> {
        let url = format!("{}/v1/nodes/{pop}/{node}/revoke", self.base);
        self.send(self.http.post(url).json(asked)).await
    }

    /// Gives up what a cloud that was restored has lost of a PoP.
    pub async fn accept_loss(&self, pop: &PopId, asked: &AcceptLoss) -> anyhow::Result<LossAccepted> {
        self.send(self.http.post(format!("{}/v1/pops/{pop}/accept-loss", self.base)).json(asked)).await
    }

    /// Any other path, as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.send(self.http.get(format!("{}{path}", self.base))).await
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let reply = request.bearer_auth(&self.token).send().await;
        let reply =
            reply.with_context(|| format!("the cloud's control API at {} cannot be reached", self.base))?;
        Ok(checked(reply).await?.json().await?)
    }
}

/// A client of one node's admin port.
pub struct NodeAdmin {
    http: reqwest::Client,
    base: String,
}

impl NodeAdmin {
    /// The admin port at `address`, `host:port`.
    pub fn new(address: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(WITHIN).no_proxy().build()?;
        Ok(Self { http, base: format!("http://{address}") })
    }

    /// `Ok` where the node is ready; else why not.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let reply =
            self.http.get(format!("{}/readyz", self.base)).timeout(Duration::from_secs(2)).send().await?;
        anyhow::ensure!(reply.status().is_success(), "{}", reply.text().await?.trim());
        Ok(())
    }

    /// Its status, as JSON.
    pub async fn status<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        self.get("/v1/status").await
    }

    /// Any path, as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(checked(self.http.get(format!("{}{path}", self.base)).send().await?).await?.json().await?)
    }

    /// Its metrics, in Prometheus' text form.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.http.get(format!("{}/metrics", self.base)).send().await?.text().await?)
    }

    /// Changes the members.
    pub async fn member(&self, change: &MemberChange, token: &str) -> anyhow::Result<()> {
        let request = self.http.post(format!("{}/v1/members", self.base)).bearer_auth(token).json(change);
        checked(request.timeout(MEMBER_WITHIN).send().await?).await.map(drop)
    }

    /// What the node knows of a visitor.
    pub async fn profile(&self, visitor: &VisitorId, token: &str) -> anyhow::Result<Profile> {
        let request = self.http.get(format!("{}/v1/profile", self.base)).bearer_auth(token);
        let reply = request.query(&[("visitor", visitor.to_string())]).send().await?;
        Ok(checked(reply).await?.json().await?)
    }

    /// Hands leadership over, if this node leads.
    pub async fn transfer(&self, token: &str) -> anyhow::Result<()> {
        let request = self.http.post(format!("{}/v1/transfer", self.base)).bearer_auth(token);
        checked(request.send().await?).await.map(drop)
    }
}

async fn checked(reply: Response) -> anyhow::Result<Response> {
    let status = reply.status();
    if status.is_success() {
        return Ok(reply);
    }
    let text = reply.text().await.unwrap_or_default();
    match serde_json::from_str::<Problem>(&text) {
        Ok(problem) => anyhow::bail!("{} ({}): {}", problem.code, status, problem.detail),
        Err(_) => anyhow::bail!("{status}: {}", text.trim()),
    }
}
