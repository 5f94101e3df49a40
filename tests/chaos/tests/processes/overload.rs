//! More is asked of a node than it can do: who is refused hears it as they can read it, and who watches the node is answered.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use proto::Code;
use proto::client::{Ask, ClientReply};
use rockpool::local::Overrides;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::doors::{exchange, open, recommend};
use crate::http::{Heard, NODE, curl, post};
use crate::support::{Pop, visitors};

/// How long it may take until somebody is refused, and until nobody is.
const WITHIN: Duration = Duration::from_secs(30);
const PAGE: [&str; 2] = ["-H", "origin: https://shop.example"];

/// 10,000 requests at a time, for a minute at most.
fn flood(pop: &Pop, body: &Path) -> Child {
    let port = pop.deployment.ports()[&NODE].clients.rsplit_once(':').unwrap().1;
    let key = format!("authorization: Bearer {}", pop.deployment.app_key());
    Command::new("h2load")
        .args([
            "-D",
            "60",
            "-c",
            "100",
            "-m",
            "100",
            "-H",
            "content-type: application/json",
            "-H",
            &key,
            "-d",
        ])
        .arg(body)
        .arg(format!("https://127.0.0.1:{port}/v1/recommend"))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Asks until it is refused.
async fn refused(pop: &Pop, more: &[&str]) -> Heard {
    let begun = Instant::now();
    loop {
        let heard = curl(pop, "/v1/recommend", more).await;
        if heard.status == 503 {
            return heard;
        }
        assert!(begun.elapsed() < WITHIN, "{more:?} was never refused: {} {}", heard.status, heard.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_can_read_it() {
    let soon = Overrides { node: vec![("clients.delay_max_ms".into(), 5.into())], ..Overrides::default() };
    let pop = Pop::serving_with(soon).await;
    let (folder, ask) = (tempfile::tempdir().unwrap(), json!({"user_id": "u", "slot": "home"}).to_string());
    let (body, visitor) = (folder.path().join("ask.json"), visitors(1).remove(0));
    std::fs::write(&body, &ask).unwrap();
    let link = open(&pop, NODE).await;
    let mut flood = flood(&pop, &body);
    for version in ["--http1.1", "--http2"] {
        let said = refused(&pop, &[version, PAGE[0], PAGE[1], "-d", &ask]).await;
        said.refuses(503, "overloaded");
        assert_eq!(said.header("retry-after"), Some("1"));
        assert!(said.header("x-request-id").is_some() && said.header("alt-svc").is_some());
        assert_eq!(said.header("access-control-allow-origin"), Some("*"), "a page may read why");
        // curl would wait for the body, or say that there is too much.
        let head = refused(&pop, &[version, "-I"]).await;
        assert_eq!((head.body.as_str(), head.header("retry-after")), ("", Some("1")));
        assert_eq!(curl(&pop, "/healthz", &[version]).await.status, 200);
    }
    let begun = Instant::now();
    let refused = loop {
        match exchange(&*link, Ask::Recommend(recommend(&visitor))).await {
            ClientReply::Error(error) => break error,
            answer => assert!(begun.elapsed() < WITHIN, "never refused: {answer:?}"),
        }
    };
    assert_eq!((refused.code, refused.retry_after_ms), (Code::Overloaded, Some(1_000)));
    assert!(matches!(exchange(&*link, Ask::Ping).await, ClientReply::Pong));
    flood.kill().await.unwrap();
    let begun = Instant::now();
    while post(&pop, "/v1/recommend", &serde_json::from_str(&ask).unwrap()).await.status != 200 {
        assert!(begun.elapsed() < WITHIN, "there is nothing to do any more");
    }
}

/// Whoever takes every place at the door, and says nothing, keeps nobody out.
#[tokio::test(flavor = "multi_thread")]
async fn newcomers_find_a_place_where_others_are_silent() {
    let few = Overrides { node: vec![("http.connections_max".into(), 64.into())], ..Overrides::default() };
    let pop = Pop::serving_with(few).await;
    let address = &pop.deployment.ports()[&NODE].clients;
    let mut silent = Vec::new();
    for _ in 0..256 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    // In less time than is given for a handshake.
    for _ in 0..20 {
        let heard = curl(&pop, "/healthz", &["--max-time", "5"]).await;
        assert_eq!((heard.status, heard.body.as_str()), (200, "ok\n"));
    }
    drop(silent);
}
