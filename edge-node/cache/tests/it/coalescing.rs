//! Many who ask at once, and bodies that come slowly.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::origin::{Got, ask, place, say, saying};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_who_miss_are_one_fetch_though_the_first_has_left() {
    let go = Arc::new(Notify::new());
    let gate = go.clone();
    let place = place(move |_, _| {
        let gate = gate.clone();
        Box::pin(async move {
            gate.notified().await;
            Some(say(200, &[("cache-control", "max-age=60")], "all"))
        })
    })
    .await;
    let first = tokio::spawn({
        let cache = place.cache.clone();
        async move { ask(&cache, Method::GET, "/a", &[]).await }
    });
    while place.fetched() == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    let mut others = JoinSet::new();
    for _ in 0..10_000 {
        let cache = place.cache.clone();
        others.spawn(async move { Got::of(ask(&cache, Method::GET, "/a", &[]).await.unwrap()).await });
    }
    tokio::task::yield_now().await;
    go.notify_one();
    while let Some(got) = others.join_next().await {
        assert_eq!(got.unwrap().body, "all");
    }
    assert_eq!(place.fetched(), 1);
}

#[tokio::test]
async fn what_is_not_for_others_is_fetched_by_each() {
    let place = saying(200, &[("cache-control", "private, max-age=60")]).await;
    let mut all = JoinSet::new();
    for _ in 0..50 {
        let cache = place.cache.clone();
        all.spawn(async move { Got::of(ask(&cache, Method::GET, "/a", &[]).await.unwrap()).await });
    }
    let mut bodies = Vec::new();
    while let Some(got) = all.join_next().await {
        bodies.push(got.unwrap().body.parse::<u64>().unwrap());
    }
    bodies.sort_unstable();
    assert_eq!(bodies, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_first_byte_does_not_wait_for_the_last() {
    let (pieces, queue) = mpsc::channel::<Bytes>(1);
    let queue = Arc::new(tokio::sync::Mutex::new(Some(queue)));
    let place = place(move |_, _| {
        let queue = queue.clone();
        Box::pin(async move {
            let queue = queue.lock().await.take()?;
            let stream = futures_of(queue);
            let mut response = say(200, &[("cache-control", "max-age=60")], "");
            *response.body_mut() = StreamBody::new(stream).boxed_unsync();
            Some(response)
        })
    })
    .await;
    let sending = tokio::spawn(async move {
        pieces.send("one ".into()).await.unwrap();
        pieces
    });
    let mut one = place.ask(Method::GET, "/a", &[]).await.unwrap().into_body();
    assert_eq!(one.frame().await.unwrap().unwrap().into_data().unwrap(), "one ");
    let mut other = place.ask(Method::GET, "/a", &[]).await.unwrap();
    assert!(other.headers()["cache-status"].to_str().unwrap().contains("collapsed"));
    assert_eq!(other.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "one ");
    let pieces = sending.await.unwrap();
    pieces.send("two".into()).await.unwrap();
    drop(pieces);
    assert_eq!(one.collect().await.unwrap().to_bytes(), "two");
    assert_eq!(other.into_body().collect().await.unwrap().to_bytes(), "two");
    // It was stored by who fetched it, a moment after the last byte was there for all.
    let mut got = place.get("/a", &[]).await;
    while !got.did().starts_with("hit") {
        tokio::task::yield_now().await;
        got = place.get("/a", &[]).await;
    }
    assert_eq!((got.body.as_str(), place.fetched(), got.header("content-length")), ("one two", 1, "7"));
}

fn futures_of(
    mut queue: mpsc::Receiver<Bytes>,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> {
    futures::stream::poll_fn(move |cx| {
        queue.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    })
}

#[tokio::test]
async fn what_is_too_large_is_passed_through_whole_and_not_stored() {
    let large = Bytes::from(vec![b'x'; 3 << 20]);
    let body = large.clone();
    let place = place(move |request, _| {
        let (body, chunked) = (body.clone(), request.uri().path().ends_with("chunked"));
        Box::pin(async move {
            let mut response = say(200, &[("cache-control", "max-age=60")], body.clone());
            if chunked {
                let pieces = (0..body.len())
                    .step_by(100_000)
                    .map(move |at| body.slice(at..body.len().min(at + 100_000)));
                let frames = pieces.map(|piece| Ok(Frame::data(piece))).collect::<Vec<_>>();
                *response.body_mut() = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
            }
            Some(response)
        })
    })
    .await;
    for path in ["/sized", "/chunked"] {
        for _ in 0..2 {
            let got = place.get(path, &[]).await;
            assert!(
                got.body.len() == large.len() && got.did().contains("fwd=uri-miss"),
                "{path} {}",
                got.did()
            );
        }
    }
    assert_eq!(place.fetched(), 4);
    let part = place.get("/sized", &[("range", "bytes=0-9")]).await;
    assert_eq!((part.body.len(), place.last_asked()["range"].to_str().unwrap()), (large.len(), "bytes=0-9"));
}
