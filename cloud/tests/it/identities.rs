//! Who may be a node: tokens, certificates and revocations over real QUIC and HTTP.

use std::time::{Duration, Instant, SystemTime};

use cloud::config::Config;
use cloud::server::Server;
use proto::control::{AuditView, EnrolmentToken, RevokedNode};
use proto::enrol::{EnrolReply, EnrolRequest, Token};
use proto::uplink::{UplinkReply, UplinkRequest};
use proto::{ALPN_ENROL, ALPN_UPLINK, Code, NodeId, PopId};
use service::shutdown::Shutdown;
use transport::pki::{Credentials, Request, Validity};
use transport::quic::{QuicDialer, Settings};
use transport::{Dialer, Identity, Link, LinkErrorKind, Peer};

use crate::{Cloud, Deployment, PATIENCE, TOKEN, events};

const HOUR: Duration = Duration::from_secs(3600);

fn node(pop: &str, node: u64) -> Identity {
    Identity::Node { pop: PopId::new(pop).unwrap(), node: NodeId(node) }
}

/// Settings of a cloud that issues certificates.
fn issuing(deployment: &Deployment) -> Vec<(String, String)> {
    let pki = |name: &str| deployment.folder.path().join("pki").join(name).display().to_string();
    let mut variables = deployment.variables(&[("CLOUD__IDENTITY__LISTEN", "127.0.0.1:0")]);
    variables.push(("CLOUD__IDENTITY__ISSUER".into(), pki("ca.pem")));
    variables.push(("CLOUD__IDENTITY__ISSUER_KEY".into(), pki("ca.key")));
    variables
}

async fn start(deployment: &Deployment, extra: &[(&str, &str)]) -> Cloud {
    let extra = extra.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let config = Config::from_sources(None, issuing(deployment).into_iter().chain(extra)).unwrap();
    let shutdown = Shutdown::new();
    let server = Server::start(config, Some(TOKEN.to_owned()), shutdown.clone()).await.unwrap();
    Cloud { server, shutdown, http: reqwest::Client::builder().no_proxy().build().unwrap() }
}

async fn make_token(cloud: &Cloud, body: serde_json::Value) -> EnrolmentToken {
    let response = cloud.post("/v1/nodes/enrolments", body.to_string()).await;
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    response.json().await.unwrap()
}

/// A node that has no certificate yet, at the cloud's door.
struct Newcomer {
    deployment_trust: transport::pki::Trust,
    link: std::sync::Arc<dyn Link>,
    _dialer: QuicDialer,
}

impl Newcomer {
    async fn new(deployment: &Deployment, cloud: &Cloud) -> Self {
        let trust = deployment.trust();
        let dialer = QuicDialer::new(&trust, None, ALPN_ENROL, &Settings::peers()).unwrap();
        let address = cloud.server.addresses.enrol.clone().unwrap();
        let link = dialer.dial(&address, &Peer::Cloud, PATIENCE).await.unwrap();
        Self { deployment_trust: trust, link, _dialer: dialer }
    }

    async fn ask(&self, identity: &Identity, token: &str, request: &[u8]) -> Result<String, Code> {
        let Identity::Node { pop, node } = identity.clone() else { panic!("not a node") };
        let request = EnrolRequest { pop, node, token: Token(token.into()), request: request.to_vec() };
        match transport::call(&*self.link, &request, PATIENCE).await.unwrap() {
            EnrolReply::Issued(chain) => Ok(chain),
            EnrolReply::Error(error) => Err(error.code),
        }
    }

    /// Enrols with a new key; what the node shows from then on.
    async fn enrol(&self, identity: &Identity, token: &str) -> Result<Credentials, Code> {
        let request = Request::new(identity).unwrap();
        let chain = self.ask(identity, token, request.der()).await?;
        Ok(request.complete(&chain, &self.deployment_trust).unwrap().credentials().unwrap())
    }
}

struct Up {
    link: std::sync::Arc<dyn Link>,
    _dialer: QuicDialer,
}

impl Up {
    async fn dial(
        deployment: &Deployment,
        cloud: &Cloud,
        credentials: &Credentials,
    ) -> Result<Self, LinkErrorKind> {
        let trust = deployment.trust();
        let dialer = QuicDialer::new(&trust, Some(credentials), ALPN_UPLINK, &Settings::peers()).unwrap();
        let link = dialer.dial(cloud.uplink(), &Peer::Cloud, PATIENCE).await.map_err(|e| e.kind)?;
        Ok(Self { link, _dialer: dialer })
    }

    async fn call(&self, request: UplinkRequest) -> UplinkReply {
        transport::call(&*self.link, &request, PATIENCE).await.unwrap()
    }

    async fn renew(&self, request: &Request) -> Result<String, Code> {
        match self.call(UplinkRequest::Renew(request.der().to_vec())).await {
            UplinkReply::Issued(chain) => Ok(chain),
            UplinkReply::Error(error) => Err(error.code),
            other => panic!("{other:?}"),
        }
    }

    async fn revoked(&self, known: u64) -> Vec<NodeId> {
        match self.call(UplinkRequest::Revoked { known }).await {
            UplinkReply::Revoked(nodes) => nodes,
            other => panic!("{other:?}"),
        }
    }
}

async fn audit(cloud: &Cloud, what: &str) -> Vec<AuditView> {
    let lines: Vec<AuditView> = cloud.read("/v1/audit?limit=100").await;
    lines.into_iter().filter(|line| line.what == what).collect()
}

async fn revoke(cloud: &Cloud, pop: &str, node: u64, reason: &str) -> RevokedNode {
    let body = serde_json::json!({ "reason": reason }).to_string();
    let response = cloud.post(&format!("/v1/nodes/{pop}/{node}/revoke"), body).await;
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    response.json().await.unwrap()
}

#[tokio::test]
async fn a_token_enrols_one_node_once_and_the_audit_log_says_who() {
    let deployment = Deployment::new();
    let cloud = start(&deployment, &[]).await;
    let (four, names) = (node("fra", 4), ["shop.example.com"]);
    let made = make_token(&cloud, serde_json::json!({ "pop": "fra", "node": 4, "names": names })).await;
    let newcomer = Newcomer::new(&deployment, &cloud).await;

    // Another node, another PoP, another token, none, a long one: no, and the token is as good as before.
    let changed = format!("{}0", &made.token[1..]);
    for (who, token) in [
        (node("fra", 5), made.token.as_str()),
        (node("sin", 4), &made.token),
        (four.clone(), &changed),
        (four.clone(), ""),
    ] {
        assert_eq!(newcomer.enrol(&who, token).await.err(), Some(Code::Unauthenticated), "{who}");
    }
    assert_eq!(newcomer.enrol(&four, &"x".repeat(200)).await.err(), Some(Code::Invalid));
    // A request that is none, or somebody else's, does not use it up either.
    assert_eq!(newcomer.ask(&four, &made.token, b"nonsense").await.err(), Some(Code::Invalid));
    let other = Request::new(&node("fra", 1)).unwrap();
    assert_eq!(newcomer.ask(&four, &made.token, other.der()).await.err(), Some(Code::Invalid));

    let request = Request::new(&four).unwrap();
    let chain = newcomer.ask(&four, &made.token, request.der()).await.unwrap();
    let own = request.complete(&chain, &deployment.trust()).unwrap().credentials().unwrap();
    let up = Up::dial(&deployment, &cloud, &own).await.unwrap();
    assert!(matches!(up.call(UplinkRequest::Position).await, UplinkReply::Ack { .. }));
    // A second use by another key is refused; the same key may ask again, should the answer have been lost.
    assert_eq!(newcomer.enrol(&four, &made.token).await.err(), Some(Code::Unauthenticated));
    newcomer.ask(&four, &made.token, request.der()).await.unwrap();

    let made_lines = audit(&cloud, "node.enrol_token").await;
    assert_eq!(made_lines.len(), 1);
    assert_eq!(made_lines[0].who, "admin@127.0.0.1");
    assert!(made_lines[0].detail.contains("node 4 of fra"), "{}", made_lines[0].detail);
    let enrolled = audit(&cloud, "node.enrolled").await;
    assert_eq!(enrolled.len(), 1);
    assert!(enrolled[0].who.starts_with("node 4 of fra from 127.0.0.1:"), "{}", enrolled[0].who);
    assert!(enrolled[0].detail.contains("admin@127.0.0.1"), "{}", enrolled[0].detail);
    let everything: Vec<AuditView> = cloud.read("/v1/audit?limit=100").await;
    assert!(!format!("{everything:?}").contains(&made.token), "a token is never written down");
    let metrics = cloud.metrics().await;
    assert!(metrics.contains("rockpool_cloud_enrolments_total{outcome=\"ok\"} 2"), "{metrics}");
    cloud.stop().await;
}

#[tokio::test]
async fn of_many_that_race_with_one_token_one_enrols() {
    let deployment = Deployment::new();
    let cloud = start(&deployment, &[]).await;
    let made = make_token(&cloud, serde_json::json!({ "pop": "fra", "node": 4 })).await;
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (newcomer, token) = (Newcomer::new(&deployment, &cloud).await, made.token.clone());
        racing.spawn(async move { newcomer.enrol(&node("fra", 4), &token).await.map(drop) });
    }
    let outcomes = racing.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|o| **o == Err(Code::Unauthenticated)).count(), 7, "{outcomes:?}");
    cloud.stop().await;
}

#[tokio::test]
async fn a_token_ends_and_impossible_ones_are_not_made() {
    let deployment = Deployment::new();
    let cloud = start(&deployment, &[]).await;
    let body = serde_json::json!({ "pop": "fra", "node": 4, "lifetime_s": 1 });
    let made = make_token(&cloud, body).await;
    let begun = Instant::now();
    let now_ms = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    while now_ms() <= made.expires_at_ms {
        assert!(begun.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    let newcomer = Newcomer::new(&deployment, &cloud).await;
    let late = newcomer.enrol(&node("fra", 4), &made.token).await;
    assert_eq!(late.err(), Some(Code::Unauthenticated));
    for wrong in [
        serde_json::json!({ "pop": "Fra", "node": 4 }),
        serde_json::json!({ "pop": "fra", "node": 0 }),
        serde_json::json!({ "pop": "fra", "node": 4, "lifetime_s": 0 }),
        serde_json::json!({ "pop": "fra", "node": 4, "lifetime_s": 10_000_000 }),
        serde_json::json!({ "pop": "fra", "node": 4, "names": ["cloud.rockpool.internal"] }),
        serde_json::json!({ "pop": "fra", "node": 4, "names": vec!["a.example.com"; 17] }),
        serde_json::json!({ "pop": "fra", "node": 4, "colour": "red" }),
    ] {
        let response = cloud.post("/v1/nodes/enrolments", wrong.to_string()).await;
        assert_eq!(response.status(), 422, "{wrong}");
    }
    cloud.stop().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_for_who_has_shown_it_also_within_the_grace() {
    let deployment = Deployment::new();
    let cloud = start(&deployment, &[]).await;
    let four = node("fra", 4);
    let (now, pop) = (SystemTime::now(), PopId::new("fra").unwrap());
    let ended = Validity { not_before: now - 3 * HOUR, not_after: now - HOUR };
    let names = ["shop.example.com".to_owned(), "10.0.0.4".to_owned()];
    let issued = deployment.authority.issue_node(&pop, NodeId(4), &names, ended).unwrap();
    let old = issued.credentials().unwrap();
    let up = Up::dial(&deployment, &cloud, &old).await.unwrap();

    let request = Request::new(&four).unwrap();
    let chain = up.renew(&request).await.unwrap();
    let new = request.complete(&chain, &deployment.trust()).unwrap().credentials().unwrap();
    assert_eq!(new.identity().unwrap(), four);
    assert!(new.validity().not_after > now + 23 * HOUR);
    // The connection says who asks: nobody gets a certificate for another.
    for other in [node("fra", 5), node("sin", 4)] {
        let refused = up.renew(&Request::new(&other).unwrap()).await;
        assert_eq!(refused.err(), Some(Code::Invalid), "{other}");
    }
    // What apps dial is in the new one too, and is not the node's to choose.
    let listener = transport::quic::QuicListener::bind(
        ([127, 0, 0, 1], 0).into(),
        transport::Door::Clients,
        &new,
        &deployment.trust(),
        &Settings::clients(),
    )
    .unwrap();
    let app = QuicDialer::new(&deployment.trust(), None, proto::ALPN_CLIENT, &Settings::clients()).unwrap();
    for name in names {
        let address = listener.local_socket().to_string();
        app.dial(&address, &Peer::Named(name), PATIENCE).await.unwrap();
    }
    Up::dial(&deployment, &cloud, &new).await.unwrap();
    cloud.stop().await;

    let strict = start(&deployment, &[("CLOUD__IDENTITY__GRACE_S", "0")]).await;
    let refused = Up::dial(&deployment, &strict, &old).await.err().unwrap();
    assert!(matches!(refused, LinkErrorKind::Tls(_)), "{refused}");
    strict.stop().await;
}

#[tokio::test]
async fn a_revoked_node_is_cut_at_once_and_for_ever() {
    let deployment = Deployment::new();
    let cloud = start(&deployment, &[]).await;
    let newcomer = Newcomer::new(&deployment, &cloud).await;
    let made = make_token(&cloud, serde_json::json!({ "pop": "fra", "node": 4 })).await;
    let own = newcomer.enrol(&node("fra", 4), &made.token).await.unwrap();
    let spare = make_token(&cloud, serde_json::json!({ "pop": "fra", "node": 4 })).await;
    let bad = Up::dial(&deployment, &cloud, &own).await.unwrap();
    let good = Up::dial(&deployment, &cloud, &deployment.node_credentials("fra", 1)).await.unwrap();
    let elsewhere = Up::dial(&deployment, &cloud, &deployment.node_credentials("sin", 4)).await.unwrap();
    assert!(good.revoked(0).await.is_empty());

    let first = revoke(&cloud, "fra", 4, "stolen").await;
    let closed = tokio::time::timeout(PATIENCE, bad.link.closed()).await.expect("its link is closed");
    assert!(matches!(closed.kind, LinkErrorKind::Forbidden(_)), "{closed}");
    let refused = Up::dial(&deployment, &cloud, &own).await.err().unwrap();
    assert!(matches!(refused, LinkErrorKind::Forbidden(_)), "{refused}");
    let enrolled = newcomer.enrol(&node("fra", 4), &spare.token).await;
    assert_eq!(enrolled.err(), Some(Code::Forbidden), "a token made before does not help");
    let body = serde_json::json!({ "pop": "fra", "node": 4 }).to_string();
    assert_eq!(cloud.post("/v1/nodes/enrolments", body).await.status(), 403);

    // The others of its PoP are told when they know less; other PoPs are not concerned.
    assert_eq!(good.revoked(0).await, [NodeId(4)]);
    assert!(good.revoked(1).await.is_empty());
    assert!(elsewhere.revoked(0).await.is_empty());
    assert!(matches!(elsewhere.call(UplinkRequest::Position).await, UplinkReply::Ack { .. }));
    let again = revoke(&cloud, "fra", 4, "again").await;
    assert_eq!(again, first, "the first reason stays");
    let lines = audit(&cloud, "node.revoke").await;
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (lines[0].who.as_str(), lines[0].detail.as_str()),
        ("admin@127.0.0.1", "node 4 of fra: stolen")
    );
    cloud.stop().await;

    let cloud = start(&deployment, &[]).await;
    let refused = Up::dial(&deployment, &cloud, &own).await.err().unwrap();
    assert!(matches!(refused, LinkErrorKind::Forbidden(_)), "after a restart: {refused}");
    let listed: Vec<RevokedNode> = cloud.read("/v1/nodes/revoked").await;
    assert_eq!(listed, [first]);
    let metrics = cloud.metrics().await;
    assert!(metrics.contains("rockpool_cloud_revoked_nodes 1"), "{metrics}");
    cloud.stop().await;
}

#[tokio::test]
async fn a_cloud_without_issuer_says_so_and_revokes_all_the_same() {
    let deployment = Deployment::new();
    let cloud = deployment.start().await;
    assert_eq!(cloud.server.addresses.enrol, None);
    let body = serde_json::json!({ "pop": "fra", "node": 4 }).to_string();
    let response = cloud.post("/v1/nodes/enrolments", body).await;
    assert_eq!(response.status(), 503);
    assert!(response.text().await.unwrap().contains("identity.issuer"));
    let up = Up::dial(&deployment, &cloud, &deployment.node_credentials("fra", 1)).await.unwrap();
    let refused = up.renew(&Request::new(&node("fra", 1)).unwrap()).await;
    assert_eq!(refused.err(), Some(Code::NotReady));
    revoke(&cloud, "fra", 1, "").await;
    tokio::time::timeout(PATIENCE, up.link.closed()).await.unwrap();
    cloud.stop().await;
}

#[tokio::test]
async fn an_exposed_issuing_key_is_refused_with_the_command_to_run() {
    use std::os::unix::fs::PermissionsExt as _;

    let deployment = Deployment::new();
    let key = deployment.folder.path().join("pki/ca.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let config = Config::from_sources(None, issuing(&deployment).into_iter()).unwrap();
    let error = Server::start(config, Some(TOKEN.to_owned()), Shutdown::new()).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains(&format!("chmod 600 {}", key.display())), "{text}");
}

#[tokio::test]
async fn the_cloud_can_issue_its_own_certificate_and_renews_it() {
    let deployment = Deployment::new();
    let own = [
        ("CLOUD__TLS__CERTIFICATE", "\"\""),
        ("CLOUD__TLS__KEY", "\"\""),
        ("CLOUD__IDENTITY__LIFETIME_S", "2"),
    ];
    let cloud = start(&deployment, &own).await;
    let credentials = deployment.node_credentials("fra", 1);
    let (begun, mut upto) = (Instant::now(), 0);
    // Over three lives of its certificate, every node that dials anew believes it.
    while begun.elapsed() < Duration::from_secs(6) {
        let up = Up::dial(&deployment, &cloud, &credentials).await.unwrap();
        let first = proto::Offset(upto + 1);
        let append = UplinkRequest::Append { first, events: events(upto..upto + 1) };
        assert!(matches!(up.call(append).await, UplinkReply::Ack { .. }));
        upto += 1;
    }
    cloud.stop().await;
}

#[tokio::test]
async fn more_knocks_than_are_answered_are_told_to_come_back() {
    let deployment = Deployment::new();
    let cloud = start(&deployment, &[]).await;
    let newcomer = Newcomer::new(&deployment, &cloud).await;
    let begun = Instant::now();
    while newcomer.ask(&node("fra", 4), "guess", b"").await.err() != Some(Code::RateLimited) {
        assert!(begun.elapsed() < PATIENCE, "nobody is ever told to come back");
    }
    // A second later the door is open again.
    while newcomer.ask(&node("fra", 4), "guess", b"").await.err() == Some(Code::RateLimited) {
        assert!(begun.elapsed() < PATIENCE, "the door stays shut");
    }
    assert!(audit(&cloud, "node.enrolled").await.is_empty());
    cloud.stop().await;
}
