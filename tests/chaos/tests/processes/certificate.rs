//! A certificate that browsers believe on the HTTP doors, from another authority than the deployment's: who sees which, and what becomes
//! of new files.

use std::path::Path;
use std::time::Duration;

use proto::{NodeId, PopId};
use rockpool::local::{Deployment, Overrides};
use tokio::process::Command;
use transport::pki::{Authority, Issued, Validity};
use transport::quic::{QuicDialer, Settings};
use transport::{Dialer as _, LinkErrorKind, Peer};

use crate::http::NODE;
use crate::support::Pop;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Files are looked at every five seconds, and read when they were the same twice.
const RELOADED_WITHIN: Duration = Duration::from_secs(30);

fn issue(authority: &Authority, days: u32) -> Issued {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    authority
        .issue_node(&PopId::new("public").unwrap(), NodeId(1), &names, Validity::starting_now(DAY * days))
        .unwrap()
}

fn port(pop: &Pop) -> String {
    pop.deployment.ports()[&NODE].clients.rsplit_once(':').unwrap().1.to_owned()
}

async fn believed(pop: &Pop, version: &str, ca: &Path) -> bool {
    let url = format!("https://localhost:{}/healthz", port(pop));
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", version, "--cacert"]).arg(ca).arg(url);
    curl.output().await.unwrap().status.success()
}

/// Of the node's metrics.
async fn metric(deployment: &Deployment, name: &str) -> anyhow::Result<f64> {
    let text = deployment.admin(NODE)?.metrics().await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Ok(line.unwrap_or("0").parse()?)
}

async fn until(pop: &Pop, what: &str, name: &str, value: impl Fn(f64) -> bool) {
    let reached = async |this: &Deployment| {
        let now = metric(this, name).await?;
        anyhow::ensure!(value(now), "{name} is {now}");
        Ok(())
    };
    pop.deployment.until(what, RELOADED_WITHIN, reached).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_see_the_public_certificate_and_apps_the_deployments() {
    let folder = tempfile::tempdir().unwrap();
    let public = Authority::create(folder.path(), Validity::starting_now(DAY * 100)).unwrap();
    let issued = issue(&public, 10);
    let path = |path: &Path| path.to_str().unwrap().into();
    let node = vec![
        ("http.certificate".to_owned(), path(&issued.certificate)),
        ("http.key".to_owned(), path(&issued.key)),
    ];
    let pop = Pop::serving_with(Overrides { node, ..Overrides::default() }).await;
    let own = pop.deployment.dir().join("pki/ca.pem");
    for version in ["--http1.1", "--http2"] {
        assert!(believed(&pop, version, &public.certificate_path()).await, "{version}");
        assert!(!believed(&pop, version, &own).await, "{version}");
    }
    // Over QUIC, ALPN says who asks.
    let ours = Authority::open(&pop.deployment.dir().join("pki")).unwrap().trust().unwrap();
    let theirs = public.trust().unwrap();
    let address = pop.deployment.ports()[&NODE].clients.clone();
    for (trust, alpn, believed) in [
        (&theirs, &b"h3"[..], true),
        (&ours, b"h3", false),
        (&ours, proto::ALPN_CLIENT, true),
        (&theirs, proto::ALPN_CLIENT, false),
    ] {
        let dialer = QuicDialer::new(trust, None, alpn, &Settings::clients()).unwrap();
        let dialed = dialer.dial(&address, &Peer::Named("localhost".into()), Duration::from_secs(3)).await;
        // What a link begins with does not come from a door of HTTP/3: whoever believes the certificate waits for it in vain.
        let waited = dialed.as_ref().err().is_some_and(|error| matches!(error.kind, LinkErrorKind::Timeout));
        assert_eq!(dialed.is_ok() || waited, believed, "{alpn:?}: {:?}", dialed.err());
    }
    new_files(&pop, &public, &issued).await;
}

async fn new_files(pop: &Pop, public: &Authority, issued: &Issued) {
    let expires = "rockpool_http_certificate_expires_seconds";
    let (ok, failed) = (
        "rockpool_http_certificate_reloads_total{result=\"ok\"}",
        "rockpool_http_certificate_reloads_total{result=\"failed\"}",
    );
    let first = metric(&pop.deployment, expires).await.unwrap();
    issue(public, 20);
    until(pop, "the new certificate is shown", expires, |at| at > first + 9.0 * 24.0 * 3600.0).await;
    assert!(believed(pop, "--http2", &public.certificate_path()).await);
    // One that is of no use changes nothing.
    let sound = std::fs::read(&issued.key).unwrap();
    let other = tempfile::tempdir().unwrap();
    let other = Authority::create(other.path(), Validity::starting_now(DAY)).unwrap();
    let another = issue(&other, 1);
    std::fs::copy(&another.key, &issued.key).unwrap();
    until(pop, "the pair that does not match is refused", failed, |count| count >= 1.0).await;
    assert!(believed(pop, "--http2", &public.certificate_path()).await);
    let log = std::fs::read_to_string(pop.deployment.node_dir(NODE).join("edge-node.log")).unwrap();
    assert!(log.contains("it is not the key of the first certificate"), "{log}");
    // What was shown before is whole again: SIGHUP says so at once.
    let before = metric(&pop.deployment, ok).await.unwrap();
    std::fs::write(&issued.key, sound).unwrap();
    let process = pop.deployment.process_id(NODE).unwrap().to_string();
    assert!(Command::new("kill").args(["-HUP", &process]).status().await.unwrap().success());
    until(pop, "the pair is taken again", ok, |count| count > before).await;
    assert!(believed(pop, "--http1.1", &public.certificate_path()).await);
}
