//! Promises about links: how they end, and how many there may be.

use std::sync::Arc;
use std::time::Duration;

use proto::peer::{PeerReply, PeerRequest};

use super::{Form, Limits, PATIENCE, Pair, ask, echo, failure, join, peer, request};
use crate::{LinkErrorKind, call};

pub(super) async fn both_sides_may_open(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    echo(Arc::clone(&pair.far));
    echo(Arc::clone(&pair.near));
    let (up, down) = tokio::join!(ask(&*pair.near, b"up"), ask(&*pair.far, b"down"));
    assert_eq!((up.expect("an echo"), down.expect("an echo")), (b"up".to_vec(), b"down".to_vec()));
}

pub(super) async fn a_close_reaches_the_other_side(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    let (mut near, _far) = pair.stream().await;
    assert!(!pair.near.is_closed() && !pair.far.is_closed());
    pair.far.close("maintenance");
    assert!(pair.far.is_closed());
    let error = pair.near.closed().await;
    assert!(matches!(&error.kind, LinkErrorKind::Closed(why) if &**why == "maintenance"), "{error}");
    assert!(pair.near.is_closed() && error.is_closed());
    assert!(matches!(failure(near.recv::<PeerReply>().await), LinkErrorKind::Closed(_)));
    assert!(matches!(failure(pair.near.open().await), LinkErrorKind::Closed(_)));
    assert!(matches!(failure(pair.near.accept().await), LinkErrorKind::Closed(_)));
}

pub(super) async fn a_dropped_link_closes(form: &dyn Form) {
    let Pair { near, far, listener: _listener, dialer: _dialer, .. } =
        Pair::new(form, Limits::default()).await;
    let mut stream = near.open().await.expect("a stream opens");
    stream.send(&request(b"last")).await.expect("a request is sent");
    drop(near);
    // Its streams go on until they are done.
    let mut taken = far.accept().await.expect("the stream arrives");
    taken.recv::<PeerRequest>().await.expect("the request arrives");
    taken.send(&PeerReply::Done).await.expect("the reply is sent");
    assert_eq!(stream.recv::<PeerReply>().await.expect("the reply arrives"), PeerReply::Done);
    assert!(!far.is_closed());
    drop(stream);
    far.closed().await;
}

pub(super) async fn a_vanished_peer_is_noticed(form: &dyn Form) {
    let pair = Pair::new(form, Limits { idle_timeout_ms: 2_000, ..Limits::default() }).await;
    let (mut near, mut far) = pair.stream().await;
    form.cut(&pair.address).await;
    let (near_error, far_error, receive, serve) = tokio::join!(
        pair.near.closed(),
        pair.far.closed(),
        near.recv::<PeerReply>(),
        far.recv::<PeerRequest>()
    );
    for kind in [near_error.kind, far_error.kind, failure(receive), failure(serve)] {
        assert!(matches!(kind, LinkErrorKind::Closed(_)), "{kind:?}");
    }
    assert!(matches!(failure(pair.near.open().await), LinkErrorKind::Closed(_)));
}

pub(super) async fn nobody_there_times_out(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    form.cut(&pair.address).await;
    let dialed = pair.dialer.dial(&pair.address, &peer("pop-a", 1), Duration::from_millis(300)).await;
    assert!(matches!(failure(dialed), LinkErrorKind::Timeout));
}

pub(super) async fn links_are_capped(form: &dyn Form) {
    let pair = Pair::new(form, Limits { max_connections: 2, ..Limits::default() }).await;
    let expect = peer("pop-a", 1);
    let (_second, _second_far) = join(&*pair.listener, &*pair.dialer, &pair.address, &expect).await;
    let third = pair.dialer.dial(&pair.address, &expect, PATIENCE).await;
    assert!(matches!(failure(third), LinkErrorKind::Refused(_)));
    pair.near.close("make room");
    pair.far.closed().await;
    drop((pair.near, pair.far));
    // The place is free when the listener has noticed, which nobody announces.
    let room = async {
        while pair.dialer.dial(&pair.address, &expect, PATIENCE).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, room).await.expect("there is room again");
}

pub(super) async fn an_old_link_winds_down_in_order(form: &dyn Form) {
    let pair = Pair::new(form, Limits { connection_age_max_ms: 300, ..Limits::default() }).await;
    let (mut near, mut far) = pair.stream().await;
    let error = pair.near.closed().await;
    assert!(matches!(error.kind, LinkErrorKind::Closed(_)), "{error}");
    assert!(pair.near.is_closed());
    assert!(matches!(failure(pair.near.open().await), LinkErrorKind::Closed(_)), "no more streams");
    assert!(!pair.far.is_closed(), "what is in flight holds the link");
    let answer = PeerReply::Raft(vec![3; 1_000_000]);
    let (sent, reply) = tokio::join!(far.send(&answer), near.recv::<PeerReply>());
    sent.expect("a reply in flight is sent");
    assert_eq!(reply.expect("a reply in flight arrives"), answer);
    drop(near);
    pair.far.closed().await;
    // Whoever needs a link dials again.
    let (again, far) = join(&*pair.listener, &*pair.dialer, &pair.address, &peer("pop-a", 1)).await;
    echo(far);
    assert_eq!(ask(&*again, b"again").await.expect("an echo"), b"again");
}

pub(super) async fn winding_down_has_a_bound(form: &dyn Form) {
    let limits = Limits { connection_age_max_ms: 200, drain_ms: 300, ..Limits::default() };
    let pair = Pair::new(form, limits).await;
    let (mut near, _far) = pair.stream().await;
    // Nobody ever answers.
    let got = failure(near.recv::<PeerReply>().await);
    assert!(matches!(got, LinkErrorKind::Closed(_)), "{got:?}");
    pair.far.closed().await;
}

pub(super) async fn a_shutdown_lets_requests_finish(form: &dyn Form) {
    let pair = Pair::new(form, Limits::default()).await;
    let waiting = pair.listener.accept();
    let question = request(b"late");
    let asking = call::<PeerRequest, PeerReply>(&*pair.near, &question, PATIENCE);
    let serving = async {
        let mut stream = pair.far.accept().await.expect("the stream arrives");
        stream.recv::<PeerRequest>().await.expect("the request arrives");
        let answering = async {
            // The dialer has heard of the shutdown by now.
            pair.near.closed().await;
            stream.send(&PeerReply::Done).await.expect("a reply in flight is sent");
            drop(stream);
        };
        tokio::join!(pair.listener.shutdown(), answering);
    };
    let (reply, (), none) = tokio::join!(asking, serving, waiting);
    assert_eq!(reply.expect("a reply in flight arrives"), PeerReply::Done);
    assert!(none.is_none(), "after a shutdown there are no more links");
    assert!(pair.far.is_closed());
    let dialed = pair.dialer.dial(&pair.address, &peer("pop-a", 1), Duration::from_millis(300)).await;
    assert!(dialed.is_err(), "nobody listens any more");
}
