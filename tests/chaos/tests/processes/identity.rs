//! Certificates that come, end and are taken away, while a PoP serves.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use proto::control::{AuditView, RevokeNode};
use proto::enrol::{EnrolReply, EnrolRequest, Token};
use proto::peer::MemberChange;
use proto::{ALPN_CLIENT, ALPN_ENROL, ALPN_PEER, ALPN_UPLINK, Code, NodeId};
use rockpool::load;
use rockpool::local::{Deployment, Overrides};
use serde::Deserialize;
use transport::pki::{Authority, Credentials, Request, Trust, Validity};
use transport::quic::{QuicDialer, Settings};
use transport::{Dialer, Identity, LinkErrorKind, Peer};

use crate::support::{Pop, READY, light, visitors};

const WITHIN: Duration = Duration::from_secs(10);

/// A metric of a node, summed over its labels that contain `labels`.
async fn metric(deployment: &Deployment, node: NodeId, name: &str, labels: &str) -> anyhow::Result<f64> {
    let text = deployment.admin(node)?.metrics().await?;
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

async fn audit(deployment: &Deployment, what: &str) -> Vec<AuditView> {
    let lines: Vec<AuditView> = deployment.control().unwrap().get("/v1/audit?limit=100").await.unwrap();
    lines.into_iter().filter(|line| line.what == what).collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_enrols_with_a_token_joins_and_the_token_is_spent() {
    let mut pop = Pop::serving().await;
    let (new, via) = (NodeId(4), NodeId(1));
    let made = pop.deployment.start_enrolling_node(new).await.unwrap();
    let dir = pop.deployment.node_dir(new);
    pop.deployment
        .until("the node has enrolled and is up", READY, async |this: &Deployment| {
            anyhow::ensure!(
                dir.join("identity.pem").exists() && dir.join("addresses.json").exists(),
                "not yet"
            );
            this.admin(new)?.metrics().await.map(drop)
        })
        .await
        .unwrap();
    assert_eq!(mode(&dir.join("identity.pem")), 0o600);
    for gone in ["identity.token", "identity.pem.pending"] {
        assert!(!dir.join(gone).exists(), "{gone}");
    }
    let token = pop.deployment.node_token(via).unwrap();
    let join = MemberChange::Join { node: new, address: pop.deployment.ports()[&new].peers.clone() };
    pop.deployment.admin(via).unwrap().member(&join, &token).await.unwrap();
    pop.deployment.until_ready(READY).await.unwrap();

    // Whoever else found the token comes too late.
    let identity = Identity::Node { pop: pop.deployment.pop().clone(), node: new };
    let request = Request::new(&identity).unwrap();
    let again = EnrolRequest {
        pop: pop.deployment.pop().clone(),
        node: new,
        token: Token(made.token.clone()),
        request: request.der().to_vec(),
    };
    let trust = Trust::read(&pop.deployment.ca_file()).unwrap();
    let thief = QuicDialer::new(&trust, None, ALPN_ENROL, &Settings::peers()).unwrap();
    let link = thief.dial(pop.deployment.enrol_address(), &Peer::Cloud, WITHIN).await.unwrap();
    match transport::call(&*link, &again, WITHIN).await.unwrap() {
        EnrolReply::Error(error) => assert_eq!(error.code, Code::Unauthenticated, "{error}"),
        EnrolReply::Issued(_) => panic!("a token was used twice"),
    }
    let enrolled = audit(&pop.deployment, "node.enrolled").await;
    assert_eq!(enrolled.len(), 1, "{enrolled:?}");
    assert!(enrolled[0].who.starts_with("node 4 of pop-a"), "{enrolled:?}");
    assert_eq!(audit(&pop.deployment, "node.enrol_token").await.len(), 1);

    // It starts again by what it has on disk, and serves apps under the name that the token gave it.
    pop.deployment.kill_node(new).await.unwrap();
    pop.deployment.start_node(new).unwrap();
    pop.deployment.until_ready(READY).await.unwrap();
    let apps = QuicDialer::new(&trust, None, ALPN_CLIENT, &Settings::clients()).unwrap();
    let address = &pop.deployment.ports()[&new].clients;
    apps.dial(address, &Peer::Named("127.0.0.1".into()), WITHIN).await.unwrap();
    let (clients, visitors) = (pop.clients(2).await, visitors(10));
    let measured = load::run(&light(Duration::from_secs(2)), &clients, &visitors).await.unwrap();
    assert_eq!(measured.errors, 0, "{:?}", measured.error_kinds);
    pop.counted(&clients).await;
}

/// Nobody here believes a certificate that has ended: neither the nodes each other nor the apps that dial anew all the time.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_seconds_are_renewed_under_load_and_no_request_fails() {
    const LIFETIME_S: u64 = 10;
    const RENEWALS: f64 = 3.0;
    let short = Overrides {
        cloud: vec![("identity.lifetime_s".into(), (LIFETIME_S as i64).into())],
        node: vec![("identity.grace_s".into(), 0.into())],
    };
    let mut pop = Pop::serving_with(short).await;
    let (clients, visitors) = (pop.clients(4).await, visitors(20));
    let plan = light(Duration::from_secs(LIFETIME_S * 5 / 2));
    let loading = load::run(&plan, &clients, &visitors);
    let trust = Trust::read(&pop.deployment.ca_file()).unwrap();
    let (addresses, name) = (pop.deployment.ports().clone(), pop.deployment.server_name().unwrap());
    let deployment = &mut pop.deployment;
    let restarted = NodeId(3);
    let dialing = async {
        let apps = QuicDialer::new(&trust, None, ALPN_CLIENT, &Settings::clients())?;
        let (until, mut dialed) = (Instant::now() + plan.length, 0);
        while Instant::now() < until {
            for (_, ports) in addresses.iter().filter(|(node, _)| **node != restarted) {
                apps.dial(&ports.clients, &Peer::Named(name.clone()), WITHIN).await?;
                dialed += 1;
            }
        }
        Ok(dialed)
    };
    let restarting = async {
        // Its first certificate has ended by the time it starts again: what it renewed is on disk.
        until_renewed(deployment, 1.0).await?;
        deployment.kill_node(restarted).await?;
        deployment.start_node(restarted)?;
        deployment.until_ready(READY).await
    };
    let (measured, dialed, ()) = tokio::try_join!(loading, dialing, restarting).unwrap();
    assert_eq!(measured.errors, 0, "{:?}", measured.error_kinds);
    assert!(dialed > 100, "{dialed} connections made anew");
    until_renewed(&pop.deployment, RENEWALS).await.unwrap();
    pop.deployment.until_ready(READY).await.unwrap();
    pop.counted(&clients).await;
    for node in pop.deployment.running() {
        assert_eq!(mode(&pop.deployment.node_dir(node).join("identity.pem")), 0o600);
    }
}

async fn until_renewed(deployment: &Deployment, times: f64) -> anyhow::Result<()> {
    deployment
        .until("every node has renewed its certificate", READY, async |this: &Deployment| {
            for node in this.running() {
                let renewed =
                    metric(this, node, "rockpool_certificate_renewals_total", "result=\"ok\"").await?;
                anyhow::ensure!(renewed >= times, "node {node}: {renewed} of {times}");
            }
            Ok(())
        })
        .await
}

/// The cloud is away until every certificate has ended. The PoP serves, a node starts anew within it, and all heal when the
/// cloud is back.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_end_while_the_cloud_is_away_stop_nobody() {
    let short = Overrides { cloud: vec![("identity.lifetime_s".into(), 6.into())], ..Overrides::default() };
    let mut pop = Pop::serving_with(short).await;
    pop.deployment.kill_cloud().await.unwrap();
    pop.deployment
        .until("every certificate has ended", READY, async |this: &Deployment| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
            for node in this.running() {
                let ends = metric(this, node, "rockpool_certificate_expires_seconds", "").await?;
                anyhow::ensure!(ends > 0.0 && ends + 1.0 < now, "node {node}: in {} s", ends - now);
            }
            Ok(())
        })
        .await
        .unwrap();
    // Apps and peers dial anew.
    let leader = pop.deployment.leader().await.unwrap();
    pop.deployment.kill_node(leader).await.unwrap();
    pop.deployment.start_node(leader).unwrap();
    pop.deployment.until_ready(READY).await.unwrap();
    let (clients, visitors) = (pop.clients(2).await, visitors(10));
    let measured = load::run(&light(Duration::from_secs(3)), &clients, &visitors).await.unwrap();
    assert_eq!(measured.errors, 0, "{:?}", measured.error_kinds);
    pop.deployment.start_cloud().await.unwrap();
    until_renewed(&pop.deployment, 1.0).await.unwrap();
    pop.deployment
        .until("every certificate holds again", READY, async |this: &Deployment| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
            for node in this.running() {
                let ends = metric(this, node, "rockpool_certificate_expires_seconds", "").await?;
                anyhow::ensure!(ends > now, "node {node}: {} s ago", now - ends);
            }
            Ok(())
        })
        .await
        .unwrap();
    pop.counted(&clients).await;
}

#[derive(Deserialize)]
struct Status {
    leader: Option<NodeId>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_leader_is_cut_off_within_a_minute_and_the_others_serve() {
    let mut pop = Pop::serving().await;
    let (clients, visitors) = (pop.clients(4).await, visitors(20));
    let bad = pop.deployment.leader().await.unwrap();
    let plan = light(Duration::from_secs(12));
    let loading = load::run(&plan, &clients, &visitors);
    let cutting = async {
        let begun = Instant::now();
        let control = pop.deployment.control()?;
        let stolen = RevokeNode { reason: "stolen".into(), unheard: false };
        control.revoke(pop.deployment.pop(), bad, &stolen).await?;
        cut_off(&pop.deployment, bad).await?;
        Ok(begun.elapsed())
    };
    let (measured, took) = tokio::try_join!(loading, cutting).unwrap();
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(measured.errors, 0, "{:?}", measured.error_kinds);
    let revoked = audit(&pop.deployment, "node.revoke").await;
    assert_eq!(revoked.len(), 1);
    assert!(revoked[0].detail.ends_with(&format!("node {bad} of pop-a: stolen")), "{revoked:?}");

    // The thief of its key knocks at the cloud and at a node; at that node also after it started anew with the cloud away.
    let pki = pop.deployment.dir().join("pki");
    let file = |end: &str| pki.join(format!("node-{bad}.{}.{end}", pop.deployment.pop()));
    let stolen = Credentials::read(&file("pem"), &file("key")).unwrap();
    let other = pop.deployment.running().into_iter().find(|node| *node != bad).unwrap();
    knock_in_vain(&pop.deployment, &stolen, other).await;
    pop.counted(&clients).await;
    pop.deployment.kill_node(bad).await.unwrap();
    pop.deployment.kill_cloud().await.unwrap();
    pop.deployment.kill_node(other).await.unwrap();
    pop.deployment.start_node(other).unwrap();
    pop.deployment.until_ready(READY).await.unwrap();
    knock_in_vain(&pop.deployment, &stolen, other).await;
}

/// Waits until the node has no link to the cloud, and the others have another leader: they have heard nothing more of it.
async fn cut_off(deployment: &Deployment, bad: NodeId) -> anyhow::Result<()> {
    deployment
        .until("the revoked node is cut off", READY, async |this: &Deployment| {
            let connected = metric(this, bad, "rockpool_uplink_connected", "").await?;
            anyhow::ensure!(connected == 0.0, "it is connected to the cloud");
            for node in this.running().into_iter().filter(|node| *node != bad) {
                let leader = this.admin(node)?.status::<Status>().await?.leader;
                anyhow::ensure!(leader.is_some_and(|leader| leader != bad), "node {node} follows {leader:?}");
                let listed = metric(this, node, "rockpool_identity_revoked_nodes", "").await?;
                anyhow::ensure!(listed == 1.0, "node {node} has not heard of it");
            }
            Ok(())
        })
        .await
}

/// The right name by the wrong authority, or no certificate at all: neither a node nor the cloud lets that in.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_a_nodes_name_does_not_come_in() {
    let pop = Pop::serving().await;
    let (folder, name) = (tempfile::tempdir().unwrap(), pop.deployment.pop());
    let day = Validity::starting_now(Duration::from_secs(24 * 3600));
    let foreign = Authority::create(folder.path(), day).unwrap();
    let forged = foreign.issue_node(name, NodeId(2), &[], day).unwrap().credentials().unwrap();
    let trust = Trust::read(&pop.deployment.ca_file()).unwrap();
    let node = Peer::Node { pop: name.clone(), node: NodeId(1) };
    let doors = [
        (ALPN_PEER, &pop.deployment.ports()[&NodeId(1)].peers, node),
        (ALPN_UPLINK, &pop.deployment.uplink_address().to_owned(), Peer::Cloud),
    ];
    for (alpn, address, expect) in doors {
        for credentials in [Some(&forged), None] {
            let dialer = QuicDialer::new(&trust, credentials, alpn, &Settings::peers()).unwrap();
            let refused = dialer.dial(address, &expect, WITHIN).await.unwrap_err();
            assert!(matches!(refused.kind, LinkErrorKind::Tls(_)), "{expect:?}: {refused}");
        }
    }
}

async fn knock_in_vain(deployment: &Deployment, stolen: &Credentials, node: NodeId) {
    let trust = Trust::read(&deployment.ca_file()).unwrap();
    let dialer = QuicDialer::new(&trust, Some(stolen), ALPN_PEER, &Settings::peers()).unwrap();
    let expect = Peer::Node { pop: deployment.pop().clone(), node };
    let refused = dialer.dial(&deployment.ports()[&node].peers, &expect, WITHIN).await.unwrap_err();
    assert!(matches!(refused.kind, LinkErrorKind::Forbidden(_)), "{refused}");
    if deployment.cloud_runs() {
        let dialer = QuicDialer::new(&trust, Some(stolen), ALPN_UPLINK, &Settings::peers()).unwrap();
        let refused = dialer.dial(deployment.uplink_address(), &Peer::Cloud, WITHIN).await.unwrap_err();
        assert!(matches!(refused.kind, LinkErrorKind::Forbidden(_)), "{refused}");
    }
}
