//! Callers and origins that lie, and what the next visitor gets all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use edge_cache::origin::{OriginError, nothing};
use edge_cache::upload::{BODY_BYTES_MAX, UploadError};
use edge_cache::{Failure, RequestBody};
use futures::stream;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};

use crate::origin::{Got, Place, ask_with, place, say, saying, sending};

const PAUSE: Duration = Duration::from_millis(50);

fn full(body: impl Into<Bytes>) -> RequestBody {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body in such pieces; `None`: it is malformed from there on.
fn pieces(pieces: Vec<Option<Bytes>>) -> RequestBody {
    let frames = pieces.into_iter().map(|piece| match piece {
        Some(piece) => Ok(Frame::data(piece)),
        None => Err("an invalid chunk".into()),
    });
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

async fn send(
    place: &Place,
    method: Method,
    headers: &[(&str, &str)],
    body: RequestBody,
) -> Result<u16, Failure> {
    let answered = ask_with(&place.cache, method, "/a", headers, body).await?;
    let status = answered.status().as_u16();
    answered.into_body().collect().await.unwrap();
    Ok(status)
}

#[tokio::test]
async fn a_request_is_framed_by_what_is_really_sent() {
    let place = place(|request, _| {
        Box::pin(async move {
            let said = request.headers().get("content-length").map(|len| len.to_str().unwrap().to_owned());
            let came = request.into_body().collect().await.unwrap().to_bytes().len();
            Some(say(200, &[("cache-control", "no-store")], format!("{said:?} {came}")))
        })
    })
    .await;
    let smuggled = "GET /target HTTP/1.1\r\nx: ";
    let len = smuggled.len().to_string();
    for (method, headers, came) in [
        (Method::GET, vec![("content-length", &*len), ("transfer-encoding", "chunked")], 0),
        (Method::GET, vec![("content-length", &*len), ("range", "bytes=0-1")], 0),
        (Method::GET, vec![("content-length", &*len), ("cache-control", "no-cache")], 0),
        (Method::GET, vec![("content-length", &*len), ("if-match", "*")], 0),
        (Method::POST, vec![("content-length", "5")], smuggled.len()),
        (Method::DELETE, vec![("content-length", "500")], smuggled.len()),
    ] {
        let answered = ask_with(&place.cache, method.clone(), "/a", &headers, full(smuggled)).await.unwrap();
        let said = crate::origin::Got::of(answered).await.body;
        let due =
            if came == 0 { "None 0".to_owned() } else { format!("Some({:?}) {came}", came.to_string()) };
        assert_eq!(said, due, "{method} {headers:?}");
        assert!(!place.last_asked().contains_key("transfer-encoding"));
    }
    send(&place, Method::HEAD, &[("content-length", "5")], full("hello")).await.unwrap();
    assert!(!place.last_asked().contains_key("content-length"));
}

#[tokio::test]
async fn a_coding_that_is_not_undone_is_not_passed_on_as_content() {
    let place = saying(200, &[("cache-control", "max-age=60")]).await;
    let coded = send(&place, Method::POST, &[("transfer-encoding", "gzip, chunked")], full("x")).await;
    assert_eq!((coded, place.fetched()), (Err(Failure::Coding), 0));
    assert_eq!(send(&place, Method::POST, &[("transfer-encoding", "chunked")], full("x")).await, Ok(200));
}

#[tokio::test]
async fn a_callers_mistakes_are_not_the_origins() {
    let place = place(|request, _| {
        Box::pin(async move {
            request.into_body().collect().await.ok()?;
            Some(say(200, &[("cache-control", "no-store")], ""))
        })
    })
    .await;
    let piece = || Some(Bytes::from(vec![b'x'; 1 << 20]));
    let many = usize::try_from(BODY_BYTES_MAX >> 20).unwrap();
    for _ in 0..12 {
        let broken = send(&place, Method::POST, &[], pieces(vec![None])).await;
        assert_eq!(broken, Err(Failure::Origin(OriginError::Upload(UploadError::Broken))));
        let broken = send(&place, Method::POST, &[], pieces(vec![piece(), None])).await;
        assert_eq!(broken, Err(Failure::Origin(OriginError::Upload(UploadError::Broken))));
        let large = send(&place, Method::PUT, &[], full(vec![b'x'; (BODY_BYTES_MAX + 1) as usize])).await;
        assert_eq!(large, Err(Failure::Origin(OriginError::Upload(UploadError::TooLarge))));
        let large = send(&place, Method::PUT, &[], pieces((0..=many).map(|_| piece()).collect())).await;
        assert_eq!(large, Err(Failure::Origin(OriginError::Upload(UploadError::TooLarge))));
    }
    assert_eq!(place.get("/b", &[]).await.status, 200, "the origin is well");
    let whole = send(&place, Method::PUT, &[], pieces((0..many).map(|_| piece()).collect())).await;
    assert!(whole.is_ok(), "as much as may be goes on: {whole:?}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_slow_is_not_the_origins_failure() {
    let place = place(|request, _| {
        Box::pin(async move {
            let _ = request.into_body().collect().await;
            Some(say(200, &[], ""))
        })
    })
    .await;
    for _ in 0..12 {
        let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"x")))]);
        let body = StreamBody::new(futures::StreamExt::chain(first, stream::pending()));
        let slow = send(&place, Method::POST, &[], body.boxed_unsync()).await;
        assert_eq!(slow, Err(Failure::Origin(OriginError::Upload(UploadError::Slow))));
    }
    assert_eq!(place.get("/b", &[]).await.status, 200, "the origin is well");
}

/// An origin that says `first`, and to who has that, a 304 with `then`.
async fn changing(
    first: &'static [(&'static str, &'static str)],
    then: &'static [(&'static str, &'static str)],
) -> Place {
    place(move |request, number| {
        let has = request.headers().contains_key("if-none-match");
        Box::pin(
            async move { Some(if has { say(304, then, "") } else { say(200, first, number.to_string()) }) },
        )
    })
    .await
}

#[tokio::test]
async fn what_a_304_makes_private_is_nobody_elses() {
    const FIRST: &[(&str, &str)] = &[("etag", "\"a\""), ("cache-control", "max-age=1"), ("age", "1")];
    for then in [
        &[("etag", "\"a\""), ("cache-control", "max-age=60"), ("set-cookie", "session=1")][..],
        &[("etag", "\"a\""), ("cache-control", "private, max-age=60"), ("set-cookie", "session=1")],
        &[("etag", "\"a\""), ("cache-control", "no-store"), ("set-cookie", "session=1")],
        &[("etag", "\"a\""), ("vary", "*"), ("set-cookie", "session=1")],
    ] {
        let place = changing(FIRST, then).await;
        assert_eq!(place.get("/a", &[]).await.body, "1");
        let one = place.get("/a", &[]).await;
        assert_eq!((one.body.as_str(), one.header("set-cookie")), ("1", "session=1"), "who asked gets it");
        assert_eq!(one.did(), "fwd=stale; fwd-status=304");
        let other = place.get("/a", &[]).await;
        assert_eq!((other.body.as_str(), other.header("set-cookie")), ("3", ""), "{then:?}");
    }
}

#[tokio::test]
async fn a_304_says_anew_for_whom_a_response_is() {
    const FIRST: &[(&str, &str)] = &[("etag", "\"a\""), ("cache-control", "public, max-age=1"), ("age", "1")];
    const THEN: &[(&str, &str)] = &[("etag", "\"a\""), ("cache-control", "max-age=60"), ("vary", "cookie")];
    let place = changing(FIRST, THEN).await;
    place.get("/a", &[]).await;
    let cookie = [("cookie", "a=b")];
    assert_eq!(place.get("/a", &cookie).await.did(), "fwd=stale; fwd-status=304; stored");
    assert!(place.get("/a", &cookie).await.did().starts_with("hit"));
    assert_eq!(place.get("/a", &[]).await.body, "3", "the stored one is for that cookie only");
    let place = changing(FIRST, THEN).await;
    place.get("/b", &[]).await;
    assert_eq!(place.get("/b", &[("authorization", "Bearer x")]).await.did(), "fwd=stale; fwd-status=304");
    assert_eq!(place.get("/b", &[]).await.did(), "fwd=stale; fwd-status=304; stored", "it was not updated");
}

#[tokio::test]
async fn the_length_of_a_response_is_its_bodys() {
    let place = sending(
        b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n\
          10\r\n0123456789abcdef\r\n0\r\n\r\n",
    )
    .await;
    for len in ["", "16"] {
        let got = place.get("/a", &[]).await;
        assert_eq!((got.body.len(), got.header("content-length")), (16, len));
    }
    let head = place.ask(Method::HEAD, "/b", &[]).await.unwrap();
    assert!(!head.headers().contains_key("content-length"), "it is not known");
    let place = sending(
        b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    )
    .await;
    let got = place.ask(Method::GET, "/a", &[]).await.err();
    assert_eq!(got, Some(Failure::Origin(OriginError::Coding("shop".into()))));
}

#[tokio::test]
async fn one_clients_conditions_are_answered_to_it_alone() {
    let place = place(|request, number| {
        let failed = request.headers().contains_key("if-match")
            || request.headers().contains_key("if-unmodified-since")
            || request.headers().contains_key("expect");
        Box::pin(async move {
            let headers = [("cache-control", "max-age=60"), ("etag", "\"a\"")];
            Some(say(if failed { 412 } else { 200 }, &headers, number.to_string()))
        })
    })
    .await;
    for (number, condition) in ["if-match", "if-unmodified-since"].into_iter().enumerate() {
        let path = format!("/{number}");
        let one = place.get(&path, &[(condition, "\"nope\"")]).await;
        assert_eq!((one.status, one.did()), (412, "fwd=request; fwd-status=412"), "{condition}");
        assert_eq!(place.get(&path, &[]).await.status, 200, "{condition}");
        assert!(place.get(&path, &[]).await.did().starts_with("hit"));
        assert_eq!(place.get(&path, &[(condition, "\"nope\"")]).await.status, 412, "{condition}");
    }
    for (name, value) in [("If_Match", "\"nope\""), ("expect", "100-continue"), ("a-im", "feed")] {
        place.get(&format!("/{name}"), &[(name, value)]).await;
        assert!(!place.last_asked().contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn head_is_answered_wherever_get_is() {
    let mut place = saying(200, &[("cache-control", "max-age=60"), ("age", "100")]).await;
    let status = async |place: &Place, path: &str, headers: &[(&str, &str)]| {
        place.ask(Method::HEAD, path, headers).await.map(|head| head.status().as_u16())
    };
    place.get("/a", &[]).await;
    assert_eq!(
        status(&place, "/none", &[("cache-control", "only-if-cached")]).await,
        Err(Failure::NotCached)
    );
    place.end_origin().await;
    let head = place.ask(Method::HEAD, "/a", &[]).await.unwrap();
    assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &"1".parse().unwrap()));
    assert!(head.headers()["cache-status"].to_str().unwrap().ends_with("detail=offline"));
    assert!(matches!(status(&place, "/b", &[]).await, Err(Failure::Origin(_))));
    place.reopen().await;
    assert_eq!(status(&place, "/a", &[]).await, Ok(200), "it is on disk");
}

#[tokio::test]
async fn what_varies_by_the_scheme_is_found_again() {
    let place = saying(200, &[("cache-control", "max-age=60"), ("vary", "x-forwarded-proto")]).await;
    place.get("/a", &[]).await;
    assert_eq!(place.get("/a", &[("x-forwarded-proto", "http")]).await.body, "1");
}

#[tokio::test]
async fn a_field_that_its_origin_never_saw_chooses_nobodys_variant() {
    let place = saying(200, &[("cache-control", "max-age=60"), ("vary", "X-Forwarded-For, X-Way")]).await;
    // All come from one address, whatever they say.
    assert_eq!(place.get("/a", &[]).await.body, "1");
    for said in ["192.0.2.7", "192.0.2.1"] {
        assert_eq!(place.get("/a", &[("x-forwarded-for", said)]).await.body, "1", "{said}");
    }
    let other = Request::new(nothing());
    let from = |last| Some([192, 0, 2, last].into());
    let other = place.cache.serve("shop", "/a", from(7), other).await.unwrap();
    assert_eq!(Got::of(other).await.body, "2", "another address is another variant");
    let mut lying = Request::new(nothing());
    lying.headers_mut().insert("x-forwarded-for", "192.0.2.7".parse().unwrap());
    let lying = place.cache.serve("shop", "/a", from(1), lying).await.unwrap();
    assert_eq!(Got::of(lying).await.body, "1", "and is not had by saying so");
}

#[tokio::test]
async fn a_cookie_in_pieces_finds_what_was_stored_for_it() {
    let place = saying(200, &[("cache-control", "max-age=60"), ("vary", "Cookie")]).await;
    for pieces in [&[("cookie", "a=1"), ("cookie", "b=2")][..], &[("cookie", "a=1; b=2")][..]] {
        assert_eq!(place.get("/a", pieces).await.body, "1");
    }
}

/// With one place at the origin, nobody waits for a second while holding the first.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_itself() {
    let one_by_one = async |mut place: Place| {
        place.config.origins[0].connections_max = 1;
        place.reopen().await;
        place
    };
    let place = one_by_one(saying(200, &[("cache-control", "no-store")]).await).await;
    for _ in 0..3 {
        assert_eq!(place.get("/a", &[("range", "bytes=0-0")]).await.status, 200);
    }
    // A 304 about another response: all of it is asked for.
    const STALE: &[(&str, &str)] = &[("etag", "\"a\""), ("cache-control", "max-age=1"), ("age", "1")];
    let place = one_by_one(changing(STALE, &[("etag", "\"b\"")]).await).await;
    for body in ["1", "3"] {
        assert_eq!(place.get("/a", &[]).await.body, body);
    }
}

/// An origin that was left alone is tried by one at a time; a caller that spoils its own try keeps nobody else from the next.
#[tokio::test]
async fn a_callers_mistake_is_no_try() {
    let gone = Arc::new(AtomicBool::new(true));
    let is_gone = gone.clone();
    let place = place(move |request, _| {
        let is_gone = is_gone.load(Ordering::SeqCst);
        Box::pin(async move {
            request.into_body().collect().await.ok().filter(|_| !is_gone)?;
            Some(say(200, &[("cache-control", "no-store")], ""))
        })
    })
    .await;
    let get = async || place.ask(Method::GET, "/a", &[]).await;
    while !matches!(get().await, Err(Failure::Origin(OriginError::LeftAlone(..)))) {}
    gone.store(false, Ordering::SeqCst);
    let broken = loop {
        match send(&place, Method::POST, &[], pieces(vec![None])).await {
            Err(Failure::Origin(OriginError::LeftAlone(..))) => tokio::time::sleep(PAUSE).await,
            tried => break tried,
        }
    };
    assert_eq!(broken, Err(Failure::Origin(OriginError::Upload(UploadError::Broken))));
    assert_eq!(get().await.unwrap().status(), 200, "the next one tries at once");
}

#[tokio::test]
async fn confirming_one_language_forgets_no_other() {
    let place = place(|request, number| {
        let said = request.headers()["accept-language"].to_str().unwrap();
        let (language, has) = (said[..2].to_owned(), request.headers().contains_key("if-none-match"));
        Box::pin(async move {
            let tag = format!("\"{language}\"");
            let stale = [("cache-control", "max-age=1"), ("age", "1"), ("vary", "accept-language")];
            let of = [("etag", tag.as_str()), ("content-language", language.as_str())];
            let headers = [&stale[..], &of[..]].concat();
            Some(say(
                if has { 304 } else { 200 },
                &headers,
                if has { String::new() } else { number.to_string() },
            ))
        })
    })
    .await;
    let get = async |languages| place.get("/a", &[("accept-language", languages)]).await.body;
    assert_eq!((get("en").await, get("de").await), ("1".into(), "2".into()));
    assert_eq!(get("en, fr;q=0.5").await, "1", "found by its language, and confirmed");
    assert_eq!(get("de").await, "2", "which is still here");
    assert_eq!(get("en").await, "1");
}
