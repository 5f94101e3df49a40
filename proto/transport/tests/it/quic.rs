//! The QUIC form: the suite, and what certificates, ALPN and many connections add to it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use proto::client::{Ask, ClientReply, ClientRequest};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::sync::Mutex;
use transport::conformance::{self, Form, Limits};
use transport::pki::{Credentials, Trust, Validity};
use transport::quic::{QuicDialer, QuicListener, Settings};
use transport::{Dialer, Door, Identity, Link, LinkErrorKind, Listener, Peer, call};

use crate::setup::{DAY, Deployment, Relay, loopback, node, pop};

const PATIENCE: Duration = Duration::from_secs(20);

struct Quic {
    deployment: Deployment,
    relays: Mutex<Vec<Relay>>,
}

fn settings(limits: &Limits) -> Settings {
    Settings {
        keep_alive_ms: limits.idle_timeout_ms / 4,
        idle_timeout_ms: limits.idle_timeout_ms,
        max_bidi_streams: limits.max_bidi_streams,
        stream_window_bytes: limits.stream_window_bytes,
        max_connections: limits.max_connections,
        connection_age_max_ms: limits.connection_age_max_ms,
        drain_ms: limits.drain_ms,
        ..Settings::peers()
    }
}

#[async_trait]
impl Form for Quic {
    async fn listener(
        &self,
        identity: &Identity,
        door: &Door,
        limits: &Limits,
    ) -> (Arc<dyn Listener>, String) {
        let credentials = self.deployment.credentials(identity);
        let trust = self.deployment.trust();
        let listener =
            QuicListener::bind(loopback(), door.clone(), &credentials, &trust, &settings(limits)).unwrap();
        let relay = Relay::new(listener.local_socket()).await;
        let address = relay.address.to_string();
        self.relays.lock().await.push(relay);
        (Arc::new(listener), address)
    }

    async fn dialer(&self, identity: Option<&Identity>, door: &Door, limits: &Limits) -> Arc<dyn Dialer> {
        let credentials = identity.map(|identity| self.deployment.credentials(identity));
        let trust = self.deployment.trust();
        Arc::new(QuicDialer::new(&trust, credentials.as_ref(), door.alpn(), &settings(limits)).unwrap())
    }

    async fn cut(&self, address: &str) {
        let relays = self.relays.lock().await;
        relays.iter().find(|relay| relay.address.to_string() == address).unwrap().cut();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite() {
    conformance::run(&Quic { deployment: Deployment::new(), relays: Mutex::default() }).await;
}

/// A door for the nodes of `pop-a`, kept by node 1.
struct PeersDoor {
    deployment: Deployment,
    listener: QuicListener,
}

impl PeersDoor {
    fn new() -> Self {
        let deployment = Deployment::new();
        let credentials = deployment.credentials(&node("pop-a", 1));
        let listener = Self::listen(&deployment, &credentials);
        Self { deployment, listener }
    }

    fn listen(deployment: &Deployment, credentials: &Credentials) -> QuicListener {
        let door = Door::Peers { pop: pop("pop-a") };
        QuicListener::bind(loopback(), door, credentials, &deployment.trust(), &Settings::peers()).unwrap()
    }

    async fn dial(
        &self,
        trust: &Trust,
        credentials: Option<&Credentials>,
        alpn: &[u8],
    ) -> Result<Arc<dyn Link>, LinkErrorKind> {
        let dialer = QuicDialer::new(trust, credentials, alpn, &Settings::peers()).unwrap();
        let expect = Peer::AnyNodeOf(pop("pop-a"));
        dialer.dial(&self.listener.local_address(), &expect, PATIENCE).await.map_err(|e| e.kind)
    }

    async fn dial_as(&self, credentials: &Credentials) -> Result<Arc<dyn Link>, LinkErrorKind> {
        self.dial(&self.deployment.trust(), Some(credentials), proto::ALPN_PEER).await
    }
}

fn assert_tls<T: std::fmt::Debug>(result: Result<T, LinkErrorKind>) {
    let kind = result.expect_err("must be refused");
    assert!(matches!(kind, LinkErrorKind::Tls(_)), "{kind:?}");
}

#[tokio::test]
async fn certificates_of_another_deployment_are_refused() {
    let door = PeersDoor::new();
    let foreign = Deployment::new();
    // The same name, another authority.
    let credentials = foreign.credentials(&node("pop-a", 2));
    assert_tls(door.dial_as(&credentials).await);
    // Nor does a dialer believe another deployment's listener.
    let own = door.deployment.credentials(&node("pop-a", 2));
    assert_tls(door.dial(&foreign.trust(), Some(&own), proto::ALPN_PEER).await);
    door.dial_as(&own).await.unwrap();
    assert_eq!(door.listener.stats().failed_total, 2);
}

#[tokio::test]
async fn expired_and_future_certificates_are_refused() {
    let door = PeersDoor::new();
    let now = SystemTime::now();
    let expired = Validity { not_before: now - 2 * DAY, not_after: now - DAY };
    let future = Validity { not_before: now + DAY, not_after: now + 2 * DAY };
    for validity in [expired, future] {
        let issued = door.deployment.issue(&node("pop-a", 2), validity);
        assert_tls(door.dial_as(&issued.credentials().unwrap()).await);

        let issued = door.deployment.issue(&node("pop-a", 3), validity).credentials().unwrap();
        let listener = PeersDoor::listen(&door.deployment, &issued);
        let own = door.deployment.credentials(&node("pop-a", 2));
        let dialer =
            QuicDialer::new(&door.deployment.trust(), Some(&own), proto::ALPN_PEER, &Settings::peers())
                .unwrap();
        let expect = Peer::AnyNodeOf(pop("pop-a"));
        let dialed = dialer.dial(&listener.local_address(), &expect, PATIENCE).await;
        assert_tls(dialed.map_err(|e| e.kind));
    }
}

#[tokio::test]
async fn a_node_cannot_issue_certificates() {
    let door = PeersDoor::new();
    let issued = door.deployment.issue(&node("pop-a", 2), Validity::starting_now(DAY));
    let node_key = KeyPair::from_pem(&std::fs::read_to_string(&issued.key).unwrap()).unwrap();
    let node_certificate = std::fs::read_to_string(&issued.certificate).unwrap();

    // The node pretends to be an authority and makes itself the cloud, or another node.
    let mut as_issuer = CertificateParams::default();
    as_issuer.distinguished_name.push(rcgen::DnType::CommonName, "node 2 of pop-a");
    as_issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(as_issuer, node_key);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let params = CertificateParams::new(vec!["node-3.pop-a.rockpool.internal".to_owned()]).unwrap();
    let forged = params.signed_by(&key, &issuer).unwrap().pem() + &node_certificate;
    let forged = Credentials::from_pem(forged.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    assert_tls(door.dial_as(&forged).await);
}

#[tokio::test]
async fn another_protocol_version_is_refused_in_the_handshake() {
    let door = PeersDoor::new();
    let own = door.deployment.credentials(&node("pop-a", 2));
    for alpn in [&b"rockpool-peer/2"[..], proto::ALPN_CLIENT, proto::ALPN_UPLINK] {
        assert_tls(door.dial(&door.deployment.trust(), Some(&own), alpn).await);
    }
}

#[tokio::test]
async fn apps_verify_the_name_or_address_they_dialed() {
    let deployment = Deployment::new();
    let credentials = deployment.credentials(&node("pop-a", 1));
    let trust = deployment.trust();
    let listener =
        QuicListener::bind(loopback(), Door::Clients, &credentials, &trust, &Settings::clients()).unwrap();
    let dialer = QuicDialer::new(&trust, None, proto::ALPN_CLIENT, &Settings::clients()).unwrap();
    let address = listener.local_address();
    for name in ["127.0.0.1", "localhost", "edge.pop-a.rockpool.internal"] {
        dialer.dial(&address, &Peer::Named(name.into()), PATIENCE).await.unwrap();
    }
    for name in ["127.0.0.2", "pop-a.rockpool.internal", "edge.pop-b.rockpool.internal"] {
        assert_tls(dialer.dial(&address, &Peer::Named(name.into()), PATIENCE).await.map_err(|e| e.kind));
    }
    let odd = dialer.dial(&address, &Peer::Named("not a name".into()), PATIENCE).await.unwrap_err();
    assert!(matches!(odd.kind, LinkErrorKind::Address(_)), "{odd}");
    let port = listener.local_socket().port();
    // By name: whichever of its addresses answers.
    let by_name = dialer.dial(&format!("localhost:{port}"), &Peer::Named("localhost".into()), PATIENCE).await;
    by_name.unwrap();
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let deployment = Deployment::new();
    let wrong = [
        Settings { keep_alive_ms: 30_000, ..Settings::clients() },
        Settings { max_bidi_streams: 0, ..Settings::clients() },
        Settings { connection_window_bytes: 1, ..Settings::clients() },
        Settings { frame_bytes_max: 1024, ..Settings::clients() },
        Settings { idle_timeout_ms: u64::MAX, ..Settings::clients() },
    ];
    for settings in wrong {
        let error = QuicDialer::new(&deployment.trust(), None, proto::ALPN_CLIENT, &settings).unwrap_err();
        assert!(matches!(error.kind, LinkErrorKind::Settings(_)), "{error}");
    }
    for settings in [Settings::clients(), Settings::peers(), Settings::default()] {
        settings.check().unwrap();
    }
}

#[tokio::test]
async fn a_taken_address_is_an_error() {
    let door = PeersDoor::new();
    let credentials = door.deployment.credentials(&node("pop-a", 2));
    let taken = QuicListener::bind(
        door.listener.local_socket(),
        Door::Clients,
        &credentials,
        &door.deployment.trust(),
        &Settings::clients(),
    );
    let error = taken.unwrap_err();
    assert!(matches!(error.kind, LinkErrorKind::Io(_)), "{error}");
}

/// Answers pings of every link.
fn serve_pings(listener: Arc<QuicListener>) {
    tokio::spawn(async move {
        while let Some(link) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(mut stream) = link.accept().await {
                    if stream.recv::<ClientRequest>().await.is_ok() {
                        // Who is gone wants no answer.
                        let _ = stream.send(&ClientReply::Pong).await;
                    }
                }
            });
        }
    });
}

/// The benchmark's load generator opens 2,000; here a quarter of it, all handshakes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_share_one_socket() {
    const CLIENTS: usize = 500;
    let deployment = Deployment::new();
    let credentials = deployment.credentials(&node("pop-a", 1));
    let trust = deployment.trust();
    // So few handshakes at a time that most callers must prove their address first.
    let settings = Settings { max_incoming: 600, handshake_timeout_ms: 20_000, ..Settings::clients() };
    let listener =
        Arc::new(QuicListener::bind(loopback(), Door::Clients, &credentials, &trust, &settings).unwrap());
    serve_pings(Arc::clone(&listener));
    let dialer = Arc::new(QuicDialer::new(&trust, None, proto::ALPN_CLIENT, &Settings::clients()).unwrap());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (dialer, address) = (Arc::clone(&dialer), listener.local_address());
        clients.spawn(async move {
            let expect = Peer::AnyNodeOf(pop("pop-a"));
            let link = dialer.dial(&address, &expect, Duration::from_secs(60)).await.unwrap();
            let ping = ClientRequest { trace: proto::TraceId(1), deadline_ms: 0, ask: Ask::Ping };
            let reply: ClientReply = call(&*link, &ping, Duration::from_secs(60)).await.unwrap();
            assert_eq!(reply, ClientReply::Pong);
            link
        });
    }
    let links = clients.join_all().await;
    let stats = listener.stats();
    assert_eq!((stats.connections, stats.admitted_total), (CLIENTS as u64, CLIENTS as u64), "{stats:?}");
    assert_eq!((stats.failed_total, stats.refused_total), (0, 0), "{stats:?}");
    assert!(links.iter().all(|link| !link.is_closed()));
    dialer.shutdown("done", PATIENCE).await;
    for link in links {
        link.closed().await;
    }
}

/// A closed connection is remembered for three times its probe timeout (RFC 9000, 10.2): seconds, on a way with great delays.
#[tokio::test]
async fn a_listener_that_has_ended_leaves_its_address_however_far_its_callers_are() {
    let deployment = Deployment::new();
    let (trust, server) = (deployment.trust(), deployment.credentials(&node("pop-a", 1)));
    let settings = Settings { drain_ms: 100, ..Settings::clients() };
    let bind = |address| QuicListener::bind(address, Door::Clients, &server, &trust, &settings);
    let listener = bind(loopback()).unwrap();
    let (address, relay) = (listener.local_socket(), Relay::new(listener.local_socket()).await);
    relay.delay(Duration::from_secs(1));
    let dialer = QuicDialer::new(&trust, None, Door::Clients.alpn(), &settings).unwrap();
    let front = relay.address.to_string();
    let expect = Peer::Named("127.0.0.1".into());
    let (far, near) = tokio::join!(dialer.dial(&front, &expect, PATIENCE), listener.accept());
    let (far, _) = (far.unwrap(), near.unwrap());
    listener.shutdown().await;
    drop(listener);
    bind(address).unwrap();
    far.closed().await;
}
