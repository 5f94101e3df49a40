//! What a request costs on the wire alone: `cargo run -p transport --example load -- [connections] [requests/s] [seconds]`
//!
//! Client and server share one process and two UDP sockets; every connection asks in an open loop. Prints latency from the
//! time a request was due, and CPU time a request of both sides together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::client::{Ask, ClientReply, ClientRequest};
use proto::{ErrorReply, NodeId, PopId};
use transport::pki::{Authority, Validity};
use transport::quic::{QuicDialer, QuicListener, Settings};
use transport::{Dialer, Door, Link, Listener, Peer, call};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PATIENCE: Duration = Duration::from_secs(20);
/// About the size of an answer of ten items.
const REPLY_BYTES: usize = 400;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks to people")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<usize> =
        std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let argument = |at: usize, default| arguments.get(at).copied().unwrap_or(default);
    let (connections, rate, seconds) = (argument(0, 2_000), argument(1, 2_000), argument(2, 10));

    let folder = std::env::temp_dir().join(format!("rockpool-load-{}", std::process::id()));
    let validity = Validity::starting_now(Duration::from_secs(3600));
    let authority = Authority::create(&folder, validity)?;
    let pop = PopId::new("pop-a")?;
    let credentials = authority.issue_node(&pop, NodeId(1), &[], validity)?.credentials()?;
    std::fs::remove_dir_all(&folder)?;
    let trust = authority.trust()?;
    let settings = Settings { max_incoming: 4_096, ..Settings::clients() };
    let address = ([127, 0, 0, 1], 0).into();
    let listener = Arc::new(QuicListener::bind(address, Door::Clients, &credentials, &trust, &settings)?);
    tokio::spawn(serve(Arc::clone(&listener)));
    let dialer = QuicDialer::new(&trust, None, proto::ALPN_CLIENT, &settings)?;

    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut links = Vec::new();
    for _ in 0..connections {
        let expect = Peer::AnyNodeOf(pop.clone());
        links.push(dialer.dial(&listener.local_address(), &expect, PATIENCE).await?);
    }
    println!(
        "{connections} connections in {:.2} s, {:.2} ms CPU each, {:?}",
        start.elapsed().as_secs_f64(),
        (cpu_seconds() - cpu) * 1000.0 / connections as f64,
        listener.stats(),
    );
    let (cpu, count) = (cpu_seconds(), rate * seconds);
    let mut latencies = ask_all(&links, rate, count).await?;
    let cpu = cpu_seconds() - cpu;
    latencies.sort_unstable();
    let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize].as_micros();
    println!(
        "{count} requests at {rate}/s: p50 {} µs, p99 {} µs, max {} µs; {:.0} µs CPU each, both sides",
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
        cpu * 1e6 / count as f64,
    );
    Ok(())
}

/// Asks `count` times, `rate` times a second, each link in turn.
async fn ask_all(links: &[Arc<dyn Link>], rate: usize, count: usize) -> Result<Vec<Duration>, Failure> {
    let start = tokio::time::Instant::now();
    let mut asked = tokio::task::JoinSet::new();
    for i in 0..count {
        let due = start + Duration::from_nanos(1_000_000_000 * i as u64 / rate as u64);
        tokio::time::sleep_until(due).await;
        let link = Arc::clone(&links[i % links.len()]);
        asked.spawn(async move {
            let ping = ClientRequest { trace: proto::TraceId(i as u128), deadline_ms: 0, ask: Ask::Ping };
            call::<_, ClientReply>(&*link, &ping, PATIENCE).await.map(|_| due.elapsed())
        });
    }
    let mut latencies = Vec::with_capacity(count);
    while let Some(latency) = asked.join_next().await {
        latencies.push(latency??);
    }
    Ok(latencies)
}

async fn serve(listener: Arc<QuicListener>) {
    let reply = ClientReply::Error(ErrorReply::new(proto::Code::NotFound, "x".repeat(REPLY_BYTES)));
    while let Some(link) = listener.accept().await {
        let reply = reply.clone();
        tokio::spawn(async move {
            while let Ok(mut stream) = link.accept().await {
                if stream.recv::<ClientRequest>().await.is_ok() {
                    // Who is gone wants no answer.
                    let _ = stream.send(&reply).await;
                }
            }
        });
    }
}

/// User and system time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |at: usize| after_name.split_whitespace().nth(at).and_then(|t| t.parse::<f64>().ok());
    // Ticks of 10 ms, as Linux has everywhere.
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}
