//! A node's door for HTTP, asked by curl, which nobody here wrote.

use std::time::Duration;

use proto::NodeId;
use rockpool::local::{Deployment, Overrides};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::Pop;

pub const NODE: NodeId = NodeId(1);

/// What curl heard.
pub struct Heard {
    pub status: u16,
    version: String,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Heard {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// A problem with this code.
    pub fn refuses(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.json()["code"].as_str()), (status, Some(code)), "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
    }
}

fn url(pop: &Pop, path: &str) -> (String, String, String) {
    let address = &pop.deployment.ports()[&NODE].clients;
    let (host, port) = address.rsplit_once(':').unwrap();
    let name = pop.deployment.server_name().unwrap();
    (format!("https://{name}:{port}{path}"), format!("{name}:{port}:{host}"), port.to_owned())
}

pub async fn curl(pop: &Pop, path: &str, more: &[&str]) -> Heard {
    let (url, resolve, _) = url(pop, path);
    let ca = pop.deployment.dir().join("pki/ca.pem");
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--compressed", "--max-time", "20", "--resolve", &resolve, "--cacert"]);
    let output = command.arg(ca).args(more).arg(url).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let (version, status) = lines.next().unwrap().split_once(' ').unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    Heard {
        status: status.split(' ').next().unwrap().parse().unwrap(),
        version: version.to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: body.to_owned(),
    }
}

/// Sends JSON, with the app key.
pub async fn post(pop: &Pop, path: &str, body: &Value) -> Heard {
    let key = format!("authorization: Bearer {}", pop.deployment.app_key());
    let body = body.to_string();
    curl(pop, path, &["-H", &key, "-H", "content-type: application/json", "--data-binary", &body]).await
}

pub async fn counts(pop: &Pop, total: u64) {
    let counted = async |this: &Deployment| {
        let now = this.control()?.event_counts().await?.total;
        anyhow::ensure!(now == total, "{now} of {total}");
        Ok(())
    };
    pop.deployment
        .until("the cloud has counted each event once", Duration::from_secs(20), counted)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_and_2_offer_and_count() {
    let pop = Pop::serving().await;
    let ask = json!({"user_id": "u-1", "slot": "home", "count": 5});
    for (option, version) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")] {
        let key = format!("authorization: Bearer {}", pop.deployment.app_key());
        let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let json = "content-type: application/json";
        let more =
            [option, "-H", &key, "-H", trace, "-H", json, "-H", "x-request-id: mine", "-d", &ask.to_string()];
        let heard = curl(&pop, "/v1/recommend", &more).await;
        assert_eq!((heard.status, heard.version.as_str()), (200, version), "{}", heard.body);
        let answer = heard.json();
        assert_eq!(answer["items"].as_array().unwrap().len(), 5, "{answer}");
        assert_eq!(answer["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(
            (heard.header("x-request-id"), heard.header("cache-control")),
            (Some("mine"), Some("no-store"))
        );
    }
    let id = uuid::Uuid::now_v7();
    let events =
        json!({"events": [{"id": id, "user_id": "u-1", "type": "click", "item": "i3", "slot": "home"}]});
    let counted = post(&pop, "/v1/events", &events).await.json();
    assert_eq!((&counted["accepted"], &counted["duplicates"]), (&json!(1), &json!(0)));
    let again = post(&pop, "/v1/events", &events).await.json();
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(0), &json!(1)));
    let seen = json!({"user_id": "u-1", "slot": "home", "count": 100, "session": counted["session"]});
    let answer = post(&pop, "/v1/recommend", &seen).await.json();
    assert_eq!(answer["fresh"], true);
    let offered: Vec<&str> =
        answer["items"].as_array().unwrap().iter().map(|i| i["item"].as_str().unwrap()).collect();
    assert!(!offered.contains(&"i3"), "what was chosen is not offered again: {offered:?}");
    counts(&pop, 1).await;
}

/// What apps that speak Segment's tracking API send, changed in nothing but the host.
#[tokio::test(flavor = "multi_thread")]
async fn segments_messages_count_once() {
    let pop = Pop::serving().await;
    let key = format!("{}:", pop.deployment.app_key());
    let batch = json!({"sentAt": "2026-01-01T00:00:10Z", "batch": [
        {"type": "identify", "messageId": "m-1", "userId": "u-2", "traits": {"plan": "gold"}, "timestamp": "2026-01-01T00:00:00Z"},
        {"type": "track", "messageId": "m-2", "userId": "u-2", "event": "Product Viewed", "properties": {"product_id": "i7"},
         "timestamp": "2026-01-01T00:00:05Z"},
    ]});
    for known in [None, Some("2")] {
        let heard = curl(&pop, "/v1/batch", &["-u", &key, "--data-binary", &batch.to_string()]).await;
        assert_eq!((heard.status, heard.json()), (200, json!({"success": true})));
        let noted =
            ["rockpool-changed", "rockpool-skipped", "rockpool-duplicates"].map(|name| heard.header(name));
        assert_eq!(noted, [None, None, known]);
    }
    // The same message says that it happened a millisecond later: sent by another's retry, say.
    let again =
        json!({"messageId": "m-1", "userId": "u-2", "timestamp": "2026-01-01T00:00:00.001Z"}).to_string();
    let heard = curl(&pop, "/v1/identify", &["-u", &key, "--data-binary", &again]).await;
    assert_eq!(heard.header("rockpool-duplicates"), Some("1"), "{}", heard.body);
    // One message that is wrong does not take the others along, wherever a library sends its batches.
    for (path, id) in [("/v1/b", "m-4"), ("/v1/import", "m-5"), ("/v1/import/", "m-6")] {
        let good = json!({"type": "page", "messageId": id, "userId": "u-2", "anonymousId": ""});
        let batch = json!({"batch": [{"type": "track", "userId": "u-2"}, 7, good, {"type": "page", "userId": "x".repeat(1_000)}]});
        let heard = curl(&pop, path, &["-u", &key, "--data-binary", &batch.to_string()]).await;
        assert_eq!((heard.status, &heard.json()["success"]), (200, &json!(true)), "{path}");
        assert_eq!(heard.header("rockpool-skipped"), Some("3;event=1;malformed=1;user_id=1"));
        let at: Vec<Value> =
            heard.json()["skipped"].as_array().unwrap().iter().map(|n| n["at"].clone()).collect();
        assert_eq!(at, ["batch[0]", "batch[1]", "batch[3]"]);
    }
    // The browser's library: no header but what needs no leave, the key in the body.
    let page = json!({"writeKey": pop.deployment.app_key(), "messageId": "m-3", "anonymousId": "a", "properties": {"path": "/"}});
    let page = page.to_string();
    let plain = ["-H", "content-type: text/plain", "-H", "origin: https://shop.example", "-d", &page];
    let heard = curl(&pop, "/v1/p", &plain).await;
    assert_eq!(
        (heard.status, heard.header("access-control-allow-origin")),
        (200, Some("*")),
        "{}",
        heard.body
    );
    // What a page reads needs leave.
    assert!(heard.header("access-control-expose-headers").unwrap().contains("rockpool-skipped"));
    counts(&pop, 6).await;
    let asked = json!({"user_id": "u-2", "slot": "home", "count": 100});
    let answer = post(&pop, "/v1/recommend", &asked).await.json();
    let offered: Vec<&str> =
        answer["items"].as_array().unwrap().iter().map(|i| i["item"].as_str().unwrap()).collect();
    assert!(!offered.contains(&"i7"), "a product that was viewed is a choice: {offered:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_as_a_problem() {
    let overrides =
        Overrides { node: vec![("clients.in_flight_max".into(), 1.into())], ..Overrides::default() };
    let pop = Pop::serving_with(overrides).await;
    let ask = json!({"user_id": "u", "slot": "home"});
    let json = "content-type: application/json";
    curl(&pop, "/v1/recommend", &["-H", json, "-d", &ask.to_string()]).await.refuses(401, "unauthenticated");
    let wrong = curl(&pop, "/v1/recommend?key=wrong", &["-H", json, "-d", &ask.to_string()]).await;
    wrong.refuses(401, "unauthenticated");
    assert_eq!(wrong.header("www-authenticate"), Some("Bearer"));
    post(&pop, "/v1/recommend", &json!({"slot": "home"})).await.refuses(422, "invalid");
    post(&pop, "/v1/recommend", &json!({"user_id": "u", "slot": "home", "colour": 1}))
        .await
        .refuses(422, "invalid");
    post(&pop, "/v1/events", &json!({"events": []})).await.refuses(422, "invalid");
    let event =
        post(&pop, "/v1/events", &json!({"events": [{"user_id": "u", "type": "click", "item": "i1"}]})).await;
    event.refuses(422, "invalid");
    assert!(event.json()["detail"].as_str().unwrap().contains("events[0]: `slot`"), "{}", event.body);
    post(&pop, "/v1/recommend", &json!({"user_id": "u", "slot": "x".repeat(70_000)}))
        .await
        .refuses(413, "too_large");
    let long = json!({"userId": "u", "event": "e", "properties": {"p": "x".repeat(33_000)}});
    post(&pop, "/v1/track", &long).await.refuses(413, "too_large");
    curl(&pop, "/nowhere", &[]).await.refuses(404, "not_found");
    curl(&pop, "/v1/recommend", &[]).await.refuses(405, "invalid");
    what_libraries_say_is_a_problem_too(&pop).await;
    answers_to_head(&pop).await;
    let described = curl(&pop, "/openapi.json", &[]).await;
    assert_eq!(
        (described.json()["openapi"].as_str(), described.header("content-encoding")),
        (Some("3.1.0"), Some("gzip"))
    );
    let asks_leave = [
        "-X",
        "OPTIONS",
        "-H",
        "origin: https://shop.example",
        "-H",
        "access-control-request-method: POST",
        "-H",
        "access-control-request-headers: authorization,content-type",
    ];
    let leave = curl(&pop, "/v1/recommend", &asks_leave).await;
    assert_eq!((leave.status, leave.header("access-control-allow-origin")), (200, Some("*")));
}

/// Of what axum, hyper and tower-http refuse, they say so in text, or not at all.
async fn what_libraries_say_is_a_problem_too(pop: &Pop) {
    let key = format!("authorization: Bearer {}", pop.deployment.app_key());
    let (key, folder) = (key.as_str(), tempfile::tempdir().unwrap());
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        format!("@{}", path.display())
    };
    let (large, huge) = (file("large", &vec![b' '; 600_000]), file("huge", &vec![b' '; 5_000_000]));
    let json = "content-type: application/json";
    let (gzip, brotli) = ("content-encoding: gzip", "content-encoding: br");
    let (long_path, long_field) =
        (format!("/{}", "x".repeat(9_000)), format!("x-long: {}", "x".repeat(17_000)));
    let infer = "/v2/models/ranker/infer";
    for version in ["--http1.1", "--http2"] {
        for (path, more, status, words) in [
            ("/v1/events", vec!["-H", key, "--data-binary", large.as_str()], 413, "more than 512000 bytes"),
            ("/v1/batch", vec!["-H", key, "--data-binary", &large], 413, "more than 512000 bytes"),
            ("/v1/track", vec!["-H", key, "--data-binary", &large], 413, "more than 65536 bytes"),
            (
                "/v1/recommend",
                vec!["-H", key, "-H", json, "--data-binary", &large],
                413,
                "more than 65536 bytes",
            ),
            ("/v1/events", vec!["-H", key, "-H", gzip, "-d", "{}"], 400, "unpacked"),
            ("/v1/batch", vec!["-H", key, "-H", gzip, "-d", "{}"], 400, "unpacked"),
            ("/v1/recommend", vec!["-H", key, "-H", json, "-H", gzip, "-d", "{}"], 400, "unpacked"),
            ("/v1/events", vec!["-H", key, "-H", brotli, "-d", "{}"], 415, "unsupported"),
            ("/v1/recommend", vec!["-H", key, "-d", "{}"], 400, "Content-Type"),
            ("/v1/track", vec!["-X", "PUT"], 405, "method"),
            (long_path.as_str(), vec![], 414, "more than 8192 bytes"),
            ("/healthz", vec!["-H", long_field.as_str()], 431, "more than 16384 bytes"),
            ("/v2/nowhere", vec![], 404, "no such path"),
            ("/v2", vec!["-X", "POST"], 405, "method"),
            ("/v2/models/%ff", vec!["-H", key], 400, "UTF-8"),
            (infer, vec!["-H", key, "-H", gzip, "-d", "{}"], 400, "unpacked"),
            (infer, vec!["-H", key, "-H", brotli, "-d", "{}"], 415, "unsupported"),
            (infer, vec!["-H", key, "--data-binary", &huge], 413, "more than 4194304 bytes"),
        ] {
            let heard = curl(pop, path, &[&[version, "-H", "expect:"], more.as_slice()].concat()).await;
            let said = heard.json();
            let at = &path[..path.len().min(40)];
            assert_eq!((heard.status, &said["status"]), (status, &json!(status)), "{version} {at}: {said}");
            assert_eq!(heard.header("content-type"), Some("application/problem+json"), "{at}");
            assert!(said["detail"].as_str().unwrap().contains(words), "{version} {at}: {said}");
            let error = path.starts_with("/v2").then(|| said["detail"].clone());
            assert_eq!(said.get("error"), error.as_ref(), "{at}");
        }
    }
}

/// The same header as to GET: a length of 0 is none of them.
async fn answers_to_head(pop: &Pop) {
    for version in ["--http1.1", "--http2"] {
        for path in ["/openapi.json", "/v2", "/healthz", "/nowhere", "/v2/nowhere"] {
            for coding in ["accept-encoding: gzip", "accept-encoding: deflate", "accept-encoding: identity"] {
                let got = curl(pop, path, &[version, "-H", coding]).await;
                let head = curl(pop, path, &[version, "-H", coding, "-I"]).await;
                assert_eq!(head.status, got.status, "{path}");
                for name in ["content-type", "content-encoding", "etag", "vary", "content-length"] {
                    assert_eq!(head.header(name), got.header(name), "{version} {path} {coding}: {name}");
                }
            }
        }
    }
}

/// Each of these was lost, or lost something, with `{"success": true}`.
#[tokio::test(flavor = "multi_thread")]
async fn segments_messages_lose_nothing_without_a_word() {
    let pop = Pop::serving().await;
    let key = format!("{}:", pop.deployment.app_key());
    let track = async |body: &str| curl(&pop, "/v1/track", &["-u", &key, "--data-binary", body]).await;
    let order = r#"{"userId": "u", "messageId": "o", "event": "Order Completed", "timestamp": 1704067200000, "properties":
        {"currency": "EUR", "products": [{"product_id": "a", "price": "12,50"}, {"product_id": "b", "price": "free"}, {}]}}"#;
    let heard = track(order).await;
    assert_eq!((heard.status, &heard.json()["success"]), (200, &json!(true)), "{}", heard.body);
    assert_eq!(heard.header("rockpool-changed"), Some("3;price=2;timestamp=1"));
    assert_eq!(heard.header("rockpool-skipped"), Some("1;product_id=1"));
    let surrogate =
        r#"{"userId": "u", "event": "e", "timestamp": "2024-01-01T00:00:00", "properties": {"a": "\ud800"}}"#;
    assert_eq!(track(surrogate).await.header("rockpool-changed"), Some("2;text=1;timestamp=1"));
    counts(&pop, 3).await;
    // Our own form refuses what is wrong, and says what is changed.
    let event = json!({"user_id": "u", "type": "conversion", "item": "a", "currency": "EUR", "timestamp": "2999-01-01T00:00:00Z"});
    let heard = post(&pop, "/v1/events", &json!({"events": [event]})).await;
    assert_eq!(heard.header("rockpool-changed"), Some("1;timestamp=1"), "{}", heard.body);
}

/// Who asks too often hears when to come back, whichever door it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_its_quota() {
    let overrides =
        Overrides { node: vec![("clients.address_requests_per_s".into(), 5.into())], ..Overrides::default() };
    let pop = Pop::serving_with(overrides).await;
    let ask = json!({"user_id": "u", "slot": "home"});
    let mut limited = None;
    for _ in 0..20 {
        let heard = post(&pop, "/v1/recommend", &ask).await;
        if heard.status != 200 {
            limited = Some(heard);
            break;
        }
    }
    let limited = limited.expect("20 requests in a moment, and 5 a second are allowed");
    limited.refuses(429, "rate_limited");
    assert_eq!(limited.header("retry-after"), Some("1"));
    // Nor does it help to say nothing that can be used.
    for (path, body) in
        [("/v1/batch", json!({"batch": [7]})), ("/v1/events", json!({"event": 1})), ("/v1/track", json!({}))]
    {
        let mut last = post(&pop, path, &body).await;
        for _ in 0..20 {
            if last.status == 429 {
                break;
            }
            last = post(&pop, path, &body).await;
        }
        last.refuses(429, "rate_limited");
    }
    // What needs no key is not counted.
    assert_eq!(curl(&pop, "/healthz", &[]).await.status, 200);
}
