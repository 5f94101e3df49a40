//! The admin port: metrics, health, status for people and tools, and changes of membership with the admin token.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use edge_store::{Store, StoreError};
use edge_uplink::{CloudLink, Report};
use proto::control::{ContentPurged, Membership, PurgeContent};
use proto::peer::MemberChange;
use proto::profile::Profile;
use proto::{Code, ErrorReply, IdError, VisitorId};
use serde::{Deserialize, Serialize};
use service::http::{Body, Query, Refusal};

use crate::purge::Purger;

/// What the admin port needs.
pub struct Admin {
    /// The replicated truth.
    pub store: Store,
    /// Makes content void.
    pub purger: Purger,
    /// The way to the cloud.
    pub cloud: CloudLink,
    /// How the node is.
    pub report: Report,
    /// Who may change members.
    pub token: String,
}

/// A node's status, at `GET /v1/status`.
#[derive(Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// What it reports to the cloud.
    #[serde(flatten)]
    pub report: proto::control::NodeReport,
    /// Its place in its PoP, as far as it knows.
    #[serde(default)]
    pub membership: Membership,
    /// Who leads, as far as this node knows.
    pub leader: Option<proto::NodeId>,
    /// Members with their peer addresses.
    pub members: Vec<MemberView>,
    /// Last event offset, and what the cloud has of it.
    pub last_offset: proto::Offset,
    /// The cloud holds everything up to here.
    pub acknowledged: proto::Offset,
    /// Why this node, as the PoP's leader, sends no events, if cloud and PoP contradict each other.
    #[serde(default)]
    pub diverged: Option<String>,
}

/// A member of the PoP.
#[derive(Debug, Serialize, Deserialize)]
pub struct MemberView {
    /// Its id.
    pub node: proto::NodeId,
    /// Its peer address.
    pub address: String,
    /// Whether it votes; a learner is still catching up.
    pub voter: bool,
}

/// The replicated state's digest, at `GET /v1/digest`: equal on nodes that have applied the same index.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// Log index.
    pub index: u64,
    /// SHA-256 over the whole keyspace.
    pub digest: proto::Digest,
}

/// `/v1/status`, `/v1/digest`; with the token: `POST /v1/members` (a [`MemberChange`] as JSON), `POST /v1/transfer` (leadership goes
/// to another node, if this one has it), `POST /v1/purge` (a [`PurgeContent`]), and `GET /v1/profile?visitor=u:<user>` (what this
/// PoP knows of a visitor; `d:<device>` for a device).
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/digest", get(digest))
        .route("/v1/members", post(member))
        .route("/v1/transfer", post(transfer))
        .route("/v1/purge", post(purge))
        .route("/v1/profile", get(profile))
        .with_state(Arc::new(admin))
}

async fn status(State(admin): State<Arc<Admin>>) -> Json<NodeStatus> {
    let status = admin.store.status();
    let member = |m: edge_store::Member| MemberView { node: m.node, address: m.address, voter: m.voter };
    Json(NodeStatus {
        report: (admin.report)(),
        membership: admin.store.membership(),
        leader: status.leader,
        members: status.members.into_iter().map(member).collect(),
        last_offset: status.last_offset,
        acknowledged: status.acknowledged,
        diverged: admin.cloud.diverged(),
    })
}

async fn digest(State(admin): State<Arc<Admin>>) -> Result<Json<StateDigest>, Refusal> {
    let (index, digest) = admin.store.digest().await.map_err(ErrorReply::from)?;
    Ok(Json(StateDigest { index, digest }))
}

async fn member(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    Body(change): Body<MemberChange>,
) -> Result<StatusCode, Refusal> {
    admin.authorize(&headers)?;
    tracing::info!(target: "audit", ?change, "an admin changes the members");
    admin.store.member(change).await.map_err(ErrorReply::from)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn transfer(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Result<StatusCode, Refusal> {
    admin.authorize(&headers)?;
    tracing::info!(target: "audit", "an admin hands leadership over");
    match admin.store.transfer_leadership().await {
        // It does not lead, which is what was asked for.
        Ok(()) | Err(StoreError::NotLeader(Some(_))) => {}
        Err(error) => return Err(ErrorReply::from(error).into()),
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn purge(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    Body(asked): Body<PurgeContent>,
) -> Result<Json<ContentPurged>, Refusal> {
    admin.authorize(&headers)?;
    tracing::info!(target: "audit", ?asked, "an admin purges content");
    Ok(Json(admin.purger.purge(&asked).await?))
}

/// Whose profile.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whose {
    visitor: String,
}

/// All that this node knows of a visitor; a follower may be a moment behind.
async fn profile(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    Query(Whose { visitor }): Query<Whose>,
) -> Result<Json<Profile>, Refusal> {
    admin.authorize(&headers)?;
    let visitor: VisitorId =
        visitor.parse().map_err(|error: IdError| ErrorReply::new(Code::Invalid, error.to_string()))?;
    tracing::info!(target: "audit", "an admin reads what is known of a visitor");
    Ok(Json(admin.store.view(&visitor).profile))
}

impl Admin {
    fn authorize(&self, headers: &HeaderMap) -> Result<(), ErrorReply> {
        let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = presented.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if service::secrets::equal(token.as_bytes(), self.token.as_bytes()) {
            Ok(())
        } else {
            Err(ErrorReply::new(
                Code::Unauthenticated,
                "send the node's admin token as `Authorization: Bearer …`",
            ))
        }
    }
}
