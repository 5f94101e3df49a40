//! The authority: what it writes, what it refuses to read, and what it refuses to issue.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use transport::Identity;
use transport::pki::{Authority, Credentials, Issuer, PkiError, Request, Trust, Validity};

use crate::setup::{DAY, Deployment, node, pop};

const HOUR: Duration = Duration::from_secs(3600);

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_are_their_owners_alone() {
    let deployment = Deployment::new();
    let issued = deployment.issue(&node("pop-a", 1), Validity::starting_now(DAY));
    assert_eq!(issued.certificate, deployment.folder().join("node-1.pop-a.pem"));
    assert_eq!(issued.key, deployment.folder().join("node-1.pop-a.key"));
    for key in [&issued.key, &deployment.folder().join("ca.key")] {
        assert_eq!(mode(key), 0o600, "{}", key.display());
    }
    for open in [0o644, 0o640, 0o604, 0o660] {
        fs::set_permissions(&issued.key, fs::Permissions::from_mode(open)).unwrap();
        let error = Credentials::read(&issued.certificate, &issued.key).unwrap_err();
        assert!(matches!(error, PkiError::Exposed { mode, .. } if mode == open), "{error}");
    }
    fs::set_permissions(&issued.key, fs::Permissions::from_mode(0o400)).unwrap();
    let credentials = Credentials::read(&issued.certificate, &issued.key).unwrap();
    assert_eq!(credentials.identity().unwrap(), node("pop-a", 1));
    let shown = format!("{credentials:?}");
    assert!(shown.contains("pop-a") && !shown.to_lowercase().contains("key"), "{shown}");

    let authority = deployment.folder().join("ca.key");
    fs::set_permissions(&authority, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Authority::open(deployment.folder()), Err(PkiError::Exposed { .. })));
}

#[test]
fn an_authority_is_made_once_and_opened_again() {
    let deployment = Deployment::new();
    let again = Authority::create(deployment.folder(), Validity::starting_now(DAY));
    assert!(matches!(again, Err(PkiError::Exists(_))));
    let before = fs::read(deployment.folder().join("ca.pem")).unwrap();
    let opened = Authority::open_or_create(deployment.folder(), Validity::starting_now(DAY)).unwrap();
    assert_eq!(opened.certificate_pem(), before);
    assert_eq!(opened.certificate_path(), deployment.folder().join("ca.pem"));
    // What the opened one issues is what the made one's trust believes: see `quic`, which this only prepares.
    let issued = opened.issue_cloud(&[], Validity::starting_now(DAY)).unwrap();
    assert_eq!(issued.credentials().unwrap().identity().unwrap(), Identity::Cloud);
    // Nothing half-written is left behind.
    let mut names: Vec<_> = fs::read_dir(deployment.folder())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["ca.key", "ca.pem", "cloud.key", "cloud.pem"]);
}

#[tokio::test]
async fn what_an_opened_authority_issues_is_believed() {
    use transport::quic::{QuicDialer, QuicListener, Settings};
    use transport::{Dialer, Door, Peer};

    let deployment = Deployment::new();
    let opened = Authority::open(deployment.folder()).unwrap();
    let cloud = opened.issue_cloud(&[], Validity::starting_now(DAY)).unwrap().credentials().unwrap();
    let own = deployment.credentials(&node("pop-a", 1));
    let trust = Trust::read(&deployment.folder().join("ca.pem")).unwrap();
    let loopback = ([127, 0, 0, 1], 0).into();
    let listener = QuicListener::bind(loopback, Door::Uplink, &cloud, &trust, &Settings::peers()).unwrap();
    let dialer = QuicDialer::new(&trust, Some(&own), proto::ALPN_UPLINK, &Settings::peers()).unwrap();
    let address = listener.local_socket().to_string();
    dialer.dial(&address, &Peer::Cloud, Duration::from_secs(20)).await.unwrap();
}

/// The number of a certificate: the INTEGER behind the version, in its DER.
fn serial(pem: &[u8]) -> Vec<u8> {
    let der = rustls_pki_types::CertificateDer::from_pem_slice(pem).unwrap();
    let at = der.windows(5).position(|bytes| bytes == [0xa0, 3, 2, 1, 2]).unwrap() + 5;
    assert_eq!(der[at], 2, "an INTEGER");
    der[at + 2..at + 2 + usize::from(der[at + 1])].to_vec()
}

/// Whoever asks again gets a newer certificate; a key that is there stays, byte by byte.
#[test]
fn no_key_is_ever_overwritten() {
    let deployment = Deployment::new();
    let (folder, authority) = (deployment.folder(), &deployment.authority);
    let issue = |days: u32| {
        let validity = Validity::starting_now(DAY * days);
        authority.issue_intermediate(validity).unwrap();
        authority.issue_cloud(&[], validity).unwrap();
        authority.issue_node(&pop("pop-a"), proto::NodeId(1), &[], validity).unwrap();
        ["issuer", "cloud", "node-1.pop-a"].map(|name| {
            let read = |extension: &str| fs::read(folder.join(format!("{name}.{extension}"))).unwrap();
            (read("key"), read("pem"))
        })
    };
    for ((key, certificate), (key_again, newer)) in issue(1).into_iter().zip(issue(2)) {
        assert_eq!(key, key_again);
        assert_ne!(certificate, newer, "the certificate is another");
        assert_ne!(serial(&certificate), serial(&newer), "and has a number of its own (RFC 5280, 4.1.2.2)");
    }
    let (short, long) = (Duration::from_secs(3600 * 36), DAY * 3);
    let holds =
        Credentials::read(&folder.join("cloud.pem"), &folder.join("cloud.key")).unwrap().validity().length();
    assert!(short < holds && holds < long, "{holds:?}");
    // A key that is kept elsewhere: nothing else takes its certificate's place.
    fs::remove_file(folder.join("issuer.key")).unwrap();
    let refused = authority.issue_intermediate(Validity::starting_now(DAY)).unwrap_err();
    assert!(matches!(refused, PkiError::Exists(path) if path.ends_with("issuer.pem")));
}

/// The authority's own renewal: same key, and everybody believes everybody, whichever certificate they have.
#[tokio::test]
async fn an_authority_is_renewed_without_a_gap() {
    use transport::quic::{QuicDialer, QuicListener, Settings};
    use transport::{Dialer, Door, Peer};

    let deployment = Deployment::new();
    let folder = deployment.folder();
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let (older, key) = (Trust::from_pem(&read("ca.pem")).unwrap(), read("ca.key"));
    let issuer = deployment.authority.issue_intermediate(Validity::starting_now(DAY)).unwrap();
    let before = Issuer::read(&issuer.certificate, &issuer.key).unwrap();
    let from_before = before.issue(&Identity::Cloud, &[], HOUR).unwrap();
    let own = deployment.credentials(&node("pop-a", 1));

    let renewed = Authority::renew(folder, Validity::starting_now(DAY * 400)).unwrap();
    assert_eq!(read("ca.key"), key);
    let newer = renewed.trust().unwrap();
    let from_now = renewed.issue_cloud(&[], Validity::starting_now(DAY)).unwrap().credentials().unwrap();
    let loopback = ([127, 0, 0, 1], 0).into();
    for shown in [&from_before, &from_now] {
        for (listens, dials) in [(&older, &newer), (&newer, &older), (&newer, &newer)] {
            let settings = Settings::peers();
            let listener = QuicListener::bind(loopback, Door::Uplink, shown, listens, &settings).unwrap();
            let dialer = QuicDialer::new(dials, Some(&own), proto::ALPN_UPLINK, &settings).unwrap();
            let address = listener.local_socket().to_string();
            dialer.dial(&address, &Peer::Cloud, Duration::from_secs(20)).await.unwrap();
        }
    }
    // An intermediate's folder renews nothing: its authority does.
    let other = tempfile::tempdir().unwrap();
    fs::copy(&issuer.certificate, other.path().join("ca.pem")).unwrap();
    fs::copy(&issuer.key, other.path().join("ca.key")).unwrap();
    assert!(Authority::renew(other.path(), Validity::starting_now(DAY)).is_err());
}

#[test]
fn the_key_must_be_the_certificates_own() {
    let (one, other) = (Deployment::new(), Deployment::new());
    fs::copy(other.folder().join("ca.key"), one.folder().join("ca.key")).unwrap();
    let error = Authority::open(one.folder()).unwrap_err();
    assert!(error.to_string().contains("not the key of ca.pem"), "{error}");
}

#[test]
fn nobody_gets_another_ones_name() {
    let deployment = Deployment::new();
    let validity = Validity::starting_now(DAY);
    let names = [
        "cloud.rockpool.internal",
        "node-1.pop-b.rockpool.internal",
        "NODE-1.POP-B.ROCKPOOL.INTERNAL",
        "node-1.pop-b.rockpool.internal.",
        "*.pop-b.rockpool.internal",
        "rockpool.internal",
    ];
    for name in names {
        let refused =
            deployment.authority.issue_node(&pop("pop-a"), proto::NodeId(1), &[name.to_owned()], validity);
        assert!(matches!(refused, Err(PkiError::Issue { .. })), "{name}");
        assert!(deployment.authority.issue_cloud(&[name.to_owned()], validity).is_err(), "{name}");
    }
    let odd = deployment.authority.issue_node(&pop("Pop A"), proto::NodeId(1), &[], validity);
    assert!(matches!(odd, Err(PkiError::Identity(_))));
}

#[test]
fn odd_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.pem");
    assert!(matches!(Trust::read(&path), Err(PkiError::File { .. })), "missing");
    for text in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        fs::write(&path, text).unwrap();
        assert!(matches!(Trust::read(&path), Err(PkiError::Pem { .. })), "{text}");
    }
    fs::write(&path, vec![b'x'; 1_000_000]).unwrap();
    assert!(matches!(Trust::read(&path), Err(PkiError::File { .. })), "too large");
    let certificate = Deployment::new();
    let pem = certificate.authority.certificate_pem();
    fs::write(&path, pem.repeat(17)).unwrap();
    assert!(matches!(Trust::read(&path), Err(PkiError::Pem { .. })), "too many");
    fs::write(&path, pem.repeat(2)).unwrap();
    Trust::read(&path).unwrap();
    assert!(matches!(Credentials::from_pem(pem, pem), Err(PkiError::Pem { .. })), "no key");
}

fn issuer(deployment: &Deployment) -> Issuer {
    Issuer::read(&deployment.folder().join("ca.pem"), &deployment.folder().join("ca.key")).unwrap()
}

#[test]
fn a_node_keeps_its_key_and_gets_a_certificate_for_it() {
    let deployment = Deployment::new();
    let (me, pending) = (node("pop-a", 4), deployment.folder().join("pending.key"));
    let request = Request::open_or_create(&me, &pending).unwrap();
    assert_eq!(mode(&pending), 0o600);
    // The answer was lost: the same key asks again.
    let key = fs::read(&pending).unwrap();
    let again = Request::open_or_create(&me, &pending).unwrap();
    assert_eq!(fs::read(&pending).unwrap(), key);
    let names = ["shop.example.com".to_owned(), "10.0.0.4".to_owned()];
    let chain = issuer(&deployment).sign(&me, again.der(), &names, HOUR).unwrap().chain;
    let bundle = request.complete(&chain, &deployment.trust()).unwrap();
    let path = deployment.folder().join("identity.pem");
    bundle.write(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    let credentials = Credentials::read_bundle(&path).unwrap();
    assert_eq!(credentials.identity().unwrap(), me);
    let length = credentials.validity().length();
    assert!(length >= HOUR && length < HOUR * 11 / 10 + Duration::from_secs(2), "{length:?}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = Credentials::read_bundle(&path).unwrap_err().to_string();
    assert!(refused.contains("chmod 600") && refused.contains("identity.pem"), "{refused}");
    fs::set_permissions(&pending, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Request::open_or_create(&me, &pending), Err(PkiError::Exposed { .. })));
}

#[test]
fn what_is_not_asked_for_in_order_is_not_signed() {
    let deployment = Deployment::new();
    let (issuer, me) = (issuer(&deployment), node("pop-a", 4));
    let request = Request::new(&me).unwrap();
    // Somebody else's name: asked for by a node that is who it is.
    for other in [node("pop-a", 5), node("pop-b", 4), Identity::Cloud] {
        let refused = issuer.sign(&other, request.der(), &[], HOUR).unwrap_err();
        assert!(matches!(refused, PkiError::Issue { .. }), "{refused}");
    }
    // One bit of anything: it is refused, or it was of what says nothing, and the certificate is for the same key.
    let der = request.der().to_vec();
    let mut refused = 0;
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 1;
        match issuer.sign(&me, &changed, &[], HOUR) {
            Ok(signed) => drop(request.complete(&signed.chain, &deployment.trust()).unwrap()),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > der.len() - 8, "{refused} of {}", der.len());
    assert!(issuer.sign(&me, &der[..der.len() - 1], &[], HOUR).is_err());
    assert!(issuer.sign(&me, &vec![0x30; 5_000], &[], HOUR).is_err(), "too large");
    assert!(issuer.sign(&me, &der, &["node-1.pop-b.rockpool.internal".into()], HOUR).is_err());
    assert!(issuer.sign(&me, &der, &vec!["a.example.com".into(); 17], HOUR).is_err(), "too many names");
    let odd = node("Pop A", 1);
    assert!(matches!(Request::new(&odd), Err(PkiError::Identity(_))));
}

#[test]
fn what_was_issued_is_checked_before_it_is_kept() {
    let deployment = Deployment::new();
    let (issuer, me, trust) = (issuer(&deployment), node("pop-a", 4), deployment.trust());
    let (request, other) = (Request::new(&me).unwrap(), Request::new(&me).unwrap());
    let good = issuer.sign(&me, request.der(), &[], HOUR).unwrap().chain;
    request.complete(&good, &trust).unwrap();
    let foreign = Deployment::new();
    let wrong = [
        ("of another key", issuer.sign(&me, other.der(), &[], HOUR).unwrap().chain),
        ("of another authority", self::issuer(&foreign).sign(&me, request.der(), &[], HOUR).unwrap().chain),
        ("ended", issuer.sign(&me, request.der(), &[], Duration::ZERO).unwrap().chain),
        ("cut", good[..good.len() / 2].to_owned()),
        ("empty", String::new()),
    ];
    for (what, chain) in wrong {
        if what == "ended" {
            let begun = std::time::Instant::now();
            while request.complete(&chain, &trust).is_ok() {
                assert!(begun.elapsed() < Duration::from_secs(10), "it never ends");
            }
        }
        assert!(request.complete(&chain, &trust).is_err(), "{what}");
    }
}

#[test]
fn key_and_certificate_belong_together() {
    let deployment = Deployment::new();
    let validity = Validity::starting_now(DAY);
    let (one, two) =
        (deployment.issue(&node("pop-a", 1), validity), deployment.issue(&node("pop-a", 2), validity));
    let refused = Credentials::read(&one.certificate, &two.key).unwrap_err();
    assert!(matches!(refused, PkiError::Pem { .. }), "{refused}");
}

#[tokio::test]
async fn an_intermediate_issues_for_an_authority_that_stays_offline() {
    use transport::quic::{QuicDialer, QuicListener, Settings};
    use transport::{Dialer, Door, Peer};

    let deployment = Deployment::new();
    let made = deployment.authority.issue_intermediate(Validity::starting_now(DAY)).unwrap();
    assert_eq!(mode(&made.key), 0o600);
    let issuer = Issuer::read(&made.certificate, &made.key).unwrap();
    let (cloud, own) = (
        issuer.issue(&Identity::Cloud, &[], HOUR).unwrap(),
        issuer.issue(&node("pop-a", 1), &[], HOUR).unwrap(),
    );
    let loopback = ([127, 0, 0, 1], 0).into();
    // They trust the authority alone.
    let trust = deployment.trust();
    let listener = QuicListener::bind(loopback, Door::Uplink, &cloud, &trust, &Settings::peers()).unwrap();
    let dialer = QuicDialer::new(&trust, Some(&own), proto::ALPN_UPLINK, &Settings::peers()).unwrap();
    let address = listener.local_socket().to_string();
    dialer.dial(&address, &Peer::Cloud, Duration::from_secs(20)).await.unwrap();

    let node = deployment.issue(&node("pop-a", 2), Validity::starting_now(DAY));
    let refused = Issuer::read(&node.certificate, &node.key).unwrap_err();
    assert!(refused.to_string().contains("not an authority"), "{refused}");
}
