//! Raw quinn beside a recommendation through the SDK, at the same low fixed rate, one request at a time, on one connection.
//!
//! `quic_overhead_us` is the p50 of a recommendation through `client-sdk` less the p50 of an exchange of as many bytes each way with
//! a server on bare quinn, which has nothing to do but to send them: the same certificates, provider (ring), limits and timers as
//! proto/transport, a stream an exchange, in a process of its own, as a node is. So it is everything that a node and the SDK do for a
//! recommendation beyond moving its bytes: framing, sessions, quotas, the profile, both models. What of it is not the models is seen
//! in `ping_p50_us`: the node's own door and dispatch with nothing behind them. A latency is from the call to its return; at so low a
//! rate no request waits for another.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use proto::client::{Ask, ClientReply, ClientRequest, OpenSession, Recommend};
use proto::{NodeId, SlotId, TraceId, codec};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig};
use quinn::{ServerConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use transport::quic::Settings;
use transport::{Dialer as _, Link, Peer, call};

use crate::child::{Child, Program};
use crate::load::{Asker, Served};
use crate::sdk::SdkAsker;
use bench::http::HOST;
use bench::pop::Pop;
use bench::work::{COUNT, DEADLINE_MS, SLOT, Work};

const ALPN: &[u8] = b"echo";
/// Exchanges a second.
const RATE_PER_S: u64 = 100;
/// Sides take turns so often.
const ROUNDS: u32 = 4;
/// Largest exchange of the echo, in bytes.
const BYTES_MAX: usize = 64 * 1024;
/// Highest latency that is told apart, in microseconds.
const HIGHEST_US: u64 = 10_000_000;
const WITHIN: Duration = Duration::from_secs(10);

/// What it came to.
#[derive(Debug, Clone, Serialize)]
pub struct Overhead {
    /// Exchanges a second of each side.
    pub rate_per_s: u64,
    /// Bytes of a question, and of its answer, frames included.
    pub request_bytes: usize,
    /// Of the answer.
    pub answer_bytes: usize,
    /// A recommendation through the SDK, in microseconds: median.
    pub recommend_p50_us: u64,
    /// 99 of 100 are faster.
    pub recommend_p99_us: u64,
    /// As many bytes each way over bare quinn: median.
    pub quinn_p50_us: u64,
    /// 99 of 100 are faster.
    pub quinn_p99_us: u64,
    /// A node's answer to a question that asks for nothing: median.
    pub ping_p50_us: u64,
    /// [`Overhead::recommend_p50_us`] less [`Overhead::quinn_p50_us`].
    pub overhead_us: i64,
}

/// Where the echo listens, and what it shows.
#[derive(Debug, Clone, clap::Args)]
pub struct Echo {
    /// UDP address.
    #[arg(long)]
    listen: SocketAddr,
    /// Certificate, PEM.
    #[arg(long)]
    certificate: PathBuf,
    /// Its key, PEM.
    #[arg(long)]
    key: PathBuf,
}

/// Measures both sides, in turns, for so long each.
///
/// # Errors
/// Where one fails.
pub async fn measure(dir: &Path, pop: &Pop, work: &Work, length: Duration) -> anyhow::Result<Overhead> {
    let (link, exchange) = open_link(pop, work).await?;
    let address: SocketAddr = rockpool::local::free_port()?.parse()?;
    let pki = pop.deployment.dir().join("pki");
    let own = format!("node-1.{}", pop.deployment.pop());
    let words = [
        std::env::current_exe()?.into(),
        "echo".into(),
        "--listen".into(),
        address.to_string().into(),
        "--certificate".into(),
        pki.join(format!("{own}.pem")).into(),
        "--key".into(),
        pki.join(format!("{own}.key")).into(),
    ];
    let echo = Child::spawn(Program { name: "echo", dir, words: words.to_vec(), environment: Vec::new() })?;
    let endpoint = endpoint((Ipv4Addr::LOCALHOST, 0).into(), None)?;
    let quinn = dial(&endpoint, address, &pop.deployment.ca_file()).await?;
    let sdk = SdkAsker::of(pop, work, 1).await?;

    let [mut recommends, mut echoes, mut pings] = [(); 3].map(|()| empty());
    for round in 0..=ROUNDS {
        // The first round warms up.
        let (part, counts) = (length / ROUNDS, round > 0);
        let part = if counts { part } else { part / 2 };
        let echoed = at_rate(part, async |_| echo_once(&quinn, &exchange).await).await?;
        let mut unranked = 0;
        let recommended = at_rate(part, async |number| {
            unranked += u64::from(sdk.ask(number).await? != Served::Ranked);
            Ok(())
        });
        let recommended = recommended.await?;
        anyhow::ensure!(
            unranked * 100 <= recommended.len(),
            "{unranked} of {} answers without the models at a low rate",
            recommended.len()
        );
        let pinged = at_rate(part / 2, async |_| ping(&*link).await).await?;
        if counts {
            recommends.add(&recommended)?;
            echoes.add(&echoed)?;
            pings.add(&pinged)?;
        }
    }
    quinn.close(VarInt::from_u32(0), b"done");
    echo.stop().await?;
    let (ours, theirs) = (recommends.value_at_quantile(0.5), echoes.value_at_quantile(0.5));
    Ok(Overhead {
        rate_per_s: RATE_PER_S,
        request_bytes: exchange.request.len(),
        answer_bytes: exchange.answer_bytes,
        recommend_p50_us: ours,
        recommend_p99_us: recommends.value_at_quantile(0.99),
        quinn_p50_us: theirs,
        quinn_p99_us: echoes.value_at_quantile(0.99),
        ping_p50_us: pings.value_at_quantile(0.5),
        overhead_us: i64::try_from(ours)? - i64::try_from(theirs)?,
    })
}

/// As many bytes as a recommendation has.
struct Exchange {
    request: Vec<u8>,
    answer_bytes: usize,
}

/// A link with a session, and what a recommendation over it weighs.
async fn open_link(pop: &Pop, work: &Work) -> anyhow::Result<(Arc<dyn Link>, Exchange)> {
    let expect = Peer::Named(pop.deployment.server_name()?);
    let address = &pop.deployment.ports()[&NodeId(1)].clients;
    let link = pop.deployment.app_dialer()?.dial(address, &expect, WITHIN).await?;
    let open = OpenSession { app_key: pop.deployment.app_key().to_owned(), agent: "bench-peers".into() };
    ask(&*link, Ask::Session(open)).await?;
    let recommend = Ask::Recommend(Recommend {
        visitor: work.visitors.first().context("there are no visitors")?.id.clone(),
        slot: SlotId::new(SLOT)?,
        count: COUNT,
        token: None,
        context: Vec::new(),
        exclude: Vec::new(),
    });
    let request =
        ClientRequest { trace: TraceId::default(), deadline_ms: DEADLINE_MS, ask: recommend.clone() };
    let answer_bytes = codec::frame(&ask(&*link, recommend).await?)?.len();
    let mut request = codec::frame(&request)?;
    // The first four say how many are to come back.
    request[..4].copy_from_slice(&u32::try_from(answer_bytes)?.to_be_bytes());
    Ok((link, Exchange { request, answer_bytes }))
}

async fn ask(link: &dyn Link, ask: Ask) -> anyhow::Result<ClientReply> {
    let request = ClientRequest { trace: TraceId::default(), deadline_ms: DEADLINE_MS, ask };
    match call(link, &request, WITHIN).await? {
        ClientReply::Error(error) => anyhow::bail!("refused: {error:?}"),
        reply => Ok(reply),
    }
}

async fn ping(link: &dyn Link) -> anyhow::Result<()> {
    ask(link, Ask::Ping).await.map(drop)
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, HIGHEST_US, 3).expect("the bounds are constants that it takes")
}

/// Calls at the fixed rate; how long each call took, in microseconds.
async fn at_rate(
    length: Duration,
    mut exchange: impl AsyncFnMut(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = empty();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(RATE_PER_S)?);
    for number in 0..(length.as_secs_f64() * RATE_PER_S as f64) as u64 {
        ticks.tick().await;
        let began = Instant::now();
        exchange(number).await?;
        latency.saturating_record(u64::try_from(began.elapsed().as_micros())?.max(1));
    }
    Ok(latency)
}

async fn echo_once(connection: &Connection, exchange: &Exchange) -> anyhow::Result<()> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&exchange.request).await?;
    send.finish()?;
    let answer = tokio::time::timeout(WITHIN, receive.read_to_end(BYTES_MAX)).await??;
    anyhow::ensure!(answer.len() == exchange.answer_bytes, "{} bytes came back", answer.len());
    Ok(())
}

/// Serves the echo until the process is ended.
///
/// # Errors
/// Where it cannot listen.
pub async fn serve(echo: Echo) -> anyhow::Result<()> {
    let chain = CertificateDer::pem_file_iter(&echo.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&echo.key)?)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    server.transport_config(transport_config()?);
    let endpoint = endpoint(echo.listen, Some(server))?;
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(answer(send, receive));
            }
        });
    }
    Ok(())
}

async fn answer(mut send: quinn::SendStream, mut receive: quinn::RecvStream) -> anyhow::Result<()> {
    let request = receive.read_to_end(BYTES_MAX).await?;
    let wanted = request.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize);
    send.write_all(&vec![7; wanted.min(BYTES_MAX)]).await?;
    Ok(send.finish()?)
}

async fn dial(endpoint: &Endpoint, address: SocketAddr, ca: &Path) -> anyhow::Result<Connection> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport_config()?);
    // quinn repeats its first packet until the echo listens.
    let connecting = endpoint.connect_with(config, address, HOST)?;
    tokio::time::timeout(WITHIN, connecting).await?.context("the echo does not answer")
}

/// As proto/transport/src/quic/settings.rs makes it of the same settings.
fn transport_config() -> anyhow::Result<Arc<TransportConfig>> {
    let settings = Settings::clients();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(settings.datagram_bytes_max);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(IdleTimeout::try_from(Duration::from_millis(settings.idle_timeout_ms))?))
        .keep_alive_interval(Some(Duration::from_millis(settings.keep_alive_ms)))
        .max_concurrent_bidi_streams(VarInt::from_u32(settings.max_bidi_streams))
        .stream_receive_window(VarInt::from_u32(settings.stream_window_bytes))
        .receive_window(VarInt::from_u32(settings.connection_window_bytes))
        .send_window(u64::from(settings.send_window_bytes))
        .datagram_receive_buffer_size(None);
    Ok(Arc::new(transport))
}

/// As proto/transport/src/quic/tls.rs opens it.
fn endpoint(address: SocketAddr, server: Option<ServerConfig>) -> anyhow::Result<Endpoint> {
    let buffer_bytes = Settings::clients().socket_buffer_bytes;
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(buffer_bytes)?;
    socket.set_send_buffer_size(buffer_bytes)?;
    socket.bind(&address.into())?;
    let socket: UdpSocket = socket.into();
    Ok(Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))?)
}
