//! Which fields of a request its origin gets (RFC 9110, 7.6). An origin may write a field into its answer, or be led by it to another
//! answer, and everybody would get that answer from the cache; so what a caller says of its way here, or of the message's framing, is
//! not passed on.

use std::net::IpAddr;

use http::header::{
    CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, EXPECT,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::hops;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Where fields begin that say from where, or by which way, a request comes, or which host, path or method was meant.
const WAY_PREFIXES: [&str; 10] = [
    "forwarded",
    "x-forwarded",
    "x-original",
    "x-rewrite",
    "x-http-method",
    "x-http-host",
    "x-http-destination",
    "x-proxy",
    "x-envoy-",
    "proxy",
];
/// Such fields, by their whole name.
const WAY: [&str; 33] = [
    "base-url",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-visitor",
    "client-ip",
    "fastly-client-ip",
    "fastly-ssl",
    "front-end-https",
    "http-url",
    "real-ip",
    "remote-addr",
    "request-uri",
    "surrogate-capability",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-backend-host",
    "x-base-url",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarder-for",
    "x-host",
    "x-host-override",
    "x-method-override",
    "x-originating-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-scheme",
    "x-script-name",
    "x-url-scheme",
];
/// What is said of a request's body.
const OF_BODY: [HeaderName; 6] =
    [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_DISPOSITION];

/// Makes of a caller's header the one that its origin would get. Variants are told apart by this one, too: by a field that its origin never
/// saw, a caller could choose another caller's. How a body is framed is left to who sends it, since only that knows what is really sent
/// (RFC 9110, 8.6; RFC 9112, 6.3).
pub fn pass_on(headers: &mut HeaderMap, from: Option<IpAddr>) {
    hops::remove(headers);
    let misleading: Vec<HeaderName> =
        headers.keys().filter(|name| misleads(name.as_str())).cloned().collect();
    // A caller that expects `100 Continue` has got it here.
    for name in misleading.into_iter().chain([CONTENT_LENGTH, EXPECT]) {
        headers.remove(name);
    }
    join_cookies(headers);
    let from = from.and_then(|from| HeaderValue::try_from(from.to_string()).ok());
    headers.extend(from.map(|from| (FORWARDED_FOR, from)));
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
}

/// Takes out what is said of a body: none is sent.
pub fn without_body(headers: &mut HeaderMap) {
    for name in OF_BODY {
        headers.remove(name);
    }
}

/// Whether an origin may be misled by a field. Servers that hand fields to programs as CGI does (RFC 3875, 4.1.18) read every sign in a
/// name that is no letter or digit alike, so that `X_Forwarded_Host` is `X-Forwarded-Host` to them, and `If_Match` is `If-Match`. Only a
/// hyphen is taken, as nginx does.
fn misleads(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    !plain || WAY_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || WAY.contains(&name)
}

/// HTTP/2 and 3 may send a cookie in pieces, which HTTP/1.1 does not know (RFC 9113, 8.2.3; RFC 9114, 4.2.1).
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(fields: &[(&str, &str)], with_body: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        pass_on(&mut headers, Some([192, 0, 2, 1].into()));
        if !with_body {
            without_body(&mut headers);
        }
        headers
    }

    #[test]
    fn what_a_caller_says_of_its_way_is_not_passed_on_under_any_spelling() {
        for name in [
            "X-Forwarded-Host",
            "X_Forwarded_Host",
            "x-forwarded_host",
            "X.Forwarded.Host",
            "X-Forwarded",
            "Forwarded",
            "X-Original-URL",
            "X_Rewrite_URL",
            "X-HTTP-Method-Override",
            "X-Method-Override",
            "X-Real-IP",
            "True-Client-IP",
            "Proxy",
            "Proxy-Host",
            "Surrogate-Capability",
            "If_Match",
            "If_None_Match",
            "Content_Length",
            "Transfer_Encoding",
            "Accept_Language",
            "x~y",
        ] {
            let sent = sent(&[(name, "evil.example"), ("x-a", "1")], true);
            assert!(!sent.contains_key(name) && sent["x-a"] == "1", "{name}");
            assert!(!sent.values().any(|value| value == "evil.example"), "{name}");
        }
        let sent = sent(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "http")], false);
        assert_eq!(
            (&sent["x-forwarded-for"], &sent["x-forwarded-proto"]),
            (&"192.0.2.1".parse().unwrap(), &"https".parse().unwrap())
        );
        assert_eq!(sent.len(), 2);
    }

    #[test]
    fn framing_is_of_what_is_really_sent() {
        let said = [
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-t"),
            ("expect", "100-continue"),
            ("content-type", "a/b"),
            ("accept", "a/b"),
        ];
        let names = |headers: &HeaderMap| {
            let mut names: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&sent(&said, false)), ["accept", "x-forwarded-for", "x-forwarded-proto"]);
        assert_eq!(
            names(&sent(&said, true)),
            ["accept", "content-type", "x-forwarded-for", "x-forwarded-proto"]
        );
    }

    #[test]
    fn pieces_of_a_cookie_become_one() {
        let sent = sent(&[("cookie", "a=1"), ("cookie", "b=2")], false);
        assert_eq!(sent.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
