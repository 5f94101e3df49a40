//! The promises of the seam, as one suite that every form must pass. A test of a form calls [`run`]; it panics where a
//! promise is broken, and names it.
//!
//! The suite waits on conditions. The only times in it are limits that are part of a promise, and a bound on each case.

mod identities;
mod links;
mod streams;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::peer::{PeerReply, PeerRequest, RaftCall};
use proto::{NodeId, PopId};

use crate::{Dialer, Door, Identity, Link, LinkError, LinkErrorKind, Listener, Peer, Stream, call};

/// A case that takes longer than this hangs.
const CASE_MAX: Duration = Duration::from_secs(60);
/// More than any reply takes, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough to see that something does not happen.
const A_WHILE: Duration = Duration::from_millis(100);

/// Limits that a case needs smaller than usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Streams that one side may have open at a time.
    pub max_bidi_streams: u32,
    /// Bytes that may wait unread on one stream.
    pub stream_window_bytes: u32,
    /// Silence after which a link is lost.
    pub idle_timeout_ms: u64,
    /// Links of a listener at a time.
    pub max_connections: usize,
    /// Age at which a link winds down.
    pub connection_age_max_ms: u64,
    /// How long winding down may take.
    pub drain_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bidi_streams: 128,
            stream_window_bytes: 256 * 1024,
            idle_timeout_ms: 30_000,
            max_connections: 64,
            connection_age_max_ms: 60 * 60 * 1000,
            drain_ms: 30_000,
        }
    }
}

/// A form of the seam, as the suite sees it.
#[async_trait]
pub trait Form: Send + Sync {
    /// A listener at a door, and the address that reaches it.
    async fn listener(
        &self,
        identity: &Identity,
        door: &Door,
        limits: &Limits,
    ) -> (Arc<dyn Listener>, String);

    /// A dialer for that door, that shows `identity` where asked.
    async fn dialer(&self, identity: Option<&Identity>, door: &Door, limits: &Limits) -> Arc<dyn Dialer>;

    /// From now on nothing passes to or from that address, and nobody is told.
    async fn cut(&self, address: &str);
}

type Case<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

macro_rules! cases {
    ($form:ident: $($module:ident::$case:ident),* $(,)?) => {
        [$((stringify!($case), Box::pin($module::$case($form)) as Case<'_>)),*]
    };
}

/// Runs every case.
///
/// # Panics
/// Where a promise is broken.
pub async fn run(form: &dyn Form) {
    let cases = cases![form:
        streams::a_reply_follows_its_request,
        streams::replies_find_their_requests,
        streams::a_large_frame_passes_a_small_window,
        streams::several_messages_share_a_stream,
        streams::a_slow_reader_slows_its_writer,
        streams::an_oversized_frame_is_not_sent,
        streams::an_oversized_frame_is_not_received,
        streams::other_frames_than_due_are_refused,
        streams::half_a_frame_is_not_a_frame,
        streams::a_cancelled_receive_loses_nothing,
        streams::a_stream_given_up_says_why,
        streams::a_call_ends_in_time,
        streams::streams_are_capped,
        links::both_sides_may_open,
        links::a_close_reaches_the_other_side,
        links::a_dropped_link_closes,
        links::a_vanished_peer_is_noticed,
        links::nobody_there_times_out,
        links::links_are_capped,
        links::an_old_link_winds_down_in_order,
        links::winding_down_has_a_bound,
        links::a_shutdown_lets_requests_finish,
        identities::each_side_knows_the_other,
        identities::a_wrong_name_is_not_dialed,
        identities::a_node_speaks_for_its_own_pop_only,
        identities::an_uplink_takes_nodes_only,
    ];
    for (name, case) in cases {
        tracing::info!(case = name, "conformance");
        if tokio::time::timeout(CASE_MAX, case).await.is_err() {
            panic!("{name} hangs");
        }
    }
}

/// Two ends of one link between nodes of one PoP.
struct Pair {
    listener: Arc<dyn Listener>,
    dialer: Arc<dyn Dialer>,
    address: String,
    /// The end that dialed.
    near: Arc<dyn Link>,
    /// The end that listened.
    far: Arc<dyn Link>,
}

impl Pair {
    async fn new(form: &dyn Form, limits: Limits) -> Self {
        let door = Door::Peers { pop: pop("pop-a") };
        let (listener, address) = form.listener(&node("pop-a", 1), &door, &limits).await;
        let dialer = form.dialer(Some(&node("pop-a", 2)), &door, &limits).await;
        let (near, far) = join(&*listener, &*dialer, &address, &peer("pop-a", 1)).await;
        Self { listener, dialer, address, near, far }
    }

    /// A stream that both ends have: the request was received and not answered.
    async fn stream(&self) -> (Stream, Stream) {
        let mut near = self.near.open().await.expect("a stream opens");
        near.send(&request(b"hold")).await.expect("a request is sent");
        let mut far = self.far.accept().await.expect("the stream arrives");
        assert_eq!(far.recv::<PeerRequest>().await.expect("the request arrives"), request(b"hold"));
        (near, far)
    }
}

async fn join(
    listener: &dyn Listener,
    dialer: &dyn Dialer,
    address: &str,
    expect: &Peer,
) -> (Arc<dyn Link>, Arc<dyn Link>) {
    let (dialed, accepted) = tokio::join!(dialer.dial(address, expect, PATIENCE), listener.accept());
    (dialed.expect("the dial succeeds"), accepted.expect("the listener accepts"))
}

/// Answers every request of a link with its own body, until the link ends.
fn echo(link: Arc<dyn Link>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(mut stream) = link.accept().await {
            tokio::spawn(async move {
                while let Ok(PeerRequest::Raft { body, .. }) = stream.recv().await {
                    if stream.send(&PeerReply::Raft(body)).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

/// The echo of `body` over `link`.
async fn ask(link: &dyn Link, body: &[u8]) -> Result<Vec<u8>, LinkError> {
    match call(link, &request(body), PATIENCE).await? {
        PeerReply::Raft(body) => Ok(body),
        other => panic!("an echo was due, not {other:?}"),
    }
}

fn request(body: &[u8]) -> PeerRequest {
    PeerRequest::Raft { call: RaftCall::Append, body: body.to_vec() }
}

fn pop(name: &str) -> PopId {
    PopId::new(name).expect("a PoP id")
}

fn node(name: &str, id: u64) -> Identity {
    Identity::Node { pop: pop(name), node: NodeId(id) }
}

fn peer(name: &str, id: u64) -> Peer {
    Peer::Node { pop: pop(name), node: NodeId(id) }
}

/// The kind of an error that is due.
fn failure<T: std::fmt::Debug>(result: Result<T, LinkError>) -> LinkErrorKind {
    result.expect_err("an error is due").kind
}

/// Sees that a future is not done within [`A_WHILE`]; it may go on afterwards.
async fn assert_pending<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>, what: &str) {
    assert!(tokio::time::timeout(A_WHILE, future).await.is_err(), "{what}");
}
