//! The relay for TCP. Bytes keep their order and none is lost: a bad network shows on a stream as time, or as its end.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::Wire;
use super::faults::{Direction, Kind};
use super::lane::{Delivery, Verdict};

/// Connections at a time; more are closed at once.
pub const CONNECTIONS_MAX: usize = 256;
/// Bytes that wait in one direction of a connection; then the relay reads no more, and the sender feels it.
pub const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one read.
const READ_BYTES_MAX: usize = 16 * 1024;
/// How often a silent direction looks whether it may speak again.
const SILENT_POLL: Duration = Duration::from_millis(5);

/// A relay that runs until it is dropped.
#[derive(Debug)]
pub struct TcpRelay {
    address: SocketAddr,
    wire: Arc<Wire>,
    /// Grows with each cut.
    cuts: watch::Sender<u64>,
    _task: JoinSet<()>,
}

impl TcpRelay {
    /// Listens on a free port of `ip` for connections to `behind`.
    ///
    /// # Errors
    /// Where no socket is to be had.
    pub async fn start(ip: IpAddr, behind: SocketAddr, seed: u64) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind((ip, 0)).await.with_context(|| format!("cannot bind a port of {ip}"))?;
        let (address, wire) = (listener.local_addr()?, Arc::new(Wire::new(seed)));
        let (cuts, cut) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(accept(listener, behind, Arc::clone(&wire), cut));
        Ok(Self { address, wire, cuts, _task: task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its faults and counters.
    pub fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// Ends all connections: what a NAT does to a stream when it forgets.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(listener: TcpListener, behind: SocketAddr, wire: Arc<Wire>, cut: watch::Receiver<u64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if connections.len() < CONNECTIONS_MAX {
                    connections.spawn(connection(client, behind, Arc::clone(&wire), cut.clone()));
                } else {
                    wire.counts().overflow();
                }
            }
        }
    }
}

async fn connection(client: TcpStream, behind: SocketAddr, wire: Arc<Wire>, mut cut: watch::Receiver<u64>) {
    cut.mark_unchanged();
    // Nobody listens behind: the client sees its connection end, a moment later than without a relay.
    let Ok(server) = TcpStream::connect(behind).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let both = async {
        tokio::join!(
            pump(from_client, to_server, Direction::Up, &wire),
            pump(from_server, to_client, Direction::Down, &wire)
        )
    };
    tokio::select! {
        _ = both => {}
        changed = cut.changed() => if changed.is_ok() { wire.counts().add(Kind::Rebind) },
    }
}

/// Bytes that wait for their time.
struct Waiting {
    bytes: Vec<u8>,
    delivery: Delivery,
}

/// One direction of a connection, until it ends.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, direction: Direction, wire: &Wire) {
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    let mut waiting_bytes = 0;
    let mut buffer = vec![0; READ_BYTES_MAX];
    let mut ended = false;
    let mut silent = false;
    while !ended || !waiting.is_empty() {
        let (faults, silence) = wire.faults(direction);
        if faults.silent {
            // Held back, not lost. Counted once for each silence that held something or somebody up.
            if !std::mem::replace(&mut silent, true) {
                wire.counts().add(silence);
            }
            sleep(SILENT_POLL).await;
            continue;
        }
        silent = false;
        let due = waiting.front().map(|first| first.delivery.due);
        tokio::select! {
            read = from.read(&mut buffer), if !ended && waiting_bytes < WAITING_BYTES_MAX => match read {
                Ok(len) if len > 0 => {
                    let delivery = paced(wire, direction, len).await;
                    waiting_bytes += len;
                    waiting.push_back(Waiting { bytes: buffer[..len].to_vec(), delivery });
                }
                _ => ended = true,
            },
            () = until(due), if due.is_some() => {
                let Some(first) = waiting.pop_front() else { continue };
                waiting_bytes -= first.bytes.len();
                if to.write_all(&first.bytes).await.is_err() {
                    return;
                }
                wire.counts().pass();
                first.delivery.late.iter().for_each(|kind| wire.counts().add(*kind));
            }
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}

/// When bytes that were read may go on. Where the rate's queue is full, a stream waits.
async fn paced(wire: &Wire, direction: Direction, len: usize) -> Delivery {
    loop {
        match wire.decide(direction, len, true) {
            Verdict::Deliver(delivery) => return delivery,
            Verdict::Drop(_) => sleep(SILENT_POLL).await,
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
