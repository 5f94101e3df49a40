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
    for _ in 0..2 {
        let heard = curl(&pop, "/v1/batch", &["-u", &key, "--data-binary", &batch.to_string()]).await;
        assert_eq!((heard.status, heard.json()), (200, json!({"success": true})));
    }
    // One message that is wrong does not take the others along, wherever a library sends its batches.
    for (path, id) in [("/v1/b", "m-4"), ("/v1/import", "m-5"), ("/v1/import/", "m-6")] {
        let good = json!({"type": "page", "messageId": id, "userId": "u-2", "anonymousId": ""});
        let batch = json!({"batch": [{"type": "track", "userId": "u-2"}, 7, good, {"type": "page", "userId": "x".repeat(1_000)}]});
        let heard = curl(&pop, path, &["-u", &key, "--data-binary", &batch.to_string()]).await;
        assert_eq!((heard.status, heard.json()), (200, json!({"success": true})), "{path}");
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
    // What needs no key is not counted.
    assert_eq!(curl(&pop, "/healthz", &[]).await.status, 200);
}
