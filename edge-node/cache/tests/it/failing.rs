//! Origins that fail, are slow, or are gone.

use edge_cache::Failure;
use edge_cache::origin::OriginError;
use http::Method;

use crate::origin::{place, say, saying};

#[tokio::test]
async fn what_is_stored_stands_in_for_an_origin_that_is_gone_and_says_so() {
    let mut place = saying(200, &[("cache-control", "max-age=60"), ("age", "100")]).await;
    place.get("/a", &[]).await;
    place.end_origin().await;
    let got = place.get("/a", &[]).await;
    assert_eq!((got.body.as_str(), got.did()), ("1", "hit; ttl=-40; detail=offline"));
    assert!(matches!(
        place.ask(Method::GET, "/b", &[]).await,
        Err(Failure::Origin(OriginError::Unreachable(_)))
    ));
}

#[tokio::test]
async fn what_must_be_validated_is_not_served_without() {
    let mut place = saying(200, &[("cache-control", "max-age=60, must-revalidate"), ("age", "100")]).await;
    place.get("/a", &[]).await;
    place.end_origin().await;
    assert!(matches!(place.ask(Method::GET, "/a", &[]).await, Err(Failure::Origin(_))));
}

#[tokio::test]
async fn an_error_is_replaced_by_what_is_stored_where_that_is_allowed() {
    let place = place(|request, number| {
        let allowed = request.uri().path().ends_with("allowed");
        Box::pin(async move {
            let control = if allowed { "max-age=60, stale-if-error=1000" } else { "max-age=60" };
            let headers = [("cache-control", control), ("age", "100")];
            Some(say(if number <= 2 { 200 } else { 503 }, &headers, number.to_string()))
        })
    })
    .await;
    place.get("/allowed", &[]).await;
    place.get("/other", &[]).await;
    let got = place.get("/allowed", &[]).await;
    assert_eq!((got.status, got.body.as_str(), got.did()), (200, "1", "hit; ttl=-40; detail=stale-if-error"));
    assert_eq!(place.get("/other", &[]).await.status, 503);
}

#[tokio::test]
async fn an_origin_that_hangs_up_is_asked_again_and_then_left_alone() {
    let flaky = place(|_, number| {
        Box::pin(async move { (number > 1).then(|| say(200, &[("cache-control", "max-age=60")], "at last")) })
    })
    .await;
    assert_eq!(flaky.get("/a", &[]).await.body, "at last");
    let mut place = saying(200, &[]).await;
    place.end_origin().await;
    let mut left_alone = false;
    for number in 0..12 {
        let failed = place.ask(Method::GET, &format!("/{number}"), &[]).await.err();
        left_alone |= matches!(failed, Some(Failure::Origin(OriginError::LeftAlone(..))));
    }
    assert!(left_alone);
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_says_nothing_is_not_waited_for_for_ever() {
    let place = place(|_, _| Box::pin(std::future::pending())).await;
    assert!(matches!(
        place.ask(Method::GET, "/a", &[]).await,
        Err(Failure::Origin(OriginError::TimedOut(_)))
    ));
}

#[tokio::test]
async fn only_if_cached_asks_nobody() {
    let place = saying(200, &[("cache-control", "max-age=60")]).await;
    let only = [("cache-control", "only-if-cached")];
    assert_eq!(place.ask(Method::GET, "/a", &only).await.err(), Some(Failure::NotCached));
    place.get("/a", &[]).await;
    assert_eq!(place.get("/a", &only).await.body, "1");
    assert_eq!(place.fetched(), 1);
}

#[tokio::test]
async fn a_node_that_may_not_know_of_all_purges_asks_first_and_serves_where_nobody_answers() {
    let mut place = saying(200, &[("cache-control", "max-age=60")]).await;
    place.get("/a", &[]).await;
    place.ledger.cut_off(true);
    assert_eq!(place.get("/a", &[]).await.body, "2");
    place.end_origin().await;
    let got = place.get("/a", &[]).await;
    assert!(got.body == "2" && got.did().ends_with("detail=offline"), "{}", got.did());
}
