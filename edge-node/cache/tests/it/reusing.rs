//! What is answered from what is stored.

use http::Method;

use crate::origin::{place, say, saying};

#[tokio::test]
async fn the_second_request_is_a_hit() {
    let place =
        saying(200, &[("cache-control", "max-age=60"), ("x-a", "1"), ("connection", "x-b"), ("x-b", "1")])
            .await;
    let miss = place.get("/a?b=c", &[]).await;
    assert_eq!((miss.status, miss.did()), (200, "fwd=uri-miss; fwd-status=200; stored"));
    let hit = place.get("/a?b=c", &[]).await;
    assert_eq!((hit.body.as_str(), hit.header("age"), hit.header("x-a")), ("1", "0", "1"));
    assert!(hit.did().starts_with("hit; ttl=") && !hit.headers.contains_key("x-b"), "{}", hit.did());
    assert_eq!(place.get("/a?b=d", &[]).await.body, "2", "the query is of the key");
    let asked = place.last_asked();
    assert!(asked["via"] == "1.1 rockpool" && asked["host"].to_str().unwrap().starts_with("127.0.0.1:"));
    let head = place.ask(Method::HEAD, "/a?b=c", &[]).await.unwrap();
    assert_eq!((&head.headers()["content-length"], place.fetched()), (&"1".parse().unwrap(), 2));
}

#[tokio::test]
async fn what_is_for_one_visitor_is_not_given_to_another() {
    for headers in [
        &[("cache-control", "no-store")][..],
        &[("cache-control", "max-age=60"), ("set-cookie", "a=b")],
        &[("cache-control", "max-age=60"), ("vary", "*")],
    ] {
        let place = saying(200, headers).await;
        let bodies = [place.get("/a", &[]).await.body, place.get("/a", &[]).await.body];
        assert_eq!(bodies, ["1", "2"], "{headers:?}");
    }
    let place = saying(200, &[("cache-control", "max-age=60")]).await;
    let key = [("authorization", "Bearer x")];
    assert_eq!([place.get("/a", &key).await.body, place.get("/a", &key).await.body], ["1", "2"]);
    assert_eq!(place.get("/a", &[("cookie", "a=b")]).await.body, "3");
    assert_eq!(
        place.get("/a", &[]).await.body,
        "3",
        "cookies alone make no response private (RFC 9111, 7.3)"
    );
}

#[tokio::test]
async fn variants_are_kept_apart() {
    let place = place(|request, _| {
        let language = request.headers()["accept-language"].clone();
        let headers = [("cache-control", "max-age=60"), ("vary", "Accept-Language")];
        Box::pin(async move { Some(say(200, &headers, language.as_bytes().to_vec())) })
    })
    .await;
    for _ in 0..2 {
        for language in ["zh-CN", "en", "de"] {
            assert_eq!(place.get("/a", &[("accept-language", language)]).await.body, language);
        }
    }
    assert_eq!(place.fetched(), 3);
    assert_eq!(
        place.get("/a", &[("accept-language", "fr")]).await.did(),
        "fwd=vary-miss; fwd-status=200; stored"
    );
}

#[tokio::test]
async fn the_origin_is_asked_whether_it_still_holds() {
    let place = place(|request, number| {
        let held = request.headers().get("if-none-match").is_some_and(|tag| tag == "\"v1\"");
        let headers =
            [("cache-control", "max-age=0"), ("etag", "\"v1\""), ("x-number", &*number.to_string())]
                .map(|(name, value)| (name, value.to_owned()));
        Box::pin(async move {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            Some(if held { say(304, &headers, "") } else { say(200, &headers, "body") })
        })
    })
    .await;
    place.get("/a", &[]).await;
    let got = place.get("/a", &[]).await;
    assert_eq!((got.status, got.body.as_str(), got.header("x-number")), (200, "body", "2"));
    assert_eq!(got.did(), "fwd=stale; fwd-status=304; stored");
    let theirs = place.get("/a", &[("if-none-match", "\"v1\"")]).await;
    assert_eq!((theirs.status, theirs.body.as_str()), (304, ""));
    assert_eq!(place.fetched(), 3);
}

#[tokio::test]
async fn stale_is_served_while_the_origin_is_asked() {
    let place = place(|_, number| {
        let age = if number == 1 { "100" } else { "0" };
        let headers = [("cache-control", "max-age=60, stale-while-revalidate=1000"), ("age", age)];
        Box::pin(async move { Some(say(200, &headers, number.to_string())) })
    })
    .await;
    place.get("/a", &[]).await;
    let stale = place.get("/a", &[]).await;
    assert_eq!((stale.body.as_str(), stale.did()), ("1", "hit; ttl=-40; detail=stale-while-revalidate"));
    let mut got = place.get("/a", &[]).await;
    while got.body == "1" {
        tokio::task::yield_now().await;
        got = place.get("/a", &[]).await;
    }
    assert_eq!((got.body.as_str(), place.fetched()), ("2", 2));
}

#[tokio::test]
async fn parts_come_from_the_whole() {
    let headers: &[(&str, &str)] = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];
    let place = place(move |_, _| Box::pin(async move { Some(say(200, headers, "0123456789")) })).await;
    let miss = place.get("/a", &[("range", "bytes=2-4")]).await;
    assert_eq!((miss.status, miss.body.as_str(), miss.header("content-range")), (206, "234", "bytes 2-4/10"));
    let hit = place.get("/a", &[("range", "bytes=-3")]).await;
    assert_eq!((hit.status, hit.body.as_str(), hit.header("content-length")), (206, "789", "3"));
    assert_eq!(place.get("/a", &[("range", "bytes=10-")]).await.status, 416);
    let changed = place.get("/a", &[("range", "bytes=2-4"), ("if-range", "\"b\"")]).await;
    assert_eq!((changed.status, changed.body.len()), (200, 10));
    assert_eq!(place.fetched(), 1);
}

#[tokio::test]
async fn an_unsafe_method_makes_what_it_may_have_changed_be_fetched_anew() {
    let place = place(|request, number| {
        let post = request.method() == Method::POST;
        Box::pin(async move {
            let headers = [("cache-control", "max-age=60"), ("location", "/base/b")];
            Some(say(if post { 201 } else { 200 }, &headers, number.to_string()))
        })
    })
    .await;
    for path in ["/a", "/b", "/c"] {
        place.get(path, &[]).await;
    }
    place.ask(Method::POST, "/a", &[]).await.unwrap();
    let bodies =
        [place.get("/a", &[]).await.body, place.get("/b", &[]).await.body, place.get("/c", &[]).await.body];
    assert_eq!(bodies, ["5", "6", "3"]);
}

#[tokio::test]
async fn it_is_warm_after_a_restart() {
    let mut place = saying(200, &[("cache-control", "max-age=60"), ("cache-tag", "shop")]).await;
    place.get("/a", &[]).await;
    place.reopen().await;
    let got = place.get("/a", &[]).await;
    assert_eq!((got.body.as_str(), place.fetched()), ("1", 1));
    assert!(got.did().starts_with("hit"), "{}", got.did());
    place.ledger.purge(proto::purge::PurgeKey::of_tag("shop"));
    place.reopen().await;
    assert_eq!(place.get("/a", &[]).await.body, "2", "a purge outlives it, too");
}

#[tokio::test]
async fn nothing_leads_out_of_the_origins_path() {
    let place = saying(200, &[("cache-control", "max-age=60")]).await;
    for path in ["/../secret", "/%2e%2e/secret", "/a/./b"] {
        assert_eq!(
            place.ask(Method::GET, path, &[]).await.err(),
            Some(edge_cache::Failure::Target),
            "{path}"
        );
    }
    let known = place.cache.resource("/c/shop/a");
    assert!(known.is_some() && place.cache.resource("/c/other/a").is_none());
    assert_eq!(place.fetched(), 0);
}

#[tokio::test]
async fn what_a_caller_says_of_its_way_here_reaches_no_origin() {
    let place = saying(200, &[("cache-control", "max-age=60")]).await;
    let lies = [
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-original-url", "/admin"),
        ("forwarded", "host=evil"),
    ];
    place.get("/a", &[&lies[..], &[("host", "evil.example"), ("x-a", "1")]].concat()).await;
    let asked = place.last_asked();
    assert!(
        ["x-forwarded-host", "x-original-url", "forwarded"].iter().all(|name| !asked.contains_key(*name))
    );
    assert!(asked["host"].to_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(
        (&asked["x-forwarded-for"], &asked["x-forwarded-proto"], &asked["x-a"]),
        (&"192.0.2.1".parse().unwrap(), &"https".parse().unwrap(), &"1".parse().unwrap())
    );
}

#[tokio::test]
async fn what_post_says_of_the_same_resource_answers_get_where_the_origin_says_so() {
    let place = place(|request, number| {
        let (path, posted) = (request.uri().path().to_owned(), request.method() == Method::POST);
        Box::pin(async move {
            let (control, location) = match path.strip_prefix("/base").unwrap() {
                "/same" => ("max-age=60", "/base/same"),
                "/other" => ("max-age=60", "/base/same2"),
                _ => ("public", "/base/guessed"),
            };
            let headers = [("cache-control", control), ("content-location", location)];
            let said = if posted { "posted" } else { "got" };
            Some(say(200, &headers, format!("{said} {number}")))
        })
    })
    .await;
    for path in ["/same", "/other", "/guessed"] {
        place.get(path, &[]).await;
        let answered = place.ask(Method::POST, path, &[]).await.unwrap();
        let posted = crate::origin::Got::of(answered).await;
        assert!(posted.body.starts_with("posted"), "{path}");
        let mut got = place.get(path, &[]).await;
        // The last byte came to the cache a moment after it left the origin.
        while path == "/same" && !got.did().starts_with("hit") {
            got = place.get(path, &[]).await;
        }
        assert_eq!(got.body.starts_with("posted"), path == "/same", "{path}: {}", got.body);
    }
    let again = crate::origin::Got::of(place.ask(Method::POST, "/same", &[]).await.unwrap()).await;
    assert!(
        again.did().starts_with("fwd=method"),
        "POST itself is never answered from here: {}",
        again.did()
    );
}
