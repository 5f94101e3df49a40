//! A node's doors, asked by clients that nobody here wrote: aioquic, Segment's Python library, h2load. `make clients` installs them.

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::http::{NODE, counts, post};
use crate::support::Pop;

/// Where the packages of Python lie.
fn packages() -> PathBuf {
    let beside = std::env::var_os("ROCKPOOL_CLIENTS").map(PathBuf::from);
    let cached = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/rockpool/clients");
    let folder = beside.unwrap_or_else(cached);
    assert!(folder.join("aioquic").exists(), "{}: run `make clients` first", folder.display());
    folder
}

/// Runs one of `tests/chaos/clients`, and hands back what it printed.
async fn python(script: &str, arguments: &[&str]) -> String {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let output =
        Command::new("python3").env("PYTHONPATH", packages()).arg(script).args(arguments).output().await;
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn aioquic_speaks_http_3_and_webtransport() {
    let pop = Pop::serving().await;
    let address = pop.deployment.ports()[&NODE].clients.clone();
    let (host, port) = address.rsplit_once(':').unwrap();
    let name = pop.deployment.server_name().unwrap();
    let ca = pop.deployment.dir().join("pki/ca.pem");
    let told = python("http3.py", &[&name, host, port, ca.to_str().unwrap(), pop.deployment.app_key()]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["recommend"][0], told["recommend"][1]["items"].as_array().unwrap().len()),
        (&json!(200), 5)
    );
    assert_eq!(told["nowhere"], json!([404, "not_found"]));
    assert_eq!(told["has_date"], true);
    assert_eq!((&told["many"], &told["many_said"]), (&json!([200]), &json!([200])));
    assert_eq!((&told["stranger"], &told["session"]), (&json!(401), &json!(200)));
    assert_eq!((&told["said"], &told["event"]), (&json!([200, 5]), &json!([200, 1])));
    assert_eq!(told["wrong_path"], json!([404, "not_found"]));
    assert_eq!(told["wrong_form"], json!([422, "invalid"]));
    // One on a stream both ways, one on a stream one way.
    counts(&pop, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_own_library_needs_another_host_and_no_more() {
    let pop = Pop::serving().await;
    let ca = pop.deployment.dir().join("pki/ca.pem");
    let port = pop.deployment.ports()[&NODE].clients.rsplit_once(':').unwrap().1.to_owned();
    let url = format!("https://localhost:{port}");
    python("tracking.py", &[&url, ca.to_str().unwrap(), pop.deployment.app_key(), "250"]).await;
    counts(&pop, 250).await;
    let answer =
        post(&pop, "/v1/recommend", &json!({"user_id": "segment-user", "slot": "home", "count": 100})).await;
    let answer = answer.json();
    let offered: Vec<&str> =
        answer["items"].as_array().unwrap().iter().map(|i| i["item"].as_str().unwrap()).collect();
    assert!(!offered.contains(&"i7"), "a product that was viewed is a choice: {offered:?}");
}

/// 20,000 requests on 50 connections of HTTP/2, 20 at a time on each: none fails.
#[tokio::test(flavor = "multi_thread")]
async fn h2load_asks_much() {
    let pop = Pop::serving().await;
    let port = pop.deployment.ports()[&NODE].clients.rsplit_once(':').unwrap().1.to_owned();
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("ask.json");
    std::fs::write(&body, json!({"user_id": "u", "slot": "home"}).to_string()).unwrap();
    let key = format!("authorization: Bearer {}", pop.deployment.app_key());
    let output = Command::new("h2load")
        .args([
            "-n",
            "20000",
            "-c",
            "50",
            "-m",
            "20",
            "-H",
            "content-type: application/json",
            "-H",
            &key,
            "-d",
        ])
        .arg(&body)
        .arg(format!("https://127.0.0.1:{port}/v1/recommend"))
        .output()
        .await
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("20000 succeeded, 0 failed, 0 errored"), "{told}");
    assert!(told.contains("status codes: 20000 2xx"), "{told}");
}
