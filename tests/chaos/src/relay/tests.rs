//! Every fault, against plain sockets and against QUIC links. Nothing here sleeps to wait: what must come is waited for, and what
//! must not come is told apart by something later that does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proto::peer::{PeerReply, PeerRequest, RaftCall};
use proto::{ALPN_PEER, NodeId, PopId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use transport::pki::{Authority, Validity};
use transport::quic::{QuicDialer, QuicListener, Settings};
use transport::{Dialer as _, Door, Link, Listener as _, Peer, call};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A UDP socket behind a relay, and one before it.
struct Plain {
    relay: UdpRelay,
    front: UdpSocket,
    behind: UdpSocket,
}

impl Plain {
    async fn new(seed: u64) -> Self {
        let behind = UdpSocket::bind((HERE, 0)).await.unwrap();
        let relay = UdpRelay::start(THERE, behind.local_addr().unwrap(), seed).await.unwrap();
        let front = UdpSocket::bind((HERE, 0)).await.unwrap();
        front.connect(relay.address()).await.unwrap();
        Self { relay, front, behind }
    }

    fn set(&self, direction: Direction, faults: Faults) {
        self.relay.wire().set(direction, faults).unwrap();
    }

    fn count(&self, kind: Kind) -> u64 {
        self.relay.wire().counts().of(kind)
    }

    async fn send(&self, number: u32) {
        self.front.send(&number.to_be_bytes()).await.unwrap();
    }

    /// Sends numbers, and says which arrive before `u32::MAX`, which is sent when the network is good again. Received as they come: the
    /// system's buffer holds some hundred.
    async fn arrive(&self, numbers: std::ops::Range<u32>) -> Vec<u32> {
        let counts = self.relay.wire().counts();
        let sending = async {
            for number in numbers {
                let before = counts.came();
                self.send(number).await;
                until(|| counts.came() > before).await;
            }
            self.relay.wire().heal();
            self.send(u32::MAX).await;
        };
        let receiving = async {
            let mut arrived = Vec::new();
            loop {
                match self.receive().await.0 {
                    u32::MAX => return arrived,
                    number => arrived.push(number),
                }
            }
        };
        tokio::join!(sending, receiving).1
    }

    async fn receive(&self) -> (u32, SocketAddr) {
        let mut buffer = [0; 16];
        let (len, from) = timeout(PATIENCE, self.behind.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(len, 4);
        (u32::from_be_bytes(buffer[..4].try_into().unwrap()), from)
    }
}

async fn until(mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "it does not come to hold");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_good_network_passes_everything_once_and_in_order() {
    let plain = Plain::new(1).await;
    assert_eq!(plain.arrive(0..200).await, (0..200).collect::<Vec<_>>());
    assert!(Kind::ALL.iter().all(|kind| plain.count(*kind) == 0));
    assert!(plain.relay.wire().counts().require(&[Kind::Loss]).is_err());
}

#[tokio::test]
async fn lost_and_doubled_datagrams_are_counted_as_they_are() {
    let plain = Plain::new(2).await;
    plain.set(Direction::Up, Faults { loss: 0.3, duplicate: 0.3, ..Faults::default() });
    let arrived = plain.arrive(0..400).await;
    let mut once = arrived.clone();
    once.sort_unstable();
    once.dedup();
    // A copy may still be on its way when the last one arrives.
    let copies = (arrived.len() - once.len()) as u64;
    assert_eq!(plain.count(Kind::Loss), 400 - once.len() as u64);
    assert!((60..180).contains(&plain.count(Kind::Loss)), "{} lost", plain.count(Kind::Loss));
    until(|| plain.count(Kind::Duplicate) >= copies).await;
    assert!(copies > 40, "{copies} copies");
    plain.relay.wire().counts().require(&[Kind::Loss, Kind::Duplicate]).unwrap();
}

#[tokio::test]
async fn what_is_held_back_is_overtaken() {
    let plain = Plain::new(3).await;
    let hold = Duration::from_millis(5);
    plain.set(Direction::Up, Faults { reorder: 0.3, hold, ..Faults::default() });
    let mut arrived = Vec::new();
    let sending = async {
        for number in 0..300 {
            let before = plain.relay.wire().counts().came();
            plain.send(number).await;
            until(|| plain.relay.wire().counts().came() > before).await;
        }
    };
    let receiving = async {
        while arrived.len() < 300 {
            arrived.push(plain.receive().await.0);
        }
    };
    tokio::join!(sending, receiving);
    let overtaken =
        arrived.iter().enumerate().filter(|(at, n)| arrived[..*at].iter().any(|m| m > *n)).count();
    assert!(overtaken > 20, "{overtaken} overtaken");
    assert_eq!(plain.count(Kind::Reorder), overtaken as u64);
}

#[tokio::test]
async fn delay_and_jitter_take_their_time() {
    let plain = Plain::new(4).await;
    let (delay, jitter) = (Duration::from_millis(30), Duration::from_millis(20));
    plain.set(Direction::Up, Faults { delay, jitter, ..Faults::default() });
    let began = Instant::now();
    plain.send(7).await;
    assert_eq!(plain.receive().await.0, 7);
    assert!(began.elapsed() >= delay, "{:?}", began.elapsed());
    plain.relay.wire().counts().require(&[Kind::Delay, Kind::Jitter]).unwrap();
    // The way back was left alone.
    let (_, from) = {
        plain.send(8).await;
        plain.receive().await
    };
    plain.behind.send_to(&[9; 4], from).await.unwrap();
    let mut buffer = [0; 4];
    timeout(PATIENCE, plain.front.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((buffer, plain.count(Kind::Delay)), ([9; 4], 2));
}

#[tokio::test]
async fn silence_in_one_direction_is_not_silence_in_both() {
    let plain = Plain::new(5).await;
    plain.set(Direction::Up, Faults::silent());
    assert_eq!(plain.arrive(0..10).await, Vec::<u32>::new());
    assert_eq!((plain.count(Kind::OneWay), plain.count(Kind::Blackhole)), (10, 0));
    for direction in Direction::BOTH {
        plain.set(direction, Faults::silent());
    }
    assert_eq!(plain.arrive(0..10).await, Vec::<u32>::new());
    assert_eq!((plain.count(Kind::OneWay), plain.count(Kind::Blackhole)), (10, 10));
}

#[tokio::test]
async fn a_rate_holds_what_is_too_much() {
    let plain = Plain::new(6).await;
    plain.set(Direction::Up, Faults { rate_bytes_per_s: Some(1_500), ..Faults::default() });
    let began = Instant::now();
    for number in 0..50 {
        plain.send(number).await;
    }
    for number in 0..50 {
        assert_eq!(plain.receive().await.0, number);
    }
    // 200 bytes at 1,500 a second.
    assert!(began.elapsed() >= Duration::from_millis(130), "{:?}", began.elapsed());
    assert!(plain.count(Kind::Rate) > 40);
}

#[tokio::test]
async fn a_rebinding_changes_the_source_port_and_answers_still_come() {
    let plain = Plain::new(7).await;
    plain.send(1).await;
    let (_, before) = plain.receive().await;
    assert_eq!(plain.relay.rebind().await.unwrap(), 1);
    plain.send(2).await;
    let (_, after) = plain.receive().await;
    assert_ne!(before, after);
    plain.behind.send_to(&[5; 4], after).await.unwrap();
    let mut buffer = [0; 4];
    timeout(PATIENCE, plain.front.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((buffer, plain.count(Kind::Rebind)), ([5; 4], 1));
}

#[tokio::test]
async fn faults_that_cannot_be_kept_are_refused() {
    let wire = Wire::new(1);
    for wrong in [
        Faults { loss: 1.5, ..Faults::default() },
        Faults { reorder: 0.1, ..Faults::default() },
        Faults { delay: Duration::from_secs(60), ..Faults::default() },
        Faults { rate_bytes_per_s: Some(1), ..Faults::default() },
    ] {
        assert!(wire.set(Direction::Up, wrong.clone()).is_err(), "{wrong:?}");
    }
}

/// A TCP echo behind a relay.
async fn echo(seed: u64) -> (TcpRelay, JoinSet<()>) {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let relay = TcpRelay::start(THERE, listener.local_addr().unwrap(), seed).await.unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.spawn(async move {
                let (mut from, mut to) = stream.into_split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    (relay, task)
}

#[tokio::test]
async fn a_stream_arrives_whole_and_late() {
    let (relay, _echo) = echo(8).await;
    let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(20));
    for direction in Direction::BOTH {
        let faults = Faults { delay, jitter, loss: 0.5, reorder: 0.5, hold: delay, ..Faults::default() };
        relay.wire().set(direction, faults).unwrap();
    }
    let (mut from, mut to) = TcpStream::connect(relay.address()).await.unwrap().into_split();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let began = Instant::now();
    let sending = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let receiving = timeout(PATIENCE, from.read_to_end(&mut received));
    tokio::join!(sending, receiving).1.unwrap().unwrap();
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    assert!(began.elapsed() >= 2 * delay);
    relay.wire().counts().require(&[Kind::Delay, Kind::Jitter]).unwrap();
    assert_eq!(relay.wire().counts().of(Kind::Loss), 0);
}

#[tokio::test]
async fn a_silent_stream_waits_and_goes_on() {
    let (relay, _echo) = echo(9).await;
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    relay.wire().set(Direction::Down, Faults::silent()).unwrap();
    stream.write_all(b"held").await.unwrap();
    until(|| relay.wire().counts().of(Kind::OneWay) > 0).await;
    let mut buffer = [0; 4];
    let early = timeout(Duration::from_millis(50), stream.read(&mut buffer)).await;
    assert!(early.is_err(), "silence lets something through");
    relay.wire().heal();
    timeout(PATIENCE, stream.read_exact(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer, b"held");
}

#[tokio::test]
async fn a_cut_ends_every_stream() {
    let (relay, _echo) = echo(10).await;
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    let mut buffer = [0; 2];
    stream.write_all(b"hi").await.unwrap();
    timeout(PATIENCE, stream.read_exact(&mut buffer)).await.unwrap().unwrap();
    relay.cut();
    let end = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    until(|| relay.wire().counts().of(Kind::Rebind) == 1).await;
    TcpStream::connect(relay.address()).await.unwrap();
}

/// Two nodes' QUIC, one behind a relay.
struct Quic {
    relay: UdpRelay,
    link: Arc<dyn Link>,
    _serving: JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl Quic {
    async fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let validity = || Validity::starting_now(Duration::from_secs(3_600));
        let authority = Authority::create(folder.path(), validity()).unwrap();
        let (trust, pop) = (authority.trust().unwrap(), PopId::new("pop-a").unwrap());
        let credentials = |node| {
            let issued = authority.issue_node(&pop, NodeId(node), &["127.0.0.1".into()], validity());
            issued.unwrap().credentials().unwrap()
        };
        let (settings, door) = (Settings::peers(), Door::Peers { pop: pop.clone() });
        let listener =
            QuicListener::bind((HERE, 0).into(), door, &credentials(1), &trust, &settings).unwrap();
        let behind = listener.local_address().parse().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener));
        let relay = UdpRelay::start(THERE, behind, seed).await.unwrap();
        let dialer = QuicDialer::new(&trust, Some(&credentials(2)), ALPN_PEER, &settings).unwrap();
        let expect = Peer::Node { pop, node: NodeId(1) };
        let link = dialer.dial(&relay.address().to_string(), &expect, PATIENCE).await.unwrap();
        Self { relay, link, _serving: serving, _folder: folder }
    }

    async fn ask(&self, body: &[u8]) -> PeerReply {
        let request = PeerRequest::Raft { call: RaftCall::Append, body: body.to_vec() };
        call(&*self.link, &request, PATIENCE).await.unwrap()
    }

    fn set_both(&self, faults: &Faults) {
        for direction in Direction::BOTH {
            self.relay.wire().set(direction, faults.clone()).unwrap();
        }
    }
}

async fn serve(listener: QuicListener) {
    while let Some(link) = listener.accept().await {
        while let Ok(mut stream) = link.accept().await {
            if let Ok(PeerRequest::Raft { body, .. }) = stream.recv().await {
                let _ = stream.send(&PeerReply::Raft(body)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_gets_through_a_bad_network_and_a_rebinding() {
    let quic = Quic::new(11).await;
    let ms = Duration::from_millis;
    quic.set_both(&Faults {
        delay: ms(2),
        jitter: ms(3),
        loss: 0.05,
        duplicate: 0.1,
        reorder: 0.1,
        hold: ms(4),
        ..Faults::default()
    });
    for round in 0..40_u8 {
        if round % 10 == 9 {
            assert_eq!(quic.relay.rebind().await.unwrap(), 1);
        }
        let body = vec![round; 8_000];
        assert_eq!(quic.ask(&body).await, PeerReply::Raft(body));
    }
    let claimed = [Kind::Delay, Kind::Jitter, Kind::Loss, Kind::Duplicate, Kind::Reorder, Kind::Rebind];
    quic.relay.wire().counts().require(&claimed).unwrap();
    assert_eq!(quic.relay.wire().counts().overflowed(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_goes_on_after_a_short_silence_and_hears_of_a_long_one() {
    let quic = Quic::new(12).await;
    quic.set_both(&Faults::silent());
    let asking = quic.ask(b"through the dark");
    let healing = async {
        until(|| quic.relay.wire().counts().of(Kind::Blackhole) >= 2).await;
        quic.relay.wire().heal();
    };
    let (reply, ()) = tokio::join!(asking, healing);
    assert_eq!(reply, PeerReply::Raft(b"through the dark".to_vec()));
    quic.set_both(&Faults::silent());
    timeout(PATIENCE, quic.link.closed()).await.expect("a dead peer is noticed");
}
