//! The rules, by example. Moments count from [`NOW`].

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::conditional::{Part, part};
use super::freshness::{Exchange, age, directives, lifetime};
use super::reuse::{Habits, Judged, Reuse, Terms, judge};
use super::settle::{Settled, Stored, settle};
use super::store::{Refused, may_store};
use super::{hops, validate, vary};

const NOW: u64 = 1_800_000_000;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

fn at(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.checked_add_signed(seconds).unwrap())
}

fn date(seconds: i64) -> String {
    httpdate::fmt_http_date(at(seconds))
}

fn lasts(status: u16, pairs: &[(&str, &str)]) -> u64 {
    let headers = headers(pairs);
    lifetime(StatusCode::from_u16(status).unwrap(), &headers, &directives(&headers), at(0))
        .unwrap_or_default()
        .as_secs()
}

#[test]
fn who_says_how_long_counts_in_order() {
    let (made, expires) = (date(0), date(100));
    assert_eq!(lasts(200, &[("cache-control", "max-age=60, s-maxage=90"), ("expires", &expires)]), 90);
    assert_eq!(lasts(200, &[("cache-control", "max-age=60"), ("date", &made), ("expires", &expires)]), 60);
    assert_eq!(lasts(200, &[("date", &made), ("expires", &expires)]), 100);
    assert_eq!(lasts(200, &[("expires", &expires)]), 100);
    let ours = ("cdn-cache-control", "max-age=7");
    assert_eq!(lasts(200, &[("cache-control", "no-store, max-age=60"), ours, ("expires", &expires)]), 7);
}

#[test]
fn what_is_said_to_caches_such_as_this_one_stands_for_all() {
    let targeted = |field: &str, value: &str| {
        let response =
            [("cache-control", "max-age=1"), (field, value), ("expires", &*date(100)), ("date", &*date(0))];
        lasts(200, &response)
    };
    assert_eq!(targeted("cdn-cache-control", "foo, max-age=60"), 60);
    assert_eq!(targeted("cdn-cache-control", "foo"), 0, "what is for all counts no more");
    assert_eq!(targeted("cdn-cache-control", "max-age=\"60\""), 0, "another type of value");
    for none in ["max-age =60", "max-age=60, &&&", "", "MaX-aGe=60"] {
        assert_eq!(targeted("cdn-cache-control", none), 1, "{none}: no Dictionary (RFC 9651)");
    }
    assert_eq!(targeted("surrogate-control", "MaX-aGe=60, content=\"ESI/1.0\""), 60);
    assert_eq!(targeted("surrogate-control", "max-age=60;Rockpool"), 60);
    assert_eq!(targeted("surrogate-control", "max-age=60;another"), 1);
    let both = [("surrogate-control", "max-age=60"), ("cdn-cache-control", "max-age=7")];
    assert_eq!(lasts(200, &both), 7);
    assert_eq!(
        storing(&[], 200, &[("cache-control", "max-age=60"), ("cdn-cache-control", "no-store")]),
        Err(Refused::NoStore)
    );
    assert_eq!(
        storing(&[], 200, &[("cache-control", "no-store"), ("cdn-cache-control", "max-age=60")]),
        Ok(())
    );
}

#[test]
fn what_cannot_be_read_has_passed() {
    for expires in ["0", "", "tomorrow", "Thu, 18 Aug 2050 02:01", "-1"] {
        assert_eq!(lasts(200, &[("date", &date(0)), ("expires", expires)]), 0, "{expires:?}");
    }
    assert_eq!(lasts(200, &[("cache-control", "max-age=x"), ("expires", &date(100))]), 0);
    for obsolete in ["Friday, 15-Jan-27 08:01:40 GMT", "Fri Jan 15 08:01:40 2027"] {
        assert_eq!(lasts(200, &[("date", &date(0)), ("expires", obsolete)]), 100, "{obsolete}");
    }
}

#[test]
fn where_nobody_says_a_tenth_of_its_age_is_guessed() {
    let changed = date(-1_000);
    assert_eq!(lasts(200, &[("date", &date(0)), ("last-modified", &changed)]), 100);
    assert_eq!(lasts(404, &[("date", &date(0)), ("last-modified", &changed)]), 100);
    assert_eq!(lasts(201, &[("date", &date(0)), ("last-modified", &changed)]), 0);
    assert_eq!(
        lasts(201, &[("cache-control", "public"), ("date", &date(0)), ("last-modified", &changed)]),
        100
    );
    assert_eq!(lasts(200, &[("date", &date(0)), ("last-modified", &date(-100_000_000))]), 24 * 3600);
    assert_eq!(lasts(200, &[("date", &date(0))]), 0);
}

#[test]
fn age_is_what_the_headers_say_or_the_clock_whichever_is_more() {
    let exchange = Exchange { asked: at(-2), came: at(0) };
    let old = |pairs: &[(&str, &str)]| age(&headers(pairs), exchange, at(10)).as_secs();
    assert_eq!(old(&[]), 12, "the request took 2 s, of which nobody knows which part");
    assert_eq!(old(&[("age", "30")]), 42);
    assert_eq!(old(&[("date", &date(-100))]), 110);
    assert_eq!(old(&[("age", "30"), ("date", &date(-100))]), 110);
    assert_eq!(old(&[("age", "30, 40")]), 42);
    for wrong in ["-1", "x", ".5", ""] {
        assert_eq!(old(&[("age", wrong)]), 12, "{wrong:?}");
    }
    for odd in ["30.5", "30;a=b", "30, x", "30 s"] {
        assert_eq!(old(&[("age", odd)]), 42, "{odd:?}");
    }
    assert_eq!(old(&[("date", &date(100))]), 12, "a clock that is ahead");
}

fn storing(request: &[(&str, &str)], status: u16, response: &[(&str, &str)]) -> Result<(), Refused> {
    may_store(&Method::GET, &headers(request), StatusCode::from_u16(status).unwrap(), &headers(response))
}

#[test]
fn what_is_stored() {
    let fresh = ("cache-control", "max-age=60");
    assert_eq!(storing(&[], 200, &[fresh]), Ok(()));
    assert_eq!(storing(&[], 200, &[]), Ok(()), "it can be validated, or its age guessed");
    assert_eq!(storing(&[], 599, &[fresh]), Ok(()), "whatever the status means");
    assert_eq!(storing(&[], 599, &[]), Err(Refused::NoLifetime));
    assert_eq!(storing(&[], 206, &[fresh]), Err(Refused::Status));
    assert_eq!(storing(&[], 599, &[("cache-control", "max-age=60, must-understand")]), Err(Refused::Status));
    assert_eq!(storing(&[], 200, &[("cache-control", "max-age=60, no-store")]), Err(Refused::NoStore));
    assert_eq!(storing(&[("cache-control", "no-store")], 200, &[fresh]), Err(Refused::RequestNoStore));
    assert_eq!(storing(&[], 200, &[("cache-control", "max-age=60, private")]), Err(Refused::Private));
    assert_eq!(storing(&[], 200, &[fresh, ("vary", "*")]), Err(Refused::VaryAll));
    let post = may_store(&Method::POST, &headers(&[]), StatusCode::OK, &headers(&[fresh]));
    assert_eq!(post, Err(Refused::Method));
}

#[test]
fn what_is_for_one_visitor_is_not_stored_unless_it_says_that_it_is_for_others() {
    let (key, cookie) = (("authorization", "Bearer x"), ("set-cookie", "a=b"));
    assert_eq!(storing(&[key], 200, &[("cache-control", "max-age=60")]), Err(Refused::Authorization));
    assert_eq!(storing(&[], 200, &[("cache-control", "max-age=60"), cookie]), Err(Refused::SetCookie));
    for says in ["public, max-age=60", "s-maxage=60"] {
        assert_eq!(storing(&[key], 200, &[("cache-control", says), cookie]), Ok(()), "{says}");
    }
    assert_eq!(storing(&[key], 200, &[("cache-control", "max-age=60, must-revalidate")]), Ok(()));
}

fn judged(request: &[(&str, &str)], response: &[(&str, &str)], after: i64) -> Judged {
    judged_as(200, request, response, after)
}

fn judged_as(status: u16, request: &[(&str, &str)], response: &[(&str, &str)], after: i64) -> Judged {
    let headers_of = headers(response);
    let exchange = Exchange { asked: at(0), came: at(0) };
    let terms = Terms::of(StatusCode::from_u16(status).unwrap(), &headers_of, exchange);
    let habits = Habits { offline: Duration::from_secs(300), negative: Duration::from_secs(5) };
    judge(&headers(request), &terms, at(after), habits)
}

#[test]
fn that_there_is_nothing_is_kept_for_a_moment() {
    assert_eq!(judged_as(404, &[], &[], 4).reuse, Reuse::Fresh);
    assert_eq!(judged_as(404, &[], &[], 5).reuse, Reuse::Revalidate);
    assert_eq!(judged_as(404, &[], &[("cache-control", "max-age=0")], 0).reuse, Reuse::Revalidate);
    assert_eq!(judged_as(405, &[], &[], 0).reuse, Reuse::Revalidate);
}

#[test]
fn what_is_fresh_is_the_answer_unless_the_client_wants_newer() {
    let sixty = [("cache-control", "max-age=60")];
    let fresh = judged(&[], &sixty, 59);
    assert_eq!((fresh.reuse, fresh.age.as_secs(), fresh.ttl_s), (Reuse::Fresh, 59, 1));
    assert_eq!(judged(&[], &sixty, 60).reuse, Reuse::Revalidate, "at its end it is stale (4.2)");
    assert_eq!(judged(&[("cache-control", "no-cache")], &sixty, 1).reuse, Reuse::Revalidate);
    assert_eq!(judged(&[("pragma", "no-cache")], &sixty, 1).reuse, Reuse::Revalidate);
    assert_eq!(judged(&[("cache-control", "x"), ("pragma", "no-cache")], &sixty, 1).reuse, Reuse::Fresh);
    assert_eq!(judged(&[("cache-control", "max-age=10")], &sixty, 11).reuse, Reuse::Revalidate);
    assert_eq!(judged(&[("cache-control", "max-age=10")], &sixty, 10).reuse, Reuse::Fresh);
    assert_eq!(judged(&[("cache-control", "min-fresh=30")], &sixty, 31).reuse, Reuse::Revalidate);
    assert_eq!(judged(&[], &[("cache-control", "max-age=60, no-cache")], 1).reuse, Reuse::Revalidate);
    assert_eq!(
        judged(&[], &[("cache-control", "max-age=60, no-cache=\"set-cookie\"")], 1).reuse,
        Reuse::Revalidate
    );
}

#[test]
fn what_is_stale_is_served_where_somebody_says_so() {
    let stale = |request: &str, response: &str| {
        judged(&[("cache-control", request)], &[("cache-control", response)], 100)
    };
    assert_eq!(stale("max-stale=50", "max-age=60").reuse, Reuse::Stale);
    assert_eq!(stale("max-stale=30", "max-age=60").reuse, Reuse::Revalidate);
    assert_eq!(stale("max-stale", "max-age=60").reuse, Reuse::Stale);
    assert_eq!(stale("x", "max-age=60, stale-while-revalidate=50").reuse, Reuse::WhileRevalidating);
    assert_eq!(stale("x", "max-age=60, stale-while-revalidate=30").reuse, Reuse::Revalidate);
    for strict in ["must-revalidate", "proxy-revalidate", "s-maxage=60"] {
        assert_eq!(stale("max-stale", &format!("max-age=60, {strict}")).reuse, Reuse::Revalidate, "{strict}");
    }
    assert_eq!(stale("x", "max-age=60, must-revalidate, stale-while-revalidate=50").reuse, Reuse::Revalidate);
}

#[test]
fn what_is_served_when_the_origin_is_gone() {
    let gone = |response: &str, after: i64| judged(&[], &[("cache-control", response)], after).if_gone;
    let error = |response: &str, after: i64| judged(&[], &[("cache-control", response)], after).if_error;
    assert!(!error("max-age=60", 100), "an origin that answers has not allowed it");
    assert!(error("s-maxage=60, stale-if-error=1000", 1_000) && error("max-age=60", 59));
    assert!(gone("max-age=60", 100), "for a time of our own, where nobody says");
    assert!(!gone("max-age=60", 361));
    assert!(gone("max-age=60, stale-if-error=1000", 1_000));
    assert!(!gone("max-age=60, stale-if-error=10", 100));
    assert!(!gone("max-age=60, must-revalidate", 100));
    assert!(!gone("max-age=60, must-revalidate, stale-if-error=1000", 100));
    assert!(!gone("no-cache", 1) && gone("max-age=60, must-revalidate", 1));
}

#[test]
fn a_response_fits_requests_that_are_alike_in_what_it_names() {
    let response = headers(&[("vary", "Accept-Encoding, x-a"), ("vary", "x-b")]);
    let of = |pairs: &[(&str, &str)]| vary::selecting(&headers(pairs), &response);
    let selecting = of(&[("accept-encoding", "gzip,  br"), ("x-a", "1")]);
    let fits = |pairs: &[(&str, &str)]| vary::fits(&headers(pairs), &selecting);
    assert!(fits(&[("x-a", "1"), ("accept-encoding", "gzip,br"), ("other", "x")]));
    assert!(fits(&[("x-a", "1"), ("accept-encoding", "gzip"), ("accept-encoding", "br")]));
    assert!(!fits(&[("x-a", "1"), ("accept-encoding", "gzip")]));
    assert!(!fits(&[("x-a", "1"), ("accept-encoding", "gzip,br"), ("x-b", "")]));
    assert!(!fits(&[]));
    assert!(vary::fits_nothing(&headers(&[("vary", "x, *")])));
    assert!(vary::fits_nothing(&headers(&[("vary", "accept cookie")])), "no name of a field");
}

#[test]
fn languages_are_one_list_in_whatever_order_and_case() {
    let response = headers(&[("vary", "accept-language"), ("content-language", "de")]);
    let liked = |languages: &str| headers(&[("accept-language", languages)]);
    let selecting = vary::selecting(&liked("en, de"), &response);
    for same in ["de, en", "eN,  De", "de;q=1.0, en;q=1"] {
        assert!(vary::fits(&liked(same), &selecting), "{same}");
    }
    for other in ["de", "en, de;q=0.5", "en, de, fr", "en; de", "en;q=2, de", ""] {
        assert!(!vary::fits(&liked(other), &selecting), "{other}");
    }
    let in_it = |languages: &str| vary::fits_by_language(&liked(languages), &selecting, &response);
    assert!(in_it("fr;q=0.5, DE;q=1.0") && in_it("de"));
    assert!(!in_it("fr, de") && !in_it("fr, de;q=0.5") && !in_it("*") && !in_it("de-AT") && !in_it("de;q"));
    let also = vary::selecting(&liked("en"), &headers(&[("vary", "accept-language, cookie")]));
    let asked = headers(&[("accept-language", "de"), ("cookie", "a=b")]);
    assert!(!vary::fits_by_language(&asked, &also, &response), "the cookie is another");
    assert!(!vary::fits_by_language(&liked("de"), &vary::Selecting::new(), &response));
}

#[test]
fn the_origin_is_asked_about_what_is_stored_and_not_what_the_client_has() {
    let mut request = headers(&[
        ("if-none-match", "\"theirs\""),
        ("range", "bytes=0-1"),
        ("if-range", "\"x\""),
        ("x-a", "1"),
    ]);
    let stored = headers(&[("etag", "W/\"ours\""), ("last-modified", &date(-10))]);
    assert!(validate::ask_if_changed(&mut request, &stored));
    let asked = headers(&[("x-a", "1"), ("if-none-match", "W/\"ours\""), ("if-modified-since", &date(-10))]);
    assert_eq!(request, asked);
    assert!(!validate::ask_if_changed(&mut request, &headers(&[])));
    assert_eq!(request, headers(&[("x-a", "1")]));
}

#[test]
fn a_304_changes_what_it_says_but_what_is_of_the_content() {
    let mut stored = headers(&[
        ("etag", "\"a\""),
        ("x", "1"),
        ("x", "2"),
        ("y", "3"),
        ("content-length", "9"),
        ("content-type", "a/b"),
    ]);
    let said = headers(&[
        ("etag", "\"a\""),
        ("x", "4"),
        ("x", "5"),
        ("content-length", "0"),
        ("content-type", "c/d"),
        ("content-encoding", "gzip"),
        ("date", &date(0)),
    ]);
    assert!(validate::is_about(&said, &stored));
    validate::refresh(&mut stored, &said);
    let due = headers(&[
        ("etag", "\"a\""),
        ("x", "4"),
        ("x", "5"),
        ("y", "3"),
        ("content-length", "9"),
        ("content-type", "c/d"),
        ("date", &date(0)),
    ]);
    assert_eq!(stored, due);
    assert!(!validate::is_about(&headers(&[("etag", "\"b\"")]), &stored));
    assert!(validate::is_about(&headers(&[]), &stored));
}

#[test]
fn what_one_client_asks_of_its_own_is_in_no_fetch_for_all() {
    let own = [
        "if-match",
        "if-unmodified-since",
        "if-none-match",
        "if-modified-since",
        "if-range",
        "range",
        "a-im",
    ];
    let mut request: HeaderMap = headers(&own.map(|name| (name, "\"nope\"")));
    request.extend(headers(&[("accept", "a/b")]));
    let mut validating = request.clone();
    validate::ask_for_all(&mut request);
    assert_eq!(request, headers(&[("accept", "a/b")]));
    assert!(validate::ask_if_changed(&mut validating, &headers(&[("etag", "\"a\"")])));
    assert_eq!(validating, headers(&[("accept", "a/b"), ("if-none-match", "\"a\"")]));
}

#[test]
fn a_weak_tag_stays_weak() {
    let mut stored = headers(&[("etag", "W/\"a\""), ("content-encoding", "gzip")]);
    let said = headers(&[("etag", "\"a\""), ("x", "1")]);
    assert!(validate::is_about(&said, &stored));
    validate::refresh(&mut stored, &said);
    assert_eq!(stored, headers(&[("etag", "W/\"a\""), ("content-encoding", "gzip"), ("x", "1")]));
}

/// What becomes of a 304 with these fields, to this request, where `stored` is stored.
fn confirmed(
    request: &[(&str, &str)],
    stored: &[(&str, &str)],
    said: &[(&str, &str)],
) -> (Result<(), Refused>, bool) {
    let (request, stored) = (headers(request), headers(stored));
    let selecting = vary::selecting(&request, &stored);
    let about = Stored { status: StatusCode::OK, headers: &stored, selecting: &selecting };
    match settle(&request, Some(about), StatusCode::NOT_MODIFIED, &headers(said)) {
        Settled::Confirmed { stored, forget, .. } => (stored, forget),
        other => panic!("{other:?}"),
    }
}

#[test]
fn after_a_304_the_whole_question_is_asked_again() {
    let stored = [("etag", "\"a\""), ("cache-control", "max-age=1")];
    let fresh = ("cache-control", "max-age=60");
    assert_eq!(confirmed(&[], &stored, &[fresh]), (Ok(()), false));
    for (said, refused) in [
        (("set-cookie", "session=1"), Refused::SetCookie),
        (("vary", "*"), Refused::VaryAll),
        (("cache-control", "private, max-age=60"), Refused::Private),
        (("cache-control", "no-store"), Refused::NoStore),
        (("cdn-cache-control", "private"), Refused::Private),
    ] {
        assert_eq!(confirmed(&[], &stored, &[said]), (Err(refused), true), "{said:?}");
    }
    let tags: Vec<_> = (0..=crate::key::TAGS_LEN_MAX).map(|n| n.to_string()).collect();
    assert_eq!(confirmed(&[], &stored, &[("cache-tag", &tags.join(","))]), (Err(Refused::Tags), true));
    let public = [("cache-control", "public, max-age=60"), ("set-cookie", "theme=dark")];
    assert_eq!(confirmed(&[], &stored, &public), (Ok(()), false));
    // Who asks counts, too, and takes nothing from others.
    let key = [("authorization", "Bearer x")];
    let public = [("etag", "\"a\""), ("cache-control", "public, max-age=1")];
    assert_eq!(confirmed(&key, &public, &[]), (Ok(()), false));
    assert_eq!(confirmed(&key, &public, &[fresh]), (Err(Refused::Authorization), false));
    let no_store = [("cache-control", "no-store")];
    assert_eq!(confirmed(&no_store, &stored, &[fresh]), (Err(Refused::RequestNoStore), false));
    // It was made for fewer requests than it seemed.
    assert_eq!(confirmed(&[("cookie", "a=b")], &stored, &[("vary", "Cookie")]), (Ok(()), true));
}

#[test]
fn a_304_about_another_response_changes_nothing() {
    let (stored, none) = (headers(&[("etag", "\"a\"")]), vary::Selecting::new());
    let about = || Some(Stored { status: StatusCode::OK, headers: &stored, selecting: &none });
    let of = |about, status: StatusCode, said: &[(&str, &str)]| {
        settle(&HeaderMap::new(), about, status, &headers(said))
    };
    assert_eq!(of(about(), StatusCode::NOT_MODIFIED, &[("etag", "\"b\"")]), Settled::OfAnother);
    let fresh = [("cache-control", "max-age=60")];
    assert_eq!(of(about(), StatusCode::OK, &fresh), Settled::New { stored: Ok(()) });
    assert_eq!(of(None, StatusCode::NOT_MODIFIED, &fresh), Settled::New { stored: Err(Refused::Status) });
}

fn sent(request: &[(&str, &str)], response: &[(&str, &str)]) -> Part {
    part(&Method::GET, &headers(request), StatusCode::OK, &headers(response), Some(100))
}

#[test]
fn who_has_it_hears_so() {
    let (tagged, dated) = ([("etag", "W/\"a\"")], date(-10));
    for list in ["\"a\"", "W/\"a\"", "\"x\", \"a\"", "*"] {
        assert_eq!(sent(&[("if-none-match", list)], &tagged), Part::NotModified, "{list}");
    }
    for list in ["\"b\"", "a", "\"a, b\"", ""] {
        assert_eq!(sent(&[("if-none-match", list)], &tagged), Part::All, "{list}");
    }
    assert_eq!(sent(&[("if-modified-since", &date(0))], &[("date", &date(0))]), Part::NotModified);
    assert_eq!(sent(&[("if-modified-since", &date(-1))], &[("date", &date(0))]), Part::All);
    let changed = [("last-modified", dated.as_str())];
    assert_eq!(sent(&[("if-modified-since", &dated)], &changed), Part::NotModified);
    assert_eq!(sent(&[("if-modified-since", &date(-11))], &changed), Part::All);
    assert_eq!(sent(&[("if-modified-since", &dated), ("if-none-match", "\"b\"")], &changed), Part::All);
}

#[test]
fn parts_are_sent_as_they_are_asked_for() {
    let some = |range: &str| sent(&[("range", range)], &[]);
    for (range, from, to) in [
        ("bytes=0-9", 0, 10),
        ("bytes=90-", 90, 100),
        ("bytes=-5", 95, 100),
        ("bytes=90-1000", 90, 100),
        ("bytes=-1000", 0, 100),
        ("Bytes=0-0", 0, 1),
    ] {
        assert_eq!(some(range), Part::Some(from..to), "{range}");
    }
    for range in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"] {
        assert_eq!(some(range), Part::Unsatisfiable, "{range}");
    }
    for range in ["bytes=5-1", "bytes=0-1,3-4", "lines=0-1", "bytes", "bytes=-", "bytes=a-b", "bytes=1-b"] {
        assert_eq!(some(range), Part::All, "{range}");
    }
}

#[test]
fn a_part_is_of_use_only_with_the_rest_of_the_same() {
    let etag = [("etag", "\"a\""), ("last-modified", "Fri, 15 Jan 2027 08:00:00 GMT")];
    let if_range = |value: &str| sent(&[("range", "bytes=0-9"), ("if-range", value)], &etag);
    assert_eq!(if_range("\"a\""), Part::Some(0..10));
    assert_eq!(if_range("Fri, 15 Jan 2027 08:00:00 GMT"), Part::Some(0..10));
    for other in ["\"b\"", "W/\"a\"", "Fri, 15 Jan 2027 08:00:01 GMT", "x"] {
        assert_eq!(if_range(other), Part::All, "{other}");
    }
}

#[test]
fn what_is_for_one_connection_goes_no_further() {
    let mut all = headers(&[
        ("connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("keep-alive", "1"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "x"),
        ("proxy-authorization", "x"),
        ("x-stays", "1"),
    ]);
    hops::remove(&mut all);
    assert_eq!(all, headers(&[("x-stays", "1")]));
}
