//! Who may be a node: makes one-time tokens, enrols nodes with them, renews certificates, revokes.
//!
//! The issuing key stays here; nodes' keys stay with the nodes. A certificate holds for hours, so that what must be revoked
//! at once is one short list: it comes before everything that is signed, and a link whose node is put on it is closed at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cloud_storage::{Change, EnrolError, Enrolment, Storage, StorageError};
use proto::control::{EnrolNode, EnrolmentToken, RevokeNode, RevokedNode};
use proto::enrol::EnrolRequest;
use proto::limits::{SIGNING_REQUEST_BYTES_MAX, TOKEN_BYTES_MAX};
use proto::{Code, Digest, ErrorReply, NodeId, PopId};
use service::secrets;
use transport::Identity;
use transport::pki::{Issuer, PkiError, Revoked, check_names};

use crate::metrics::IdentityMetrics;

/// How long a token holds if it is not said, in seconds.
const TOKEN_LIFETIME_S: u64 = 60 * 60;
/// How long it may hold at the most, in seconds: a week.
const TOKEN_LIFETIME_S_MAX: u64 = 7 * 24 * 60 * 60;
/// Nodes that are remembered to have connected.
const MET_LEN_MAX: usize = 100_000;
/// Longest reason of a revocation, in bytes.
const REASON_BYTES_MAX: usize = 1_024;

/// What issues certificates, and for how long they hold.
#[derive(Debug)]
pub struct Issuing {
    /// Signs them.
    pub issuer: Issuer,
    /// How long each holds.
    pub lifetime: Duration,
}

/// Who may be a node. Clones are the same.
#[derive(Debug, Clone)]
pub struct Identities {
    storage: Storage,
    issuing: Option<Arc<Issuing>>,
    revoked: Revoked,
    /// Revoked nodes by PoP, as the nodes of that PoP are told.
    lists: Arc<RwLock<BTreeMap<PopId, Vec<NodeId>>>>,
    /// Who has connected since the start: a node need not have reported yet.
    met: Arc<RwLock<BTreeSet<(PopId, NodeId)>>>,
    metrics: IdentityMetrics,
}

/// Why something was refused.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// This cloud has no issuer.
    #[error(
        "this cloud issues no certificates: set identity.issuer and identity.issuer_key, and start it again"
    )]
    Off,
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Nobody ever had the name of a node that is to be revoked.
    #[error("{0}; if its certificate was made by hand and never used, say `unheard` (`--unheard`)")]
    Unheard(String),
    /// The certificate cannot be issued.
    #[error(transparent)]
    Issue(#[from] PkiError),
    /// The token is not good, the node was revoked, or storage failed.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
}

impl IdentityError {
    /// The error as it is said on the wire.
    pub fn reply(&self) -> ErrorReply {
        let code = match self {
            Self::Off => Code::NotReady,
            Self::Invalid(_) => Code::Invalid,
            Self::Unheard(_) => Code::NotFound,
            Self::Issue(PkiError::Issue { .. } | PkiError::Identity(_)) => Code::Invalid,
            Self::Issue(_) => Code::Internal,
            Self::Enrol(error) => return error.reply(),
        };
        ErrorReply::new(code, self.to_string())
    }
}

impl Identities {
    /// Reads who was revoked.
    pub async fn open(
        storage: Storage,
        issuing: Option<Issuing>,
        metrics: IdentityMetrics,
    ) -> Result<Self, StorageError> {
        let identities = Self {
            issuing: issuing.map(Arc::new),
            revoked: Revoked::default(),
            lists: Arc::default(),
            met: Arc::default(),
            metrics,
            storage,
        };
        for node in identities.storage.revoked().await? {
            identities.cut(&node.pop, node.node);
        }
        Ok(identities)
    }

    /// The list that the nodes' door asks.
    pub fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// What issues certificates, if this cloud does.
    pub fn issuing(&self) -> Option<&Arc<Issuing>> {
        self.issuing.as_ref()
    }

    /// Makes a one-time token.
    pub async fn make_token(
        &self,
        asked: EnrolNode,
        who: &str,
        now_ms: u64,
    ) -> Result<EnrolmentToken, IdentityError> {
        if self.issuing.is_none() {
            return Err(IdentityError::Off);
        }
        let EnrolNode { pop, node, names, lifetime_s } = asked;
        check(node, &pop)?;
        check_names(&Identity::Node { pop: pop.clone(), node }, &names)?;
        let lifetime_s = lifetime_s.unwrap_or(TOKEN_LIFETIME_S);
        if lifetime_s == 0 || lifetime_s > TOKEN_LIFETIME_S_MAX {
            let text = format!("lifetime_s: 1 to {TOKEN_LIFETIME_S_MAX}, not {lifetime_s}");
            return Err(IdentityError::Invalid(text));
        }
        let token = secrets::generate();
        let expires_at_ms = now_ms + lifetime_s * 1_000;
        let enrolment = Enrolment { pop, node, names, made_by: who.to_owned(), expires_at_ms };
        let detail =
            format!("node {node} of {}, names {:?}, for {lifetime_s} s", enrolment.pop, enrolment.names);
        let change = Change { at_ms: now_ms, who: who.to_owned(), what: "node.enrol_token".into(), detail };
        let new_pop = !self.storage.knows_pop(&enrolment.pop).await.map_err(EnrolError::from)?;
        self.storage.add_enrolment(Digest::of(token.as_bytes()), &enrolment, &change).await?;
        Ok(EnrolmentToken { token, pop: enrolment.pop, node, expires_at_ms, new_pop })
    }

    /// Issues a node's first certificate, if its token is good. A token is used up by success only.
    pub async fn enrol(
        &self,
        request: &EnrolRequest,
        from: &str,
        now_ms: u64,
    ) -> Result<String, IdentityError> {
        let issuing = self.issuing.as_ref().ok_or(IdentityError::Off)?;
        let (pop, node, token) = (&request.pop, request.node, request.token.0.as_bytes());
        if token.len() > TOKEN_BYTES_MAX || request.request.len() > SIGNING_REQUEST_BYTES_MAX {
            let text = format!(
                "a token has at most {TOKEN_BYTES_MAX} bytes, a signing request {SIGNING_REQUEST_BYTES_MAX}"
            );
            return Err(IdentityError::Invalid(text));
        }
        let token = Digest::of(token);
        // Before anything else is read that an unknown caller sent.
        let enrolment = self.storage.enrolment(token, pop, node, now_ms).await?;
        let identity = Identity::Node { pop: pop.clone(), node };
        let signed = issuing.issuer.sign(&identity, &request.request, &enrolment.names, issuing.lifetime)?;
        let change = Change {
            at_ms: now_ms,
            who: format!("{identity} from {from}"),
            what: "node.enrolled".into(),
            detail: format!("with a token that {} made; key {}", enrolment.made_by, signed.key),
        };
        self.storage.use_enrolment(token, &enrolment, signed.key, &change).await?;
        tracing::info!(%pop, %node, from, key = %signed.key, "a node has enrolled");
        Ok(signed.chain)
    }

    /// Counts an enrolment that was answered.
    pub fn answered(&self, outcome: &str) {
        self.metrics.enrolments.with_label_values(&[outcome]).inc();
    }

    /// Issues the next certificate of a node that has shown its present one. `names` are those that it carries.
    pub fn renew(
        &self,
        pop: &PopId,
        node: NodeId,
        names: &[String],
        request: &[u8],
    ) -> Result<String, IdentityError> {
        let issuing = self.issuing.as_ref().ok_or(IdentityError::Off)?;
        let identity = Identity::Node { pop: pop.clone(), node };
        // The door has looked, but a link may have been on its way in when the list grew.
        if self.revoked.contains(&identity) {
            return Err(EnrolError::Revoked { pop: pop.clone(), node }.into());
        }
        let signed = issuing.issuer.sign(&identity, request, names, issuing.lifetime)?;
        tracing::info!(key = %signed.key, "a node's certificate was renewed");
        Ok(signed.chain)
    }

    /// A node with a certificate has connected.
    pub fn met(&self, pop: &PopId, node: NodeId) {
        let mut met = self.met.write().unwrap_or_else(PoisonError::into_inner);
        if met.len() < MET_LEN_MAX {
            met.insert((pop.clone(), node));
        }
    }

    /// Refuses a name that nobody ever had: what is meant is another one, which would go on.
    async fn check_known(&self, pop: &PopId, node: NodeId) -> Result<(), IdentityError> {
        let is_met = self.met.read().unwrap_or_else(PoisonError::into_inner).contains(&(pop.clone(), node));
        if is_met || self.storage.knows_node(pop, node).await.map_err(EnrolError::from)? {
            return Ok(());
        }
        let why = match self.storage.knows_pop(pop).await.map_err(EnrolError::from)? {
            true => format!("no node {node} of {pop} ever spoke to this cloud"),
            false => format!("no PoP {pop} ever spoke to this cloud"),
        };
        Err(IdentityError::Unheard(why))
    }

    /// Revokes a node: no certificate is issued for it any more, and its links are closed at once, here and, when they have
    /// asked, at the other nodes of its PoP.
    pub async fn revoke(
        &self,
        pop: &PopId,
        node: NodeId,
        asked: &RevokeNode,
        who: &str,
        now_ms: u64,
    ) -> Result<RevokedNode, IdentityError> {
        check(node, pop)?;
        let RevokeNode { reason, unheard } = asked;
        if reason.len() > REASON_BYTES_MAX {
            let text = format!("a reason has at most {REASON_BYTES_MAX} bytes, not {}", reason.len());
            return Err(IdentityError::Invalid(text));
        }
        if !unheard {
            self.check_known(pop, node).await?;
        }
        let detail = format!("node {node} of {pop}: {reason}");
        let change = Change { at_ms: now_ms, who: who.to_owned(), what: "node.revoke".into(), detail };
        let revoked = self.storage.revoke(pop, node, reason, &change).await?;
        self.cut(pop, node);
        tracing::warn!(%pop, %node, who, reason, "a node was revoked");
        Ok(revoked)
    }

    /// The revoked nodes of a PoP, if there are more than `known`; else none.
    pub fn newer_than(&self, pop: &PopId, known: u64) -> Vec<NodeId> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        lists.get(pop).filter(|nodes| nodes.len() as u64 > known).cloned().unwrap_or_default()
    }

    fn cut(&self, pop: &PopId, node: NodeId) {
        let mut lists = self.lists.write().unwrap_or_else(PoisonError::into_inner);
        let nodes = lists.entry(pop.clone()).or_default();
        if !nodes.contains(&node) {
            nodes.push(node);
            self.metrics.revoked.inc();
        }
        self.revoked.add([Identity::Node { pop: pop.clone(), node }]);
    }
}

/// A node's name must be one.
fn check(node: NodeId, pop: &PopId) -> Result<(), IdentityError> {
    if node.0 == 0 || node.0 > i64::MAX as u64 {
        return Err(IdentityError::Invalid(format!("a node's id is from 1 to {}, not {node}", i64::MAX)));
    }
    let named = Identity::Node { pop: pop.clone(), node }.dns_name();
    named.map(drop).map_err(|error| IdentityError::Issue(error.into()))
}
