//! PoPs as people see them: what is stored of them, and what their nodes say of where they stand. A PoP that is ahead of this cloud,
//! because that was restored from a backup, is seen here, and goes on once a person has given up what is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cloud_registry::{Registry, RegistryError};
use cloud_storage::{AppendError, Change, Storage, StorageError};
use proto::control::{AcceptLoss, Ahead, LossAccepted, Membership, PopView, Standing};
use proto::limits::MEMBERS_LEN_MAX;
use proto::{Code, ErrorReply, NodeId, Offset, PopId};
use transport::Identity;
use transport::pki::Revoked;

/// What was said longer ago does not count, in milliseconds. Nodes say it with each report.
const SAID_WITHIN_MS: u64 = 30_000;
/// Nodes of a PoP that are listened to: its members, and some that are none any more.
const HEARD_LEN_MAX: usize = 4 * MEMBERS_LEN_MAX;
/// Longest text in a standing, and longest reason, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;

/// PoPs as people see them. Clones are the same.
#[derive(Debug, Clone)]
pub struct Pops {
    storage: Storage,
    registry: Registry,
    revoked: Revoked,
    heard: Arc<Mutex<BTreeMap<PopId, Heard>>>,
}

/// What each node said last, and when.
type Heard = BTreeMap<NodeId, (Standing, u64)>;

/// Why a loss was not accepted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LossError {
    /// It never spoke.
    #[error("no PoP {0} ever spoke to this cloud")]
    NoPop(PopId),
    /// There is nothing to give up.
    #[error("{0} is not ahead of this cloud: nothing is lost")]
    NotAhead(PopId),
    /// It is another loss than the caller was shown.
    #[error("what {pop} is ahead by is not what was said: {now}; look again")]
    Changed {
        /// Which PoP.
        pop: PopId,
        /// What it is ahead by.
        now: Ahead,
    },
    /// The reason is too long.
    #[error("a reason has at most {TEXT_BYTES_MAX} bytes, not {0}")]
    TooLong(usize),
    /// Its events could not be given up.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A bundle could not be published.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl LossError {
    /// The error as it is said on the wire.
    pub fn reply(&self) -> ErrorReply {
        let code = match self {
            Self::NoPop(_) => Code::NotFound,
            Self::NotAhead(_) | Self::Changed { .. } => Code::Conflict,
            Self::TooLong(_) => Code::TooLarge,
            Self::Append(error) => return error.reply(),
            Self::Registry(error) => return error.reply(),
            Self::Storage(error) => return error.reply(),
        };
        ErrorReply::new(code, self.to_string())
    }
}

impl Pops {
    /// Nobody was heard yet.
    pub fn new(storage: Storage, registry: Registry, revoked: Revoked) -> Self {
        Self { storage, registry, revoked, heard: Arc::default() }
    }

    /// A node says where it stands.
    ///
    /// # Errors
    /// Where it says more than it may.
    pub async fn stands(
        &self,
        pop: &PopId,
        node: NodeId,
        standing: Standing,
        now_ms: u64,
    ) -> Result<(), ErrorReply> {
        let text = standing.diverged.as_deref().unwrap_or_default().len();
        if standing.members.len() > MEMBERS_LEN_MAX || text > TEXT_BYTES_MAX {
            let message = format!("at most {MEMBERS_LEN_MAX} members and {TEXT_BYTES_MAX} bytes of text");
            return Err(ErrorReply::new(Code::TooLarge, message));
        }
        let members = {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let nodes = heard.entry(pop.clone()).or_default();
            nodes.retain(|_, (_, at)| now_ms.saturating_sub(*at) <= SAID_WITHIN_MS);
            if nodes.len() >= HEARD_LEN_MAX && !nodes.contains_key(&node) {
                return Err(ErrorReply::new(Code::RateLimited, "too many nodes of this PoP speak"));
            }
            nodes.insert(node, (standing.clone(), now_ms));
            leader(nodes, now_ms).map(|leader| leader.members.clone())
        };
        self.registry.stands(pop, node, &standing, members.as_deref()).await;
        Ok(())
    }

    /// Every PoP that ever spoke, by name.
    pub async fn list(&self, now_ms: u64) -> Result<Vec<PopView>, StorageError> {
        let mut views = self.storage.pops().await?;
        for view in &mut views {
            self.complete(view, now_ms).await?;
        }
        Ok(views)
    }

    /// One PoP, if it ever spoke.
    pub async fn one(&self, pop: &PopId, now_ms: u64) -> Result<Option<PopView>, StorageError> {
        let Some(mut view) = self.storage.pop(pop).await? else { return Ok(None) };
        self.complete(&mut view, now_ms).await?;
        Ok(Some(view))
    }

    /// What a person should look at; one line a PoP.
    pub async fn remarks(&self, now_ms: u64) -> Result<Vec<String>, StorageError> {
        let views = self.list(now_ms).await?;
        let remark = |view: PopView| match (view.ahead, view.diverged) {
            (Some(ahead), _) => Some(format!("{} is ahead of this cloud: {ahead}", view.pop)),
            (None, Some(why)) => Some(format!("{} sends no events: {why}", view.pop)),
            (None, None) => None,
        };
        Ok(views.into_iter().filter_map(remark).collect())
    }

    async fn complete(&self, view: &mut PopView, now_ms: u64) -> Result<(), StorageError> {
        let heard = {
            let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.get(&view.pop).cloned().unwrap_or_default()
        };
        let leader = leader(&heard, now_ms);
        for node in &mut view.nodes {
            let own = heard.get(&node.node).map(|(standing, _)| standing.membership);
            let identity = Identity::Node { pop: view.pop.clone(), node: node.node };
            let is_revoked = self.revoked.contains(&identity);
            node.membership = membership(node.node, own.unwrap_or_default(), leader, is_revoked);
        }
        let Some(leader) = leader else { return Ok(()) };
        view.diverged.clone_from(&leader.diverged);
        let is_known =
            leader.active.0 == 0 || self.registry.knows(leader.active, leader.active_manifest).await?;
        if leader.acknowledged > view.upto || !is_known {
            view.ahead = Some(Ahead {
                upto: view.upto,
                acknowledged: leader.acknowledged.max(view.upto),
                bundle: (!is_known).then_some(leader.active),
            });
        }
        Ok(())
    }

    /// Gives up what is lost of a PoP: its next event is due after what it had been told is durable, and what is offered is
    /// published anew where the PoP has a bundle that is not known here.
    pub async fn accept_loss(
        &self,
        pop: &PopId,
        asked: &AcceptLoss,
        who: &str,
        now_ms: u64,
    ) -> Result<LossAccepted, LossError> {
        if asked.reason.len() > TEXT_BYTES_MAX {
            return Err(LossError::TooLong(asked.reason.len()));
        }
        let view = self.one(pop, now_ms).await?.ok_or_else(|| LossError::NoPop(pop.clone()))?;
        let ahead = view.ahead.ok_or_else(|| LossError::NotAhead(pop.clone()))?;
        if ahead != asked.ahead {
            return Err(LossError::Changed { pop: pop.clone(), now: ahead });
        }
        let events = ahead.events();
        let (first, last) =
            ((events > 0).then_some(Offset(ahead.upto.0 + 1)), (events > 0).then_some(ahead.acknowledged));
        if events > 0 {
            let detail = format!("{pop}: {ahead}; given up: {}", asked.reason);
            let change =
                Change { at_ms: now_ms, who: who.to_owned(), what: "cloud.accept_loss".into(), detail };
            self.storage.accept_loss(pop, ahead.upto, ahead.acknowledged, &change).await?;
            tracing::warn!(%pop, events, first = ahead.upto.0 + 1, last = %ahead.acknowledged, who, "lost events are given up");
        }
        let published = match ahead.bundle {
            Some(bundle) => {
                let why = format!("{pop} has bundle {bundle}, which is not known here; {}", asked.reason);
                self.registry.renumber(&why, who, now_ms).await?.map(|view| view.revision)
            }
            None => None,
        };
        Ok(LossAccepted { pop: pop.clone(), events, first, last, published })
    }
}

/// What a PoP's leader says: the one of the highest term, should two claim to be.
fn leader(heard: &Heard, now_ms: u64) -> Option<&Standing> {
    let fresh = heard.values().filter(|(_, at)| now_ms.saturating_sub(*at) <= SAID_WITHIN_MS);
    let leaders = fresh.filter(|(standing, _)| standing.leads);
    leaders.max_by_key(|(standing, at)| (standing.term, *at)).map(|(standing, _)| standing)
}

/// A node's place: the list of the revoked goes before its PoP's leader, and that before its own word.
fn membership(node: NodeId, own: Membership, leader: Option<&Standing>, is_revoked: bool) -> Membership {
    match leader {
        _ if is_revoked => Membership::Revoked,
        None => own,
        Some(leader) if leader.members.contains(&node) => match own {
            Membership::Learner => Membership::Learner,
            _ => Membership::Voter,
        },
        Some(_) if own == Membership::Waiting => Membership::Waiting,
        Some(_) => Membership::Left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(term: u64, leads: bool, members: &[u64]) -> Standing {
        let members = members.iter().copied().map(NodeId).collect();
        Standing { membership: Membership::Voter, term, leads, members, ..Standing::default() }
    }

    #[test]
    fn the_leader_of_the_highest_term_counts() {
        let said = [
            (1, says(3, true, &[1, 2]), 1_000),
            (2, says(4, true, &[2]), 900),
            (3, says(9, false, &[3]), 1_000),
        ];
        let heard: Heard =
            said.into_iter().map(|(node, standing, at)| (NodeId(node), (standing, at))).collect();
        assert_eq!(leader(&heard, 1_000).unwrap().members, [NodeId(2)]);
        assert_eq!(leader(&heard, 30_950).unwrap().members, [NodeId(1), NodeId(2)], "the other is silent");
        assert_eq!(leader(&heard, 31_001), None);
    }

    #[test]
    fn a_node_is_what_its_leader_says() {
        let leader = says(1, true, &[1, 2]);
        let place = |node, own, is_revoked| membership(NodeId(node), own, Some(&leader), is_revoked);
        assert_eq!(place(1, Membership::Voter, false), Membership::Voter);
        assert_eq!(place(1, Membership::Unknown, false), Membership::Voter, "an older node");
        assert_eq!(place(2, Membership::Learner, false), Membership::Learner);
        assert_eq!(place(3, Membership::Voter, false), Membership::Left, "it has not heard of it");
        assert_eq!(place(4, Membership::Waiting, false), Membership::Waiting);
        assert_eq!(place(1, Membership::Voter, true), Membership::Revoked);
        assert_eq!(membership(NodeId(1), Membership::Learner, None, false), Membership::Learner);
    }
}
