//! Links to the other nodes: dialled when needed, kept, and given up with a growing pause when nobody answers.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use proto::peer::{PeerReply, PeerRequest};
use proto::{NodeId, PopId};
use tokio::time::Instant;
use transport::{Dialer, Link, LinkError, Peer};

use crate::Member;

/// First pause after a failed dial; doubled with each further one.
const PAUSE_MIN_MS: u64 = 50;
/// Longest pause.
const PAUSE_MAX_MS: u64 = 1_000;
/// How long a dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Peers that links are kept to. A PoP has 5 nodes; this is what a hostile membership could reach.
const PEERS_LEN_MAX: usize = 64;

/// What a link is for. Each has its own connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Raft's small messages, and what nodes ask each other.
    Raft,
    /// Snapshots.
    Snapshot,
}

/// Why a call had no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The peer could not be reached: the request was not sent.
    #[error("the peer is away: {0}")]
    Away(#[source] LinkError),
    /// The request was on its way: it may have had its effect.
    #[error("the call broke: {0}")]
    Broken(#[source] LinkError),
}

/// Links to the other nodes.
pub struct Peers {
    pop: PopId,
    node: NodeId,
    dialer: Arc<dyn Dialer>,
    slots: Mutex<HashMap<(NodeId, Lane), Arc<Slot>>>,
    /// The members, as the group decided last: where they are reached goes before what a caller remembers.
    book: RwLock<BTreeMap<NodeId, Entry>>,
    /// Where this node's settings say that members are reached: tried in turn where nobody answers.
    settings: RwLock<BTreeMap<NodeId, Arc<str>>>,
}

/// A member, in short.
#[derive(Debug)]
struct Entry {
    address: Arc<str>,
    voter: bool,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("pop", &self.pop).field("node", &self.node).finish_non_exhaustive()
    }
}

/// One connection, and the only one who dials it at a time.
#[derive(Default)]
struct Slot {
    state: tokio::sync::Mutex<SlotState>,
}

#[derive(Default)]
struct SlotState {
    address: Arc<str>,
    link: Option<Arc<dyn Link>>,
    failures: u32,
    failed: Option<(Instant, LinkError)>,
}

impl Peers {
    /// No links yet.
    pub fn new(pop: PopId, node: NodeId, dialer: Arc<dyn Dialer>) -> Self {
        let (slots, book, settings) = Default::default();
        Self { pop, node, dialer, slots, book, settings }
    }

    /// This node's PoP.
    pub fn pop(&self) -> &PopId {
        &self.pop
    }

    /// From now on, members are reached where the group says.
    pub fn members_at(&self, members: &[Member]) {
        let entry = |member: &Member| Entry { address: member.address.as_str().into(), voter: member.voter };
        let entries = members.iter().map(|member| (member.node, entry(member)));
        *self.book.write().unwrap_or_else(PoisonError::into_inner) = entries.collect();
    }

    /// Whether a node has a vote, as the group decided last.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.book.read().unwrap_or_else(PoisonError::into_inner).get(&node).is_some_and(|entry| entry.voter)
    }

    /// Where the settings say that members are reached: a PoP whose nodes all moved finds itself so.
    pub fn also_at(&self, members: &BTreeMap<NodeId, String>) {
        let members = members.iter().map(|(node, address)| (*node, address.as_str().into()));
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = members.collect();
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Asks a peer.
    pub async fn call(
        &self,
        target: NodeId,
        address: &Arc<str>,
        lane: Lane,
        request: &PeerRequest,
        timeout: Duration,
    ) -> Result<PeerReply, CallError> {
        let deadline = Instant::now() + timeout;
        let link = self.link(target, address, lane, timeout).await.map_err(CallError::Away)?;
        let left = deadline.saturating_duration_since(Instant::now());
        transport::call(&*link, request, left).await.map_err(CallError::Broken)
    }

    /// Asks a node that need not be a member, over a connection of its own, under this address and no other.
    pub async fn call_at(
        &self,
        target: NodeId,
        address: &str,
        request: &PeerRequest,
        timeout: Duration,
    ) -> Result<PeerReply, CallError> {
        let expect = Peer::Node { pop: self.pop.clone(), node: target };
        let link = self.dialer.dial(address, &expect, timeout).await.map_err(CallError::Away)?;
        let reply = transport::call(&*link, request, timeout).await;
        link.close("asked");
        reply.map_err(CallError::Broken)
    }

    /// A peer was heard of: it is there, so the pause before it is dialled again is over.
    pub fn heard(&self, from: NodeId) {
        let slot = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.get(&(from, Lane::Raft)).cloned()
        };
        // Whoever holds it is dialling, or about to call.
        if let Some(slot) = slot
            && let Ok(mut state) = slot.state.try_lock()
        {
            state.failed = None;
        }
    }

    /// Closes all links.
    pub async fn close(&self) {
        let slots = std::mem::take(&mut *self.slots.lock().unwrap_or_else(PoisonError::into_inner));
        for slot in slots.into_values() {
            if let Some(link) = slot.state.lock().await.link.take() {
                link.close("shutting down");
            }
        }
    }

    fn slot(&self, target: NodeId, lane: Lane) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= PEERS_LEN_MAX && !slots.contains_key(&(target, lane)) {
            slots.clear();
        }
        Arc::clone(slots.entry((target, lane)).or_default())
    }

    async fn link(
        &self,
        target: NodeId,
        address: &Arc<str>,
        lane: Lane,
        timeout: Duration,
    ) -> Result<Arc<dyn Link>, LinkError> {
        let slot = self.slot(target, lane);
        let decided = {
            let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
            book.get(&target).map(|entry| Arc::clone(&entry.address))
        };
        let address = decided.unwrap_or_else(|| Arc::clone(address));
        let mut state = slot.state.lock().await;
        if state.address != address {
            *state = SlotState { address: Arc::clone(&address), ..SlotState::default() };
        }
        if let Some(link) = state.link.as_ref().filter(|link| !link.is_closed()) {
            return Ok(Arc::clone(link));
        }
        state.link = None;
        if let Some((again, error)) = &state.failed
            && Instant::now() < *again
        {
            return Err(error.clone());
        }
        let expect = Peer::Node { pop: self.pop.clone(), node: target };
        let by_settings = self.settings.read().unwrap_or_else(PoisonError::into_inner).get(&target).cloned();
        let address = by_settings.filter(|_| state.failures % 2 == 1).unwrap_or(address);
        match self.dialer.dial(&address, &expect, timeout.min(DIAL_TIMEOUT)).await {
            Ok(link) => {
                state.failures = 0;
                state.failed = None;
                state.link = Some(Arc::clone(&link));
                Ok(link)
            }
            Err(error) => {
                let pause = pause(state.failures);
                tracing::debug!(peer = %target, %error, ?pause, "a peer cannot be reached");
                state.failures = state.failures.saturating_add(1);
                state.failed = Some((Instant::now() + pause, error.clone()));
                Err(error)
            }
        }
    }
}

/// Doubles with each failure, and is cut to between half and all of it, so that nodes do not come back in step.
fn pause(failures: u32) -> Duration {
    let full = PAUSE_MIN_MS.saturating_mul(1 << failures.min(10)).min(PAUSE_MAX_MS);
    // The standard library's hasher is seeded anew each time: randomness enough for this.
    let jitter = RandomState::new().hash_one(failures) % (full / 2 + 1);
    Duration::from_millis(full - jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        for failures in 0..20 {
            let full = (PAUSE_MIN_MS << failures.min(10)).min(PAUSE_MAX_MS);
            let pause = u64::try_from(pause(failures).as_millis()).unwrap();
            assert!((full / 2..=full).contains(&pause), "{pause} ms after {failures} failures");
        }
    }
}
