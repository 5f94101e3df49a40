//! The relay for UDP. Each source address that sends to it is a session with a socket of its own towards the process behind it, as in
//! a NAT; changing that socket is what a NAT does when it forgets.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Wire;
use super::faults::{Direction, Kind};
use super::lane::Verdict;
use super::queue::Queue;

/// Sessions at a time; a datagram of one more is dropped and counted as overflow.
pub const SESSIONS_MAX: usize = 256;
/// Largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Rebindings that wait.
const COMMANDS_MAX: usize = 16;

/// A relay that runs until it is dropped.
#[derive(Debug)]
pub struct UdpRelay {
    address: SocketAddr,
    wire: Arc<Wire>,
    commands: mpsc::Sender<oneshot::Sender<io::Result<usize>>>,
    _task: JoinSet<()>,
}

impl UdpRelay {
    /// Listens on a free port of `ip` (127.0.0.1, 127.0.0.2 …) for datagrams to `behind`.
    ///
    /// # Errors
    /// Where no socket is to be had.
    pub async fn start(ip: IpAddr, behind: SocketAddr, seed: u64) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((ip, 0)).await.with_context(|| format!("cannot bind a port of {ip}"))?;
        let (address, wire) = (socket.local_addr()?, Arc::new(Wire::new(seed)));
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let relay =
            Up { ip, behind, wire: Arc::clone(&wire), front: Arc::new(socket), sessions: HashMap::new() };
        let mut task = JoinSet::new();
        task.spawn(relay.run(inbox));
        Ok(Self { address, wire, commands, _task: task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its faults and counters.
    pub fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// Gives every session another source port, as a NAT does that forgot them. Returns how many there were.
    ///
    /// # Errors
    /// Where no socket is to be had.
    pub async fn rebind(&self) -> anyhow::Result<usize> {
        let (done, answer) = oneshot::channel();
        self.commands.send(done).await.context("the relay has ended")?;
        Ok(answer.await.context("the relay has ended")??)
    }
}

/// The way up, and who goes it.
struct Up {
    ip: IpAddr,
    behind: SocketAddr,
    wire: Arc<Wire>,
    front: Arc<UdpSocket>,
    sessions: HashMap<SocketAddr, Session>,
}

struct Session {
    /// Towards the process behind.
    socket: watch::Sender<Arc<UdpSocket>>,
    _down: JoinSet<()>,
}

impl Up {
    async fn run(mut self, mut commands: mpsc::Receiver<oneshot::Sender<io::Result<usize>>>) {
        let mut queue = Queue::new();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            tokio::select! {
                received = self.front.recv_from(&mut buffer) => {
                    // An error is about what was sent before (ICMP): who sends again finds out by itself.
                    let Ok((len, from)) = received else { continue };
                    if let Verdict::Deliver(delivery) = self.wire.decide(Direction::Up, len, false) {
                        queue.push(delivery, from, &buffer[..len], self.wire.counts());
                    }
                }
                () = queue.due() => {}
                command = commands.recv() => match command {
                    // Whoever asked may have gone away.
                    Some(done) => drop(done.send(self.rebind().await)),
                    None => return,
                }
            }
            while let Some((from, bytes)) = queue.pop(Instant::now(), self.wire.counts()) {
                self.send(from, &bytes).await;
            }
        }
    }

    async fn send(&mut self, from: SocketAddr, bytes: &[u8]) {
        if !self.sessions.contains_key(&from) {
            if self.sessions.len() >= SESSIONS_MAX {
                return self.wire.counts().overflow();
            }
            match self.session(from).await {
                Ok(session) => drop(self.sessions.insert(from, session)),
                Err(error) => return tracing::warn!(%error, "no socket for a session"),
            }
        }
        if let Some(session) = self.sessions.get(&from) {
            let socket = Arc::clone(&session.socket.borrow());
            // The process behind may be dead: then it is lost, as on a network.
            let _ = socket.send(bytes).await;
        }
    }

    async fn session(&self, client: SocketAddr) -> io::Result<Session> {
        let (socket, sockets) = watch::channel(self.socket().await?);
        let mut down = JoinSet::new();
        down.spawn(come_down(sockets, client, Arc::clone(&self.front), Arc::clone(&self.wire)));
        Ok(Session { socket, _down: down })
    }

    async fn socket(&self) -> io::Result<Arc<UdpSocket>> {
        let socket = UdpSocket::bind((self.ip, 0)).await?;
        socket.connect(self.behind).await?;
        Ok(Arc::new(socket))
    }

    async fn rebind(&mut self) -> io::Result<usize> {
        for session in self.sessions.values() {
            let socket = self.socket().await?;
            // Closed only after the new one is there: never the same port again.
            session.socket.send_replace(socket);
            self.wire.counts().add(Kind::Rebind);
        }
        Ok(self.sessions.len())
    }
}

/// The way down of one session.
async fn come_down(
    mut sockets: watch::Receiver<Arc<UdpSocket>>,
    client: SocketAddr,
    front: Arc<UdpSocket>,
    wire: Arc<Wire>,
) {
    let mut queue = Queue::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let socket = Arc::clone(&sockets.borrow_and_update());
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                // As above: the process behind is away for now.
                let Ok(len) = received else { continue };
                if let Verdict::Deliver(delivery) = wire.decide(Direction::Down, len, false) {
                    queue.push(delivery, (), &buffer[..len], wire.counts());
                }
            }
            () = queue.due() => {}
            changed = sockets.changed() => if changed.is_err() { return },
        }
        while let Some(((), bytes)) = queue.pop(Instant::now(), wire.counts()) {
            let _ = front.send_to(&bytes, client).await;
        }
    }
}
