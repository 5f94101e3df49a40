//! Raft's messages between the nodes of a PoP, over `transport`'s links.
//!
//! A message is one request on a stream of its own. Snapshots have a link of their own, so that nothing waits behind them;
//! the streams of the other do not block each other. A dead peer is `Unreachable` at once, from the memory of the last
//! failed dial, and dialled again after a pause with jitter.

mod append;
mod peers;
mod pins;
mod promises;
mod snapshot;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend};
use proto::codec;
use proto::peer::{PeerReply, PeerRequest, RaftCall};
use proto::{Code, NodeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::snapshot::SnapshotFile;
use crate::state::Hot;
use crate::types::{Snapshot, Types, Vote};

pub use peers::{CallError, Lane, Peers};
pub use pins::Pins;
use promises::Append;
pub use promises::{Promises, kept};
pub use snapshot::{Answer as SnapshotAnswer, Inbox, Part, Taken};

/// The body of a [`RaftCall::Vote`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Ballot {
    /// Only asks what the answer would be.
    pub pre: bool,
    /// The candidate's request.
    pub request: VoteRequest<Types>,
}

/// Whether this node was told that it is no member of its PoP: by a leader that it asked, or by one that knows it was removed. Clones
/// are the same.
#[derive(Debug, Clone, Default)]
pub struct Outside(Arc<AtomicBool>);

impl Outside {
    /// It was told so.
    pub fn learn(&self) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "this node is no member of its PoP any more: end it; it comes back with an empty folder and a new id"
            );
        }
    }

    /// A leader answers it as a member.
    pub fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it was.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes the clients that Raft sends through.
#[derive(Debug, Clone)]
pub struct Network {
    /// The links.
    pub peers: Arc<Peers>,
    /// Which folders the peers have.
    pub pins: Arc<Pins>,
    /// What the peers promised.
    pub promises: Arc<Promises>,
    /// Whether another node said that this one is no member any more.
    pub outside: Outside,
    /// What is applied.
    pub hot: Arc<Hot>,
    /// How long an append may take: the follower's disk, not only the way there.
    pub append_timeout: Duration,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Client {
        Client { network: self.clone(), target: NodeId(target), address: node.addr.as_str().into() }
    }
}

/// One peer, as Raft sees it.
#[derive(Debug)]
pub struct Client {
    network: Network,
    target: NodeId,
    address: Arc<str>,
}

impl Client {
    /// Whether the peer was decided to be a member. Raft sends to a node without a vote as soon as the entry that names it is in
    /// the leader's own log. Were that entry lost, the node would hold the log of a group that does not know it, and could not be
    /// asked to join again.
    fn is_decided(&self) -> bool {
        let members = self.network.hot.members();
        members.nodes.is_empty()
            || members.nodes.contains(&self.target)
            || self.network.peers.is_voter(self.target)
    }

    async fn call<Q: Serialize, R: DeserializeOwned>(
        &self,
        lane: Lane,
        call: RaftCall,
        request: &Q,
        timeout: Duration,
    ) -> Result<R, RPCError<Types>> {
        if !self.is_decided() {
            return Err(RPCError::Unreachable(Unreachable::new(&StoreError::Undecided(self.target))));
        }
        let body = self.network.pins.seal(&codec::encode_any(request));
        let request = PeerRequest::Raft { call, body };
        let reply = self.network.peers.call(self.target, &self.address, lane, &request, timeout).await;
        match reply.map_err(|error| self.rpc_error(call, error, timeout))? {
            PeerReply::Raft(sealed) => {
                let body = self.network.pins.open_from(self.target, &sealed).await;
                let body = body.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
                codec::decode_any(body).map_err(|error| RPCError::Network(NetworkError::new(&error)))
            }
            PeerReply::NoMember => {
                self.network.outside.learn();
                Err(RPCError::Unreachable(Unreachable::new(&StoreError::NoMember)))
            }
            // The node there is starting, stopping, or refuses us: it is away as far as Raft is concerned.
            PeerReply::Error(error) => Err(RPCError::Unreachable(Unreachable::new(&error))),
            _ => Err(RPCError::Network(NetworkError::from_string("a reply of another kind"))),
        }
    }

    async fn append(
        &self,
        request: AppendEntriesRequest<Types>,
        timeout: Duration,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let timeout = match request.entries.is_empty() {
            true => timeout,
            false => timeout.max(self.network.append_timeout),
        };
        let asked = Append::of(&request);
        let response = self.call(Lane::Raft, RaftCall::Append, &request, timeout).await?;
        self.network.promises.answered(self.target, &asked, &response).map_err(|error| {
            tracing::error!(%error, "a follower broke its promise, and is not heard");
            RPCError::Unreachable(Unreachable::new(&error))
        })?;
        Ok(response)
    }

    fn rpc_error(&self, call: RaftCall, error: CallError, timeout: Duration) -> RPCError<Types> {
        match error {
            CallError::Away(error) => RPCError::Unreachable(Unreachable::new(&error)),
            CallError::Broken(error) if error.code() == Code::DeadlineExceeded => {
                let action = match call {
                    RaftCall::Append => RPCTypes::AppendEntries,
                    RaftCall::Vote => RPCTypes::Vote,
                    RaftCall::Snapshot => RPCTypes::InstallSnapshot,
                    RaftCall::Transfer => RPCTypes::TransferLeader,
                };
                let id = self.network.peers.node().0;
                RPCError::Timeout(Timeout { action, id, target: self.target.0, timeout })
            }
            CallError::Broken(error) => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.append(request, option.soft_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, append::Answer>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let (client, timeout) = (&*self, option.soft_ttl());
        let answers = append::answers(input, move |request| client.append(request, timeout));
        Box::pin(std::future::ready(Ok(Box::pin(answers) as BoxStream<'s, _>)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(Lane::Raft, RaftCall::Vote, &Ballot { pre: false, request }, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(Lane::Raft, RaftCall::Vote, &Ballot { pre: true, request }, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = snapshot::send(self, vote, snapshot, option) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(Lane::Raft, RaftCall::Transfer, &request, option.soft_ttl()).await
    }
}
