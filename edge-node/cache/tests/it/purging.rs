//! What was purged is not served again, whatever was under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;
use proto::purge::PurgeKey;
use tokio::sync::Notify;

use crate::origin::{Got, ask, place, say, saying};

#[tokio::test]
async fn by_url_and_by_tag() {
    let place = saying(200, &[("cache-control", "max-age=60"), ("surrogate-key", "shop item-1")]).await;
    for path in ["/a", "/b"] {
        place.get(path, &[]).await;
    }
    place.ledger.purge(place.cache.resource("/c/shop/a").unwrap());
    assert_eq!((place.get("/a", &[]).await.body, place.get("/b", &[]).await.body), ("3".into(), "2".into()));
    place.ledger.purge(PurgeKey::of_tag("item-1"));
    assert_eq!((place.get("/a", &[]).await.body, place.get("/b", &[]).await.body), ("4".into(), "5".into()));
    place.ledger.purge(PurgeKey::of_tag("other"));
    assert_eq!(place.get("/a", &[]).await.body, "4");
    assert_eq!(
        place.cache.resource(&format!("{}/a", place.config.origins[0].url)),
        place.cache.resource("/c/shop/a")
    );
}

#[tokio::test]
async fn what_was_asked_for_before_a_purge_is_for_nobody_who_came_after() {
    let go = Arc::new(Notify::new());
    let gate = go.clone();
    let place = place(move |_, number| {
        let gate = gate.clone();
        Box::pin(async move {
            if number == 1 {
                gate.notified().await;
            }
            Some(say(200, &[("cache-control", "max-age=60"), ("cache-tag", "shop")], number.to_string()))
        })
    })
    .await;
    let cache = place.cache.clone();
    let before = tokio::spawn(async move { ask(&cache, Method::GET, "/a", &[]).await });
    while place.fetched() == 0 {
        tokio::task::yield_now().await;
    }
    place.ledger.purge(PurgeKey::of_tag("shop"));
    let cache = place.cache.clone();
    let after =
        tokio::spawn(async move { Got::of(ask(&cache, Method::GET, "/a", &[]).await.unwrap()).await });
    tokio::task::yield_now().await;
    go.notify_one();
    assert_eq!(after.await.unwrap().body, "2");
    assert_eq!(Got::of(before.await.unwrap().unwrap()).await.body, "1", "who came before may have it");
    assert_eq!(place.get("/a", &[]).await.body, "2");
}

/// The origin's value only grows; it is changed, then purged, and whoever asks after that must see it or a newer one.
#[tokio::test(flavor = "multi_thread")]
async fn no_race_of_purge_and_fill_leaves_what_is_old() {
    const RACES: u64 = 10_000;
    let value = Arc::new(AtomicU64::new(0));
    let shown = value.clone();
    let place = place(move |_, _| {
        let value = shown.load(Ordering::SeqCst).to_string();
        Box::pin(async move {
            tokio::task::yield_now().await;
            Some(say(200, &[("cache-control", "max-age=60"), ("cache-tag", "shop")], value))
        })
    })
    .await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (cache, stop) = (place.cache.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    Got::of(ask(&cache, Method::GET, "/a", &[]).await.unwrap()).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for race in 1..=RACES {
        value.store(race, Ordering::SeqCst);
        place.ledger.purge(PurgeKey::of_tag("shop"));
        if race % 10 == 0 {
            let got = place.get("/a", &[]).await;
            assert!(got.body.parse::<u64>().unwrap() >= race, "{} after {race}: {}", got.body, got.did());
        }
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
}
