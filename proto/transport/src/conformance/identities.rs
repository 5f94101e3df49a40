//! Promises about who is who.

use std::sync::Arc;

use super::{Form, Limits, PATIENCE, ask, echo, failure, join, node, peer, pop};
use crate::{Door, Identity, LinkErrorKind, Peer};

pub(super) async fn each_side_knows_the_other(form: &dyn Form) {
    let limits = Limits::default();
    let door = Door::Clients;
    let (listener, address) = form.listener(&node("pop-a", 1), &door, &limits).await;
    let dialer = form.dialer(None, &door, &limits).await;
    let (near, far) = join(&*listener, &*dialer, &address, &Peer::AnyNodeOf(pop("pop-a"))).await;
    assert_eq!(near.remote().identity, Some(node("pop-a", 1)));
    assert_eq!(far.remote().identity, None, "apps show no certificate");
    assert_eq!(near.remote().address, address);

    let door = Door::Uplink;
    let (listener, address) = form.listener(&Identity::Cloud, &door, &limits).await;
    let dialer = form.dialer(Some(&node("pop-b", 7)), &door, &limits).await;
    let (near, far) = join(&*listener, &*dialer, &address, &Peer::Cloud).await;
    assert_eq!(near.remote().identity, Some(Identity::Cloud));
    assert_eq!(far.remote().identity, Some(node("pop-b", 7)));
}

pub(super) async fn a_wrong_name_is_not_dialed(form: &dyn Form) {
    let limits = Limits::default();
    let door = Door::Peers { pop: pop("pop-a") };
    let (listener, address) = form.listener(&node("pop-a", 1), &door, &limits).await;
    let dialer = form.dialer(Some(&node("pop-a", 2)), &door, &limits).await;
    let others = [
        peer("pop-a", 2),
        peer("pop-b", 1),
        Peer::AnyNodeOf(pop("pop-b")),
        Peer::Named("shop.example.com".into()),
        Peer::Cloud,
    ];
    for other in others {
        let kind = failure(dialer.dial(&address, &other, PATIENCE).await);
        assert!(matches!(kind, LinkErrorKind::Tls(_)), "{other:?}: {kind:?}");
    }
    let kind = failure(dialer.dial(&address, &Peer::AnyNodeOf(pop("Not A Label")), PATIENCE).await);
    assert!(matches!(kind, LinkErrorKind::Address(_)), "{kind:?}");
    // The right names work, and nothing of the above has come in before them.
    for right in [peer("pop-a", 1), Peer::AnyNodeOf(pop("pop-a"))] {
        let (near, far) = join(&*listener, &*dialer, &address, &right).await;
        echo(far);
        assert_eq!(ask(&*near, b"hello").await.expect("an echo"), b"hello");
    }
}

pub(super) async fn a_node_speaks_for_its_own_pop_only(form: &dyn Form) {
    let limits = Limits::default();
    let door = Door::Peers { pop: pop("pop-a") };
    let (listener, address) = form.listener(&node("pop-a", 1), &door, &limits).await;
    for foreign in [node("pop-b", 1), node("pop-b", 2), Identity::Cloud] {
        let dialer = form.dialer(Some(&foreign), &door, &limits).await;
        let kind = failure(dialer.dial(&address, &peer("pop-a", 1), PATIENCE).await);
        assert!(matches!(kind, LinkErrorKind::Forbidden(_)), "{foreign}: {kind:?}");
    }
    nobody_comes_in_unnamed(form, &door, &address, &peer("pop-a", 1)).await;
    // The first to be accepted is the first that may.
    let dialer = form.dialer(Some(&node("pop-a", 3)), &door, &limits).await;
    let (_near, far) = join(&*listener, &*dialer, &address, &peer("pop-a", 1)).await;
    assert_eq!(far.remote().identity, Some(node("pop-a", 3)));
}

pub(super) async fn an_uplink_takes_nodes_only(form: &dyn Form) {
    let limits = Limits::default();
    let door = Door::Uplink;
    let (listener, address) = form.listener(&Identity::Cloud, &door, &limits).await;
    let dialer = form.dialer(Some(&Identity::Cloud), &door, &limits).await;
    let kind = failure(dialer.dial(&address, &Peer::Cloud, PATIENCE).await);
    assert!(matches!(kind, LinkErrorKind::Forbidden(_)), "{kind:?}");
    nobody_comes_in_unnamed(form, &door, &address, &Peer::Cloud).await;
    for allowed in [node("pop-a", 1), node("pop-b", 1)] {
        let dialer = form.dialer(Some(&allowed), &door, &limits).await;
        let (near, far) = join(&*listener, &*dialer, &address, &Peer::Cloud).await;
        assert_eq!(far.remote().identity, Some(allowed));
        echo(Arc::clone(&far));
        assert_eq!(ask(&*near, b"hello").await.expect("an echo"), b"hello");
    }
}

async fn nobody_comes_in_unnamed(form: &dyn Form, door: &Door, address: &str, expect: &Peer) {
    let dialer = form.dialer(None, door, &Limits::default()).await;
    let kind = failure(dialer.dial(address, expect, PATIENCE).await);
    assert!(matches!(kind, LinkErrorKind::Tls(_)), "without a certificate: {kind:?}");
}
