//! Hostile clients: truncated, oversized and random frames, streams that never end, no session. They get an error or a closed
//! connection, the node's memory stays flat, and everybody else is served.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proto::NodeId;
use proto::client::{Ask, ClientRequest, OpenSession};
use proto::codec;
use rockpool::load;

use crate::support::{Pop, light, visitors};

const ROUNDS: u32 = 300;
/// What the node may grow by: buffers of connections that are being closed.
const GROWTH_KIB_MAX: u64 = 16 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn hostile_frames_cost_nothing() {
    let pop = Pop::serving().await;
    let node = NodeId(1);
    let address: SocketAddr = pop.deployment.ports()[&node].clients.parse().unwrap();
    let endpoint = endpoint(&std::fs::read(pop.deployment.ca_file()).unwrap());
    let name = pop.deployment.server_name().unwrap();
    attack(&endpoint, address, &name, pop.deployment.app_key(), 0..ROUNDS / 3).await;
    let before = resident_kib(pop.deployment.process_id(node).unwrap());
    attack(&endpoint, address, &name, pop.deployment.app_key(), ROUNDS / 3..ROUNDS).await;
    let after = resident_kib(pop.deployment.process_id(node).unwrap());
    assert!(after < before + GROWTH_KIB_MAX, "grew from {before} to {after} KiB");

    let (clients, visitors) = (pop.clients(2).await, visitors(5));
    let measured = load::run(&light(Duration::from_secs(1)), &clients, &visitors).await.unwrap();
    assert_eq!(measured.errors, 0, "others are served: {:?}", measured.error_kinds);
    let metrics = pop.deployment.admin(node).unwrap().metrics().await.unwrap();
    let counted =
        metrics.lines().find(|line| line.starts_with("rockpool_edge_protocol_errors_total")).unwrap();
    let counted: f64 = counted.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(counted >= f64::from(ROUNDS / 2), "protocol errors are counted: {counted}");
}

/// One connection a round; half of them open a session first.
async fn attack(
    endpoint: &quinn::Endpoint,
    address: SocketAddr,
    name: &str,
    app_key: &str,
    rounds: std::ops::Range<u32>,
) {
    for round in rounds {
        let connection = endpoint.connect(address, name).unwrap().await.unwrap();
        if round % 2 == 0 {
            let open = OpenSession { app_key: app_key.to_owned(), agent: "attacker".into() };
            let request =
                ClientRequest { trace: Default::default(), deadline_ms: 0, ask: Ask::Session(open) };
            let reply = exchange(&connection, &codec::frame(&request).unwrap()).await;
            assert!(reply.is_some_and(|bytes| bytes.len() > codec::HEADER_BYTES), "a session opens");
        }
        for bytes in hostile(round) {
            // Whatever comes back is bounded; what counts is that something ends.
            exchange(&connection, &bytes).await;
        }
        connection.close(0_u32.into(), b"");
    }
}

/// A request's bytes, and what came back. `None`: the stream or the connection was closed.
async fn exchange(connection: &quinn::Connection, bytes: &[u8]) -> Option<Vec<u8>> {
    let answered = async {
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        send.write_all(bytes).await.ok()?;
        send.finish().ok()?;
        receive.read_to_end(1 << 20).await.ok()
    };
    tokio::time::timeout(Duration::from_secs(15), answered).await.expect("the node answers or closes")
}

/// Frames of every wrong kind, made from the round's number.
fn hostile(round: u32) -> Vec<Vec<u8>> {
    let ping = ClientRequest { trace: Default::default(), deadline_ms: 0, ask: Ask::Ping };
    let good = codec::frame(&ping).unwrap();
    let truncated = good[..good.len() - 1].to_vec();
    let mut oversized = good.clone();
    oversized[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut wrong_kind = good.clone();
    wrong_kind[4] = (round % 256) as u8;
    let mut trailing = good.clone();
    trailing.push(0);
    trailing[..4].copy_from_slice(&(good.len() as u32 - 4).to_be_bytes());
    let mut state = u64::from(round) + 1;
    let random: Vec<u8> = (0..512)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
        .collect();
    // A body of the right kind and length that is random inside: lengths in it lie.
    let mut lying = vec![0, 0, 1, 0, good[4]];
    lying.extend_from_slice(&random[..256]);
    vec![truncated, oversized, wrong_kind, trailing, random, lying]
}

/// A QUIC endpoint that is not ours: plain quinn and rustls, as an attacker has them.
fn endpoint(ca_pem: &[u8]) -> quinn::Endpoint {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![proto::ALPN_CLIENT.to_vec()];
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(quic)));
    endpoint
}

fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
