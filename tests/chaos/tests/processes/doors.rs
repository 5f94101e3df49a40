//! A node's door for apps, asked without the SDK, which would hide what it hears: sessions, tokens, shedding.

use std::sync::Arc;
use std::time::Duration;

use proto::client::{Answer, Ask, ClientReply, ClientRequest, OpenSession, Recommend, Track, Tracked};
use proto::{Code, Event, EventId, EventKind, ItemId, NodeId, TraceId, VisitorId};
use rockpool::local::Overrides;
use transport::{Dialer as _, Link, Peer, call};

use crate::support::{Pop, visitors};

const WITHIN: Duration = Duration::from_secs(10);

async fn dial(pop: &Pop, node: NodeId) -> Arc<dyn Link> {
    let address = &pop.deployment.ports()[&node].clients;
    let expect = Peer::Named(pop.deployment.server_name().unwrap());
    pop.deployment.app_dialer().unwrap().dial(address, &expect, WITHIN).await.unwrap()
}

pub async fn exchange(link: &dyn Link, ask: Ask) -> ClientReply {
    let request = ClientRequest { trace: TraceId::default(), deadline_ms: 5_000, ask };
    call::<_, ClientReply>(link, &request, WITHIN).await.unwrap()
}

pub async fn open(pop: &Pop, node: NodeId) -> Arc<dyn Link> {
    let link = dial(pop, node).await;
    let open = OpenSession { app_key: pop.deployment.app_key().to_owned(), agent: "a test".into() };
    let reply = exchange(&*link, Ask::Session(open)).await;
    assert!(matches!(&reply, ClientReply::Session(opened) if opened.node == node), "{reply:?}");
    link
}

pub fn recommend(visitor: &VisitorId) -> Recommend {
    let slot = "home".parse().unwrap();
    Recommend {
        visitor: visitor.clone(),
        slot,
        count: 100,
        token: None,
        context: Vec::new(),
        exclude: Vec::new(),
    }
}

async fn click(link: &dyn Link, visitor: &VisitorId, item: &ItemId) -> Tracked {
    let id = EventId(uuid::Uuid::now_v7());
    let at_ms = id.0.get_timestamp().map_or(0, |at| at.to_unix().0 * 1_000);
    click_at(link, visitor, item, id, at_ms).await
}

async fn click_at(link: &dyn Link, visitor: &VisitorId, item: &ItemId, id: EventId, at_ms: u64) -> Tracked {
    let kind = EventKind::Click { item: item.clone(), slot: "home".parse().unwrap(), answer: None };
    let event = Event { id, visitor: visitor.clone(), at_ms, trace: TraceId::default(), kind };
    match exchange(link, Ask::Track(Track { events: vec![event] })).await {
        ClientReply::Tracked(tracked) => tracked,
        other => panic!("{other:?}"),
    }
}

async fn answered(link: &dyn Link, ask: Recommend) -> Answer {
    match exchange(link, Ask::Recommend(ask)).await {
        ClientReply::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_every_node_show_what_was_written_on_one() {
    let pop = Pop::serving().await;
    let mut links = Vec::new();
    for node in pop.deployment.running() {
        links.push(open(&pop, node).await);
    }
    for (round, visitor) in visitors(30).iter().enumerate() {
        let item: ItemId = format!("i{round}").parse().unwrap();
        let writer = round % links.len();
        let tracked = click(&*links[writer], visitor, &item).await;
        assert_eq!((tracked.accepted, tracked.duplicates), (1, 0));
        for link in &links {
            // Asked once: a node that lags behind waits, and does not answer from before.
            let ask = Recommend { token: Some(tracked.token.clone()), ..recommend(visitor) };
            let answer = answered(&**link, ask).await;
            assert!(answer.fresh && answer.applied >= tracked.token.index, "{answer:?}");
            assert!(
                answer.items.iter().all(|ranked| ranked.item != item),
                "what was clicked is still offered"
            );
        }
    }
}

/// The phone's clock is a day ahead, or the node's a day behind: what happened counts all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_from_the_future_is_counted_as_of_now() {
    let pop = Pop::serving().await;
    let (visitor, id) = (visitors(1).remove(0), EventId(uuid::Uuid::now_v7()));
    let link = open(&pop, NodeId(1)).await;
    let tracked = click_at(&*link, &visitor, &"i1".parse().unwrap(), id, u64::MAX).await;
    assert_eq!((tracked.accepted, tracked.duplicates), (1, 0));
    let again = click_at(&*link, &visitor, &"i1".parse().unwrap(), id, u64::MAX).await;
    assert_eq!((again.accepted, again.duplicates), (0, 1), "and once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_the_future_is_answered_from_what_there_is_and_says_so() {
    let pop = Pop::serving().await;
    let visitor = visitors(1).remove(0);
    let link = open(&pop, NodeId(1)).await;
    let mut token = click(&*link, &visitor, &"i1".parse().unwrap()).await.token;
    token.index += 1_000_000;
    let answer = answered(&*link, Recommend { token: Some(token), ..recommend(&visitor) }).await;
    assert!(!answer.fresh && !answer.items.is_empty(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_cannot_take_is_shed_with_a_time_to_come_back() {
    let few = Overrides { node: vec![("clients.in_flight_max".into(), 1.into())], ..Overrides::default() };
    let pop = Pop::serving_with(few).await;
    let visitor = visitors(1).remove(0);
    let link = open(&pop, NodeId(1)).await;
    let burst = (0..50).map(|_| exchange(&*link, Ask::Recommend(recommend(&visitor))));
    let replies = futures::future::join_all(burst).await;
    let mut shed = 0;
    for reply in &replies {
        match reply {
            ClientReply::Answer(answer) => assert!(!answer.items.is_empty()),
            ClientReply::Error(error) => {
                assert_eq!(error.code, Code::Overloaded, "{error:?}");
                assert!(error.retry_after_ms.is_some_and(|ms| ms > 0), "{error:?}");
                shed += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((1..50).contains(&shed), "{shed} of 50 shed");
    answered(&*link, recommend(&visitor)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_before_a_session_with_a_known_key() {
    let pop = Pop::serving().await;
    let wrong = OpenSession { app_key: "wrong".into(), agent: "a test".into() };
    for first in [Ask::Ping, Ask::Recommend(recommend(&visitors(1)[0])), Ask::Session(wrong)] {
        let link = dial(&pop, NodeId(1)).await;
        let reply = exchange(&*link, first).await;
        assert!(
            matches!(&reply, ClientReply::Error(error) if error.code == Code::Unauthenticated),
            "{reply:?}"
        );
        tokio::time::timeout(WITHIN, link.closed()).await.expect("the connection is closed");
    }
}
