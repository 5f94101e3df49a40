//! Identities that end, are renewed and are revoked, over real QUIC: what is live, what is dialed anew, what would resume.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use proto::uplink::{UplinkReply, UplinkRequest};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use transport::pki::{Credentials, Issuer, Revoked, Trust, Validity};
use transport::quic::{QuicDialer, QuicListener, Settings};
use transport::{Dialer, Door, Identity, Link, LinkErrorKind, Listener, Peer, call};

use crate::setup::{DAY, Deployment, loopback, node, pop};

const PATIENCE: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

fn door() -> Door {
    Door::Peers { pop: pop("pop-a") }
}

fn listen(credentials: &Credentials, trust: &Trust) -> Arc<QuicListener> {
    Arc::new(QuicListener::bind(loopback(), door(), credentials, trust, &Settings::peers()).unwrap())
}

fn dialer(credentials: &Credentials, trust: &Trust) -> Arc<QuicDialer> {
    Arc::new(QuicDialer::new(trust, Some(credentials), proto::ALPN_PEER, &Settings::peers()).unwrap())
}

async fn dial(dialer: &QuicDialer, listener: &QuicListener) -> Result<Arc<dyn Link>, LinkErrorKind> {
    let expect = Peer::AnyNodeOf(pop("pop-a"));
    dialer.dial(&listener.local_address(), &expect, PATIENCE).await.map_err(|e| e.kind)
}

/// Answers every request of every link.
fn serve(listener: Arc<QuicListener>) {
    tokio::spawn(async move {
        while let Some(link) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(mut stream) = link.accept().await {
                    if stream.recv::<UplinkRequest>().await.is_ok() {
                        // Who is gone wants no answer.
                        let _ = stream.send(&UplinkReply::Noted).await;
                    }
                }
            });
        }
    });
}

async fn ask(link: &dyn Link) -> Result<UplinkReply, LinkErrorKind> {
    call(link, &UplinkRequest::Position, PATIENCE).await.map_err(|e| e.kind)
}

/// Ten times the life of a certificate, under load on a live link and on new ones: nothing fails, and what is dialed anew
/// shows the new certificate, as the old ones have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_under_load_and_no_call_fails() {
    const LIFETIME: Duration = Duration::from_secs(2);
    let deployment = Deployment::new();
    let folder = deployment.folder();
    let issuer = Issuer::read(&folder.join("ca.pem"), &folder.join("ca.key")).unwrap();
    let issue = |id| issuer.issue(&node("pop-a", id), &[], LIFETIME).unwrap();
    let (shown, own) = (issue(1), issue(2));
    let listener = listen(&shown, &deployment.trust());
    serve(Arc::clone(&listener));
    let dialer = dialer(&own, &deployment.trust());
    let live = dial(&dialer, &listener).await.unwrap();

    let calls = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + 3 * LIFETIME;
    let mut load = tokio::task::JoinSet::new();
    for anew in [true, true, false] {
        let (dialer, listener) = (Arc::clone(&dialer), Arc::clone(&listener));
        let (live, calls) = (Arc::clone(&live), Arc::clone(&calls));
        load.spawn(async move {
            while Instant::now() < until {
                let link = if anew { dial(&dialer, &listener).await.unwrap() } else { Arc::clone(&live) };
                assert_eq!(ask(&*link).await.unwrap(), UplinkReply::Noted);
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut ticks = tokio::time::interval(LIFETIME / 4);
    let mut renewals = 0;
    while Instant::now() < until {
        ticks.tick().await;
        shown.replace(&issue(1));
        own.replace(&issue(2));
        renewals += 1;
    }
    load.join_all().await;
    assert!(renewals >= 10, "{renewals} renewals");
    assert!(calls.load(Ordering::Relaxed) > 100, "{calls:?} calls");
    assert_eq!(listener.stats().failed_total, 0);
    assert!(shown.validity().not_after > SystemTime::now());
}

#[tokio::test]
async fn a_revoked_node_is_cut_on_live_links_and_refused_on_new_ones() {
    let deployment = Deployment::new();
    let credentials = |id| deployment.credentials(&node("pop-a", id));
    // Node 1 listens and knows the list; nodes 2 and 3 dial.
    let revoked = Revoked::default();
    let listener = listen(&credentials(1), &deployment.trust().with_revoked(revoked.clone()));
    serve(Arc::clone(&listener));
    let (bad, good) =
        (dialer(&credentials(2), &deployment.trust()), dialer(&credentials(3), &deployment.trust()));
    let (cut, stays) = (dial(&bad, &listener).await.unwrap(), dial(&good, &listener).await.unwrap());
    assert_eq!(ask(&*cut).await.unwrap(), UplinkReply::Noted);

    assert_eq!(revoked.add([node("pop-a", 2)]), 1);
    let reason = tokio::time::timeout(PATIENCE, cut.closed()).await.expect("the live link is closed");
    assert!(matches!(reason.kind, LinkErrorKind::Forbidden(_)), "{reason}");
    let refused = dial(&bad, &listener).await.unwrap_err();
    assert!(matches!(refused, LinkErrorKind::Forbidden(_)), "{refused}");
    assert_eq!(ask(&*stays).await.unwrap(), UplinkReply::Noted, "others are not touched");
    assert_eq!(revoked.add([node("pop-a", 2)]), 0, "known");
    // The same number in another PoP is another node.
    assert!(!revoked.contains(&node("pop-b", 2)));
}

#[tokio::test]
async fn a_dialer_drops_and_refuses_who_was_revoked() {
    let deployment = Deployment::new();
    let listener = listen(&deployment.credentials(&node("pop-a", 1)), &deployment.trust());
    serve(Arc::clone(&listener));
    let revoked = Revoked::default();
    let trust = deployment.trust().with_revoked(revoked.clone());
    let dialer = dialer(&deployment.credentials(&node("pop-a", 2)), &trust);
    let link = dial(&dialer, &listener).await.unwrap();
    revoked.add([node("pop-a", 1)]);
    tokio::time::timeout(PATIENCE, link.closed()).await.expect("the live link is closed");
    let refused = dial(&dialer, &listener).await.unwrap_err();
    assert!(matches!(refused, LinkErrorKind::Forbidden(_)), "{refused}");
}

/// Counts the tickets with which a session could be resumed.
#[derive(Debug)]
struct Tickets {
    inner: ClientSessionMemoryCache,
    taken_in: AtomicUsize,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, name: rustls_pki_types::ServerName<'static>, group: rustls::NamedGroup) {
        self.inner.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &rustls_pki_types::ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.inner.kx_hint(name)
    }

    fn set_tls12_session(
        &self,
        name: rustls_pki_types::ServerName<'static>,
        value: rustls::client::Tls12ClientSessionValue,
    ) {
        self.inner.set_tls12_session(name, value);
    }

    fn tls12_session(
        &self,
        name: &rustls_pki_types::ServerName<'_>,
    ) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.inner.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &rustls_pki_types::ServerName<'static>) {
        self.inner.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(
        &self,
        name: rustls_pki_types::ServerName<'static>,
        value: rustls::client::Tls13ClientSessionValue,
    ) {
        self.taken_in.fetch_add(1, Ordering::SeqCst);
        self.inner.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(
        &self,
        name: &rustls_pki_types::ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.inner.take_tls13_ticket(name)
    }
}

/// A hostile node that keeps its sessions: it gets no ticket to resume with, and once revoked it does not come in again.
#[tokio::test]
async fn there_is_no_session_to_resume() {
    let deployment = Deployment::new();
    let revoked = Revoked::default();
    let shown = deployment.credentials(&node("pop-a", 1));
    let listener = listen(&shown, &deployment.trust().with_revoked(revoked.clone()));
    serve(Arc::clone(&listener));

    let mut roots = rustls::RootCertStore::empty();
    let ca = std::fs::read(deployment.folder().join("ca.pem")).unwrap();
    let pem = |text: &[u8]| -> Vec<rustls_pki_types::CertificateDer<'static>> {
        use rustls_pki_types::pem::PemObject;
        rustls_pki_types::CertificateDer::pem_slice_iter(text).map(Result::unwrap).collect()
    };
    roots.add_parsable_certificates(pem(&ca));
    let issued = deployment.issue(&node("pop-a", 2), Validity::starting_now(DAY));
    let key = {
        use rustls_pki_types::pem::PemObject;
        rustls_pki_types::PrivateKeyDer::from_pem_file(&issued.key).unwrap()
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(pem(&std::fs::read(&issued.certificate).unwrap()), key)
        .unwrap();
    config.alpn_protocols = vec![proto::ALPN_PEER.to_vec()];
    config.enable_early_data = true;
    let tickets =
        Arc::new(Tickets { inner: ClientSessionMemoryCache::new(8), taken_in: AtomicUsize::new(0) });
    config.resumption = Resumption::store(tickets.clone());
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = quinn::Endpoint::client(loopback()).unwrap();
    let connect = || {
        endpoint
            .connect_with(config.clone(), listener.local_socket(), "edge.pop-a.rockpool.internal")
            .unwrap()
    };

    let first = connect().await.unwrap();
    let mut admitted = [0; 1];
    first.accept_uni().await.unwrap().read_exact(&mut admitted).await.unwrap();
    revoked.add([node("pop-a", 2)]);
    let cut = tokio::time::timeout(PATIENCE, first.closed()).await.unwrap();
    assert!(matches!(cut, quinn::ConnectionError::ApplicationClosed(_)), "{cut}");
    assert_eq!(tickets.taken_in.load(Ordering::SeqCst), 0, "no ticket was given");
    let again = connect().into_0rtt().err().expect("nothing to resume: no early data").await.unwrap();
    let refused = again.accept_uni().await.unwrap_err();
    assert!(refused.to_string().contains("was revoked"), "{refused}");
}

/// While the cloud is away nobody renews. Members of a PoP believe each other for the grace, and not longer.
#[tokio::test]
async fn what_has_ended_is_believed_for_the_grace_and_no_longer() {
    let deployment = Deployment::new();
    let ended = |id| {
        let now = SystemTime::now();
        let validity = Validity { not_before: now - DAY, not_after: now - 2 * HOUR };
        deployment.issue(&node("pop-a", id), validity).credentials().unwrap()
    };
    let fresh = |id| deployment.credentials(&node("pop-a", id));
    let long = deployment.trust().with_grace(3 * HOUR);
    let short = deployment.trust().with_grace(HOUR);

    // Both sides have ended; each believes the other.
    let listener = listen(&ended(1), &long);
    serve(Arc::clone(&listener));
    let link = dial(&dialer(&ended(2), &long), &listener).await.unwrap();
    assert_eq!(ask(&*link).await.unwrap(), UplinkReply::Noted);
    // The listener's grace decides about dialers, the dialer's about listeners.
    let tls = |refused: Result<Arc<dyn Link>, LinkErrorKind>| {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, LinkErrorKind::Tls(_)), "{refused}");
    };
    tls(dial(&dialer(&fresh(2), &short), &listener).await);
    let strict = listen(&fresh(1), &short);
    tls(dial(&dialer(&ended(2), &long), &strict).await);
    dial(&dialer(&fresh(2), &long), &strict).await.unwrap();

    // The grace is for certificates of the deployment that have ended, for nothing else that is wrong.
    let foreign = Deployment::new().credentials(&node("pop-a", 2));
    tls(dial(&dialer(&foreign, &long), &listener).await);
    let future = SystemTime::now() + DAY;
    let future = Validity { not_before: future, not_after: future + DAY };
    let future = deployment.issue(&node("pop-a", 2), future).credentials().unwrap();
    tls(dial(&dialer(&future, &long), &listener).await);
    let revoked = Revoked::default();
    revoked.add([node("pop-a", 2)]);
    let listener = listen(&fresh(1), &long.clone().with_revoked(revoked));
    let refused = dial(&dialer(&ended(2), &long), &listener).await.unwrap_err();
    assert!(matches!(refused, LinkErrorKind::Forbidden(_)), "{refused}");
}

#[tokio::test]
async fn the_door_for_enrolment_asks_for_no_certificate_and_opens_no_other_conversation() {
    let deployment = Deployment::new();
    let cloud = deployment.credentials(&Identity::Cloud);
    let listener =
        QuicListener::bind(loopback(), Door::Enrol, &cloud, &deployment.trust(), &Settings::peers()).unwrap();
    let new = |alpn| QuicDialer::new(&deployment.trust(), None, alpn, &Settings::peers()).unwrap();
    let link = new(proto::ALPN_ENROL).dial(&listener.local_address(), &Peer::Cloud, PATIENCE).await.unwrap();
    assert_eq!(link.remote().identity, Some(Identity::Cloud));
    assert_eq!(listener.accept().await.unwrap().remote().identity, None);
    let other = new(proto::ALPN_UPLINK).dial(&listener.local_address(), &Peer::Cloud, PATIENCE).await;
    assert!(matches!(other.unwrap_err().kind, LinkErrorKind::Tls(_)));
    // Nor does it believe somebody else's cloud.
    let foreign =
        QuicDialer::new(&Deployment::new().trust(), None, proto::ALPN_ENROL, &Settings::peers()).unwrap();
    let refused = foreign.dial(&listener.local_address(), &Peer::Cloud, PATIENCE).await.unwrap_err();
    assert!(matches!(refused.kind, LinkErrorKind::Tls(_)), "{refused}");
}
