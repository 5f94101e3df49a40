//! Connections that are held to do harm, each made again when the node ends it. They live on a thread of their own that gives way to
//! the good clients' (`nice`), as their work would otherwise be measured as the node's.

mod initials;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bench::http::HOST;
use bytes::Bytes;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Addresses that they come from, 127.0.0.2 the first: the good clients' is another.
const ADDRESSES: usize = 16;
/// The first of them all are opened within so long.
const RAMP: Duration = Duration::from_secs(6);
/// How long one tries to get in.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Before it is made again.
const PAUSE: Duration = Duration::from_millis(100);
/// A slow head grows by a byte so often.
const BYTE_EVERY: Duration = Duration::from_secs(1);
/// What never reads sends a byte so often, to learn whether it was ended.
const SIGN_EVERY: Duration = Duration::from_secs(2);
/// Receive buffer of what never reads, and its largest segment, so that the node's system does not hold much for it either.
const WINDOW_BYTES: usize = 2_048;
const SEGMENT_BYTES: u32 = 536;
/// What never reads asks for a recommendation, and for so many documents of 50 KiB: more than the system takes from the node.
const DOCUMENTS: usize = 8;
/// How willingly they give way.
const NICE: i32 = 19;

/// What they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Connect, and say nothing.
    HalfOpen,
    /// Shake hands, and send the head of a request a byte a second.
    SlowHead,
    /// Ask, and never read the answers.
    NeverRead,
}

/// All kinds.
pub const KINDS: [Kind; 3] = [Kind::HalfOpen, Kind::SlowHead, Kind::NeverRead];

/// What is attacked, and how.
#[derive(Clone)]
pub struct Plan {
    /// The node's HTTP door, and its QUIC door.
    pub target: SocketAddr,
    /// How its HTTP door is spoken to.
    pub tls: Arc<ClientConfig>,
    /// A request for a recommendation.
    pub request: Bytes,
    /// Connections, a third of each kind.
    pub connections: usize,
    /// QUIC handshakes that are begun a second, and never gone on with.
    pub initials_per_s: usize,
    /// For at most so long.
    pub initials_for: Duration,
}

/// Of one kind.
#[derive(Debug, Default)]
struct Counts {
    held: AtomicUsize,
    opened: AtomicU64,
    not_opened: AtomicU64,
    ended: AtomicU64,
    ended_after_ms: AtomicU64,
}

/// The same, as it is told.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// What they do.
    pub kind: Kind,
    /// Held now; those that never say anything may be waiting in the system's queue.
    pub held: usize,
    /// Opened so far.
    pub opened: u64,
    /// Tries to open one that failed.
    pub not_opened: u64,
    /// That the node ended.
    pub ended: u64,
    /// How long those had been held, on average, in seconds.
    pub ended_after_s: f64,
}

struct State {
    plan: Plan,
    counts: [Counts; 3],
    initials: AtomicU64,
    stop: CancellationToken,
}

/// An attack that goes on.
pub struct Hostile {
    state: Arc<State>,
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Hostile {
    /// Begins.
    ///
    /// # Errors
    /// Where there can be no thread.
    pub fn begin(mut plan: Plan) -> anyhow::Result<Self> {
        // Each shakes hands in full: that costs the node more.
        let mut tls = ClientConfig::clone(&plan.tls);
        tls.resumption = Resumption::disabled();
        plan.tls = Arc::new(tls);
        let state = State {
            plan,
            counts: Default::default(),
            initials: AtomicU64::new(0),
            stop: CancellationToken::new(),
        };
        let state = Arc::new(state);
        let attacking = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("hostile".into()).spawn(move || {
            rustix::process::nice(NICE).context("cannot give way")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(attack(attacking))
        })?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// Connections that are held.
    pub fn held(&self) -> usize {
        self.state.counts.iter().map(|counts| counts.held.load(Ordering::Relaxed)).sum()
    }

    /// What they came to so far.
    pub fn told(&self) -> Vec<Told> {
        let told = |(kind, counts): (Kind, &Counts)| {
            let ended = counts.ended.load(Ordering::Relaxed);
            Told {
                kind,
                held: counts.held.load(Ordering::Relaxed),
                opened: counts.opened.load(Ordering::Relaxed),
                not_opened: counts.not_opened.load(Ordering::Relaxed),
                ended,
                ended_after_s: counts.ended_after_ms.load(Ordering::Relaxed) as f64
                    / 1e3
                    / ended.max(1) as f64,
            }
        };
        KINDS.into_iter().zip(&self.state.counts).map(told).collect()
    }

    /// QUIC handshakes begun so far.
    pub fn initials(&self) -> u64 {
        self.state.initials.load(Ordering::Relaxed)
    }

    /// Whether the thread has ended: with an error, as nobody told it to.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished)
    }

    /// Ends it, and waits until all is closed.
    ///
    /// # Errors
    /// Where the attack failed.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.state.stop.cancel();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
        joined.map_err(|_| anyhow::anyhow!("the attack panicked"))?
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.state.stop.cancel();
    }
}

async fn attack(state: Arc<State>) -> anyhow::Result<()> {
    let plan = &state.plan;
    let packets = plan.initials_per_s * plan.initials_for.as_secs() as usize;
    let initials = initials::gather(packets).await.context("there are no QUIC handshakes to begin")?;
    let tasks = TaskTracker::new();
    for number in 0..plan.connections {
        tasks.spawn(one(Arc::clone(&state), number));
    }
    let sending = initials::send(&initials, plan, &state.initials);
    let sent = tokio::select! {
        sent = sending => sent,
        () = state.stop.cancelled() => Ok(()),
    };
    tasks.close();
    tasks.wait().await;
    sent
}

/// Where the nth comes from.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 1 + (number % ADDRESSES) as u32)
}

/// One connection, again and again.
async fn one(state: Arc<State>, number: usize) {
    let kind = KINDS[number % KINDS.len()];
    let counts = &state.counts[number % KINDS.len()];
    let first = RAMP.mul_f64(number as f64 / state.plan.connections as f64);
    let again = async {
        tokio::time::sleep(first).await;
        loop {
            match tokio::time::timeout(OPEN_WITHIN, open(&state.plan, kind, number)).await {
                Ok(Ok(held)) => {
                    let since = Instant::now();
                    counts.opened.fetch_add(1, Ordering::Relaxed);
                    counts.held.fetch_add(1, Ordering::Relaxed);
                    held.until_ended().await;
                    counts.held.fetch_sub(1, Ordering::Relaxed);
                    counts.ended.fetch_add(1, Ordering::Relaxed);
                    let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                    counts.ended_after_ms.fetch_add(ms, Ordering::Relaxed);
                }
                _ => drop(counts.not_opened.fetch_add(1, Ordering::Relaxed)),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = again => {}
        () = state.stop.cancelled() => {}
    }
}

enum Held {
    HalfOpen(TcpStream),
    SlowHead(Box<TlsStream<TcpStream>>),
    NeverRead(Box<TlsStream<TcpStream>>),
}

async fn open(plan: &Plan, kind: Kind, number: usize) -> anyhow::Result<Held> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if kind == Kind::NeverRead {
        socket.set_recv_buffer_size(WINDOW_BYTES)?;
        socket.set_tcp_mss(SEGMENT_BYTES)?;
    }
    socket.bind(&SocketAddr::from((address(number), 0)).into())?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(plan.target).await?;
    stream.set_nodelay(true)?;
    if kind == Kind::HalfOpen {
        return Ok(Held::HalfOpen(stream));
    }
    let connector = TlsConnector::from(Arc::clone(&plan.tls));
    let mut stream = Box::new(connector.connect(ServerName::try_from(HOST)?, stream).await?);
    if kind == Kind::SlowHead {
        return Ok(Held::SlowHead(stream));
    }
    let mut requests = plan.request.to_vec();
    for _ in 0..DOCUMENTS {
        requests.extend_from_slice(&bench::http::request("/openapi.json", None, None));
    }
    stream.write_all(&requests).await?;
    stream.flush().await?;
    Ok(Held::NeverRead(stream))
}

impl Held {
    /// Goes on with it until the node ends it.
    async fn until_ended(self) {
        // However it ends, it has ended.
        let _ = match self {
            Self::HalfOpen(mut stream) => stream.read(&mut [0]).await.map(drop),
            Self::SlowHead(stream) => slow_head(stream).await,
            Self::NeverRead(stream) => never_read(stream).await,
        };
    }
}

async fn slow_head(mut stream: Box<TlsStream<TcpStream>>) -> std::io::Result<()> {
    let begun = format!("GET /healthz HTTP/1.1\r\nhost: {HOST}\r\nx-slow: ");
    let mut bytes = begun.bytes().chain(std::iter::repeat(b'a'));
    let mut byte = [0];
    loop {
        tokio::select! {
            // An answer, or an end: either way it is over.
            read = stream.read(&mut byte) => return read.map(drop),
            () = tokio::time::sleep(BYTE_EVERY) => {}
        }
        stream.write_all(&[bytes.next().unwrap_or(b'a')]).await?;
        stream.flush().await?;
    }
}

async fn never_read(mut stream: Box<TlsStream<TcpStream>>) -> std::io::Result<()> {
    loop {
        tokio::time::sleep(SIGN_EVERY).await;
        stream.write_all(b"G").await?;
        stream.flush().await?;
    }
}
