//! The people's door over real HTTP.

use cloud::server::{Addresses, Server};
use inference::testing;
use proto::Code;
use proto::bundle::ArtifactKind;
use proto::control::{AuditView, BundleView, Problem, RolloutStage, RolloutView};
use proto::uplink::{UplinkReply, UplinkRequest};
use service::shutdown::Shutdown;

use crate::{Cloud, Deployment, PATIENCE, TOKEN, files, read_json};

async fn problem(response: reqwest::Response) -> Problem {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let status = response.status().as_u16();
    let problem: Problem = response.json().await.unwrap();
    assert_eq!(problem.status, status);
    problem
}

async fn audit(cloud: &Cloud) -> Vec<(String, String)> {
    let lines: Vec<AuditView> = cloud.read("/v1/audit?limit=100").await;
    assert!(lines.iter().all(|line| line.who == "admin@127.0.0.1"));
    lines.into_iter().map(|line| (line.what, line.detail)).collect()
}

#[tokio::test]
async fn nothing_is_said_or_done_without_the_token() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let document: serde_json::Value = cloud.read("/openapi.json").await;
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        if !path.starts_with("/v1/") {
            continue;
        }
        for method in operations.as_object().unwrap().keys() {
            let method: reqwest::Method = method.to_uppercase().parse().unwrap();
            let url = cloud.url(&path.replace("{pop}", "fra").replace("{revision}", "1"));
            for token in [None, Some(""), Some("wrong"), Some("a-token-for-tests-onlx")] {
                let request = cloud.http.request(method.clone(), &url);
                let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
                let response = request.send().await.unwrap();
                assert_eq!(response.status(), 401, "{method} {url} {token:?}");
                assert_eq!(response.headers()["www-authenticate"], "Bearer");
                assert_eq!(problem(response).await.code, Code::Unauthenticated);
                asked += 1;
            }
        }
    }
    assert!(asked >= 40);
    assert!(audit(&cloud).await.is_empty());
    for path in ["/healthz", "/openapi.json"] {
        assert_eq!(cloud.http.get(cloud.url(path)).send().await.unwrap().status(), 200);
    }
    cloud.stop().await;
}

#[tokio::test]
async fn bundles_are_published_shown_rolled_back_and_audited() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let first = cloud.publish(&files(1)).await;
    let second = cloud.publish(&files(2)).await;
    assert_eq!((first.revision.0, second.revision.0), (1, 2));
    let response = cloud.post("/v1/bundles/1/rollback?note=fewer%20clicks", "").await;
    assert_eq!(response.status(), 200);
    let third: BundleView = response.json().await.unwrap();
    assert_eq!(
        (third.revision.0, third.rollback_of, &third.note[..]),
        (3, Some(first.revision), "fewer clicks")
    );
    assert_eq!(third.artifacts, first.artifacts);
    let list: Vec<BundleView> = cloud.read("/v1/bundles?limit=2").await;
    assert_eq!(list, [third.clone(), second]);
    assert_eq!(cloud.read::<BundleView>("/v1/bundles/3").await, third);
    assert_eq!(problem(cloud.get("/v1/bundles/4").await).await.code, Code::NotFound);
    assert_eq!(problem(cloud.post("/v1/bundles/3/rollback", "").await).await.code, Code::Conflict);
    assert_eq!(problem(cloud.post("/v1/bundles/9/rollback", "").await).await.code, Code::NotFound);
    let lines = audit(&cloud).await;
    let of = |what: &str| lines.iter().filter(|line| line.0 == what).collect::<Vec<_>>();
    assert_eq!(of("artifact.store").len(), 12);
    assert_eq!(of("bundle.publish").len(), 2);
    let rollbacks = of("bundle.rollback");
    assert!(rollbacks[0].1.contains("refused: not_found"), "{rollbacks:?}");
    assert!(rollbacks[1].1.contains("refused: conflict"), "{rollbacks:?}");
    assert!(rollbacks[2].1.starts_with("revision 3"), "{rollbacks:?}");
    let metrics = cloud.metrics().await;
    let line = "rockpool_cloud_api_requests_total{method=\"POST\",route=\"/v1/bundles\",status=\"200\"} 2";
    assert!(metrics.contains(line), "{metrics}");
    assert!(metrics.contains("rockpool_cloud_revision 3"), "{metrics}");
    // The control API has the same, for whoever has the token.
    let over_api = cloud.get("/metrics").await.text().await.unwrap();
    assert!(over_api.contains("rockpool_cloud_revision 3"), "{over_api}");
    cloud.stop().await;
}

#[tokio::test]
async fn hostile_artifacts_are_refused_with_a_reason() {
    let deployment = Deployment::new();
    let cloud = deployment.start_with(&[("CLOUD__STORAGE__ARTIFACT_BYTES_MAX", "1000000")]).await;
    let unknown = cloud.post("/v1/artifacts?kind=trojan", "x").await;
    assert_eq!(problem(unknown).await.code, Code::Malformed);
    let digest = "0".repeat(64);
    let wrong = cloud.post(&format!("/v1/artifacts?kind=rules&digest={digest}"), "{}").await;
    let wrong = problem(wrong).await;
    assert_eq!(wrong.code, Code::Invalid);
    assert!(wrong.detail.contains(&digest), "{}", wrong.detail);
    // Said by Content-Length, and not said at all.
    let large = vec![b' '; 1_000_001];
    let known = cloud.post("/v1/artifacts?kind=rules", large.clone()).await;
    assert_eq!(problem(known).await.code, Code::TooLarge);
    let chunks =
        large.chunks(250_000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>();
    let streamed = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    let streamed = cloud.post("/v1/artifacts?kind=rules", streamed).await;
    assert_eq!(problem(streamed).await.code, Code::TooLarge);
    // A model that scores 7 items, with a card that promises 20.
    let mut files = files(1);
    let mut model = testing::retrieval(&testing::catalog(20), 1);
    model.set_onnx(testing::retrieval(&testing::catalog(7), 1).onnx);
    files.insert(ArtifactKind::RetrievalCard, model.card_json());
    files.insert(ArtifactKind::RetrievalModel, model.onnx);
    let bundle = cloud.upload(&files).await;
    let refused = cloud.post("/v1/bundles", bundle.to_string()).await;
    assert_eq!(refused.status(), 422);
    let refused = problem(refused).await;
    assert!(refused.detail.contains("RetrievalModel"), "{}", refused.detail);
    assert!(cloud.read::<Vec<BundleView>>("/v1/bundles").await.is_empty());
    let lines = audit(&cloud).await;
    assert_eq!(
        lines.iter().filter(|(what, detail)| what == "artifact.store" && detail.contains("refused")).count(),
        3
    );
    assert!(lines[0].1.contains("refused: invalid"), "{:?}", lines[0]);
    cloud.stop().await;
}

#[tokio::test]
async fn wrong_requests_get_problems() {
    let deployment = Deployment::new();
    let cloud = deployment.start_with(&[("CLOUD__API__BODY_BYTES_MAX", "1000")]).await;
    let wrong = [
        (cloud.get("/v1/nothing").await, 404, Code::NotFound),
        (cloud.get("/v1/artifacts").await, 405, Code::Invalid),
        (cloud.get("/v1/events?trace=xyz").await, 400, Code::Malformed),
        (cloud.get("/v1/events?limit=-1").await, 400, Code::Malformed),
        (cloud.get("/v1/events?colour=red").await, 400, Code::Malformed),
        (cloud.get("/v1/bundles/latest").await, 400, Code::Malformed),
        (cloud.post("/v1/bundles", "{").await, 400, Code::Malformed),
        (cloud.post("/v1/bundles", "{}").await, 422, Code::Invalid),
        (cloud.post("/v1/bundles", format!("[{}]", "1,".repeat(1_000))).await, 413, Code::TooLarge),
    ];
    for (response, status, code) in wrong {
        let url = response.url().to_string();
        assert_eq!(response.status(), status, "{url}");
        let problem = problem(response).await;
        assert_eq!(problem.code, code, "{url}");
        assert!(status != 413 || problem.detail.contains("1000 bytes"), "{}", problem.detail);
    }
    cloud.stop().await;
}

#[tokio::test]
async fn answers_carry_the_request_id_and_readiness_follows_the_storage() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let request = cloud.http.get(cloud.url("/healthz")).header("x-request-id", "abc-123");
    assert_eq!(request.send().await.unwrap().headers()["x-request-id"], "abc-123");
    assert_eq!(cloud.get("/healthz").await.headers()["x-request-id"].len(), 36);
    let admin = cloud.server.addresses.admin.clone();
    for url in [cloud.url("/readyz"), format!("http://{admin}/readyz")] {
        let ready = async {
            while cloud.http.get(&url).send().await.unwrap().status() != 200 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::PATIENCE, ready).await.unwrap();
    }
    cloud.stop().await;
}

#[tokio::test]
async fn addresses_are_written_down_and_a_folder_has_one_cloud() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    let written: Addresses = read_json(&deployment.dir().join("addresses.json"));
    assert_eq!(written, cloud.server.addresses);
    let variables = deployment.variables(&[]).into_iter();
    let config = cloud::config::Config::from_sources(None, variables).unwrap();
    let error = Server::start(config, Some(TOKEN.into()), Shutdown::new()).await.unwrap_err();
    assert!(format!("{error:#}").contains("another cloud"), "{error:#}");
    cloud.stop().await;
    deployment.start().await.stop().await;
}

/// An upload of which only the beginning comes.
fn stalled(
    cloud: &Cloud,
) -> (futures::channel::mpsc::Sender<std::io::Result<Vec<u8>>>, reqwest::RequestBuilder) {
    let (mut sender, body) = futures::channel::mpsc::channel(1);
    sender.try_send(Ok(b"{".to_vec())).unwrap();
    let url = cloud.url("/v1/artifacts?kind=rules");
    (sender, cloud.http.post(url).bearer_auth(TOKEN).body(reqwest::Body::wrap_stream(body)))
}

#[tokio::test]
async fn an_upload_that_stalls_is_cut_off_and_leaves_nothing() {
    let deployment = Deployment::new();
    let cloud = deployment.start_with(&[("CLOUD__API__UPLOAD_TIMEOUT_MS", "200")]).await;
    let (_sender, upload) = stalled(&cloud);
    let response = tokio::time::timeout(crate::PATIENCE, upload.send()).await.unwrap().unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(problem(response).await.code, Code::DeadlineExceeded);
    let artifacts = deployment.dir().join(cloud_storage::ARTIFACTS_FOLDER);
    assert_eq!(std::fs::read_dir(artifacts).unwrap().count(), 0);
    cloud.stop().await;
}

#[tokio::test]
async fn places_are_limited_and_come_back() {
    let deployment = Deployment::new();
    for (setting, path) in
        [("CLOUD__API__UPLOADS_MAX", "/v1/artifacts?kind=rules"), ("CLOUD__API__IN_FLIGHT_MAX", "/healthz")]
    {
        let cloud = deployment.start_with(&[(setting, "1")]).await;
        let (sender, upload) = stalled(&cloud);
        let upload = tokio::spawn(upload.send());
        let ask = async || match path {
            "/healthz" => cloud.get(path).await,
            _ => cloud.post(path, "{}").await,
        };
        let refused = async {
            loop {
                let response = ask().await;
                if response.status() == 503 {
                    return response;
                }
            }
        };
        let refused = tokio::time::timeout(crate::PATIENCE, refused).await.unwrap();
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(problem(refused).await.code, Code::Overloaded);
        // The upload ends, and its place is free.
        drop(sender);
        upload.await.unwrap().unwrap();
        assert_eq!(ask().await.status(), 200);
        cloud.stop().await;
    }
}

#[tokio::test]
async fn a_rollout_is_shown_and_ended_by_hand() {
    let deployment = Deployment::new();
    let cloud = deployment.start_with(&[("CLOUD__ROLLOUT__CANARY_POPS", "[\"fra\"]")]).await;
    cloud.publish(&files(1)).await;
    let stages = async || -> Vec<(u64, RolloutStage)> {
        let rollouts: Vec<RolloutView> = cloud.read("/v1/rollouts").await;
        rollouts.iter().map(|rollout| (rollout.revision.0, rollout.stage)).collect()
    };
    assert_eq!(stages().await, [(1, RolloutStage::Canary)]);
    let (fra, sin) =
        (deployment.node(cloud.uplink(), "fra", 1).await, deployment.node(cloud.uplink(), "sin", 1).await);
    assert!(matches!(fra.call(UplinkRequest::Manifest).await, UplinkReply::Manifest(Some(_))));
    assert_eq!(sin.call(UplinkRequest::Manifest).await, UplinkReply::Manifest(None), "it is no canary");
    let promoted = cloud.post("/v1/rollouts/1/promote", r#"{"reason": "seen enough"}"#).await;
    let promoted: RolloutView = promoted.json().await.unwrap();
    assert_eq!((promoted.stage, promoted.canaries[0].as_str()), (RolloutStage::Promoted, "fra"));
    assert!(matches!(sin.call(UplinkRequest::Manifest).await, UplinkReply::Manifest(Some(_))));
    let late = problem(cloud.post("/v1/rollouts/1/stop", "{}").await).await;
    assert_eq!(late.code, Code::Conflict, "{}", late.detail);

    cloud.publish(&files(2)).await;
    assert_eq!(cloud.post("/v1/rollouts/2/stop", "{}").await.status(), 200);
    // The canaries get the contents of revision 1 again, within seconds.
    let until = tokio::time::Instant::now() + PATIENCE;
    while stages().await[0] != (3, RolloutStage::Promoted) {
        assert!(tokio::time::Instant::now() < until, "{:?}", stages().await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let back = problem(cloud.post("/v1/bundles/2/rollback", "").await).await;
    assert_eq!(back.code, Code::Conflict, "{}", back.detail);
    let lines: Vec<AuditView> = cloud.read("/v1/audit?limit=100").await;
    for what in ["rollout.promote", "rollout.stop", "rollout.recover"] {
        assert!(lines.iter().any(|line| line.what == what), "{what}: {lines:?}");
    }
    let metrics = cloud.metrics().await;
    for line in ["rollouts_total{outcome=\"stopped\"} 1", "revision_on_trial 0", "revision_promoted 3"] {
        assert!(metrics.contains(&format!("rockpool_cloud_{line}")), "{line}: {metrics}");
    }
    cloud.stop().await;
}
