//! A node's doors, asked by clients that nobody here wrote: aioquic, Segment's Python library, Triton's, h2load. `make clients` installs them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::http::{NODE, counts, post};
use crate::support::{Pop, READY};

/// Where the packages of Python lie.
fn packages() -> PathBuf {
    let beside = std::env::var_os("ROCKPOOL_CLIENTS").map(PathBuf::from);
    let cached = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/rockpool/clients");
    let folder = beside.unwrap_or_else(cached);
    assert!(folder.join("aioquic").exists(), "{}: run `make clients` first", folder.display());
    folder
}

/// Runs one of `tests/chaos/clients`, and hands back what it printed.
pub async fn python(script: &str, arguments: &[&str]) -> String {
    python_hearing(script, arguments, "").await
}

/// The same, with this as its standard input.
pub async fn python_hearing(script: &str, arguments: &[&str], input: &str) -> String {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let mut run = Command::new("python3");
    run.env("PYTHONPATH", packages()).arg(script).args(arguments).kill_on_drop(true);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = run.wait_with_output().await.unwrap();
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

/// Frames that say they are huge are not collected: their stream or connection ends while little of them was taken.
#[tokio::test(flavor = "multi_thread")]
async fn frames_of_http_3_are_measured_first() {
    let pop = Pop::serving().await;
    let address = pop.deployment.ports()[&NODE].clients.clone();
    let (host, port) = address.rsplit_once(':').unwrap();
    let ca = pop.deployment.dir().join("pki/ca.pem");
    let name = pop.deployment.server_name().unwrap();
    let told = python("hostile_http3.py", &[&name, host, port, ca.to_str().unwrap()]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    for (what, became) in told.as_object().unwrap() {
        assert_eq!(became[1], true, "{what}: {told}");
        assert!(became[0].is_string(), "{what}: {told}");
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn tritons_client_runs_the_models() {
    let pop = Pop::serving().await;
    let ca = pop.deployment.dir().join("pki/ca.pem");
    let port = pop.deployment.ports()[&NODE].clients.rsplit_once(':').unwrap().1.to_owned();
    let url = format!("localhost:{port}");
    let told = python("triton.py", &[&url, ca.to_str().unwrap(), pop.deployment.app_key()]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["live"], &told["ready"]), (&json!(true), &json!(true)));
    assert_eq!(told["server"]["extensions"], json!(["binary_tensor_data"]));
    for model in ["retrieval", "ranker"] {
        let told = &told[model];
        for what in ["ready", "equal", "equal_grpc", "packed", "finite", "id", "platform"] {
            assert_eq!(told[what], true, "{what}: {told}");
        }
        let shape: Vec<&Value> = told["shape"].as_array().unwrap().iter().collect();
        let row: Vec<&Value> = told["row"].as_array().unwrap().iter().collect();
        assert_eq!((shape[0], &shape[1..]), (&json!(3), &row[..]), "{told}");
    }
    for (refused, status, words) in [
        ("absent", "404", "\"other\""),
        ("no_key", "401", "app key"),
        ("wrong_shape", "422", "has to be"),
        ("no_rows", "422", "has 0 rows"),
        ("classified", "422", "\"classification\""),
        ("sequence", "422", "\"sequence_"),
    ] {
        let said = &told[refused];
        assert_eq!(said[0], status, "{said}");
        assert!(said[1].as_str().unwrap().contains(words), "{said}");
    }
    let said = &told["asyncio"];
    assert_eq!((&said[0], &said[1]), (&json!("rockpool"), &json!(3)), "{said}");
    assert!(said[2].as_str().unwrap().contains("\"other\""), "{said}");
    let told = &told["grpc"];
    assert_eq!((&told["live"], &told["ready"]), (&json!(true), &json!(true)), "{told}");
    assert_eq!(told["server"]["name"], "rockpool");
    for (refused, status, words) in [
        ("absent", "NOT_FOUND", "\"other\""),
        ("no_key", "UNAUTHENTICATED", "app key"),
        ("wrong_shape", "INVALID_ARGUMENT", "is missing"),
        ("no_such_call", "UNIMPLEMENTED", "RepositoryIndex"),
        ("below", "INVALID_ARGUMENT", "has -1 rows"),
        ("classified", "INVALID_ARGUMENT", "\"classification\""),
        ("sequence", "INVALID_ARGUMENT", "\"sequence_"),
    ] {
        let said = &told[refused];
        assert_eq!(said[0], format!("StatusCode.{status}"), "{said}");
        assert!(said[1].as_str().unwrap().contains(words), "{said}");
    }
}

/// A page in headless Chromium: fetch over HTTP/2 and HTTP/3, WebTransport, sendBeacon.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_chromium_asks_and_tells() {
    let pop = Pop::serving().await;
    let ca = pop.deployment.dir().join("pki/ca.pem");
    let port = pop.deployment.ports()[&NODE].clients.rsplit_once(':').unwrap().1.to_owned();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tell = listener.local_addr().unwrap().port();
    let asked =
        json!({"base": format!("https://127.0.0.1:{port}"), "tell": tell, "key": pop.deployment.app_key()});
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients/page.html");
    let folder = tempfile::tempdir().unwrap();
    let mut browser = Command::new(std::env::var("CHROMIUM").unwrap_or("chromium".into()))
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .arg(format!("--user-data-dir={}", folder.path().display()))
        // A CA of ours is none of the browser's: it is told to believe this one key.
        .arg(format!("--ignore-certificate-errors-spki-list={}", spki(&pop, &ca).await))
        .arg(format!("--origin-to-force-quic-on=127.0.0.1:{port}"))
        .arg(format!("file://{}#{}", page.display(), asked))
        .kill_on_drop(true)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("chromium: run `make clients` first");
    let told = tokio::time::timeout(Duration::from_secs(60), posted(&listener))
        .await
        .expect("the page said nothing");
    let offered = json!({"status": 200, "items": 5, "protocol": "h3"});
    assert_eq!((&told["first"], &told["second"]), (&offered, &offered), "{told}");
    assert_eq!(told["wrong"], json!({"status": 401, "code": "unauthenticated", "request_id": true}));
    assert_eq!(told["webtransport"], json!({"status": 200, "items": 5, "accepted": 1}), "{told}");
    assert_eq!(told["beacon"], true);
    // One over WebTransport, one by the beacon, which the browser sends when it likes.
    counts(&pop, 2).await;
    browser.kill().await.unwrap();
}

/// The hash of the key that a node's certificate carries, as Chromium takes it.
async fn spki(pop: &Pop, ca: &Path) -> String {
    let port = pop.deployment.ports()[&NODE].clients.rsplit_once(':').unwrap().1.to_owned();
    let script = format!(
        "openssl s_client -connect 127.0.0.1:{port} -CAfile {} </dev/null 2>/dev/null | openssl x509 -pubkey -noout \
         | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | openssl base64",
        ca.display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The body of the first POST.
async fn posted(listener: &tokio::net::TcpListener) -> Value {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        let whole = loop {
            let text = String::from_utf8_lossy(&heard).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let len = head
                    .lines()
                    .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if len.is_none_or(|len: usize| body.len() >= len) {
                    break body.to_owned();
                }
            }
            if stream.read_buf(&mut heard).await.unwrap() == 0 {
                break String::new();
            }
        };
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        if let Ok(told) = serde_json::from_str(&whole) {
            return told;
        }
    }
}

/// Every node is told to end and is started again, one after the other, while connections of HTTP/1.1 stay open and are used: no
/// request goes without its answer.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_leave_without_a_failed_request() {
    let mut pop = Pop::serving().await;
    let ca = pop.deployment.dir().join("pki/ca.pem");
    let nodes: Vec<_> =
        pop.deployment.ports().iter().map(|(node, ports)| (*node, ports.clients.clone())).collect();
    let ports: Vec<String> =
        nodes.iter().map(|(_, address)| address.rsplit_once(':').unwrap().1.to_owned()).collect();
    let key = pop.deployment.app_key().to_owned();
    let asking = tokio::spawn(async move {
        let mut arguments = vec![ca.to_str().unwrap(), &key, "14"];
        arguments.extend(ports.iter().map(String::as_str));
        python("leaving.py", &arguments).await
    });
    for (node, _) in &nodes {
        pop.deployment.stop_node(*node).await.unwrap();
        pop.deployment.start_node(*node).unwrap();
        pop.deployment.until_ready(READY).await.unwrap();
    }
    let told: Value = serde_json::from_str(&asking.await.unwrap()).unwrap();
    assert_eq!(told["failed"], json!([]), "{told}");
    assert!(told["answered"].as_u64().unwrap() > 1_000 && told["moved"].as_u64().unwrap() >= 3, "{told}");
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
            "10",
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
