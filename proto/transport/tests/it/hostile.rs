//! Peers that send nonsense: every byte of theirs gets an error or a closed connection, nobody else is disturbed, and
//! memory stays flat.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use proto::Code;
use proto::client::{Ask, ClientReply, ClientRequest};
use proto::codec::{self, FrameKind};
use proto::peer::{PeerRequest, RaftCall};
use tokio::net::UdpSocket;
use transport::quic::{QuicDialer, QuicListener, Settings};
use transport::{Dialer, Door, Link, LinkErrorKind, Listener, Peer, call};

use crate::setup::{Deployment, loopback, node, pop};

const PATIENCE: Duration = Duration::from_secs(20);

/// A client door that answers pings, and says an error to everything else, as a gateway does.
struct Target {
    listener: Arc<QuicListener>,
    dialer: QuicDialer,
}

impl Target {
    fn new() -> Self {
        let deployment = Deployment::new();
        let credentials = deployment.credentials(&node("pop-a", 1));
        let trust = deployment.trust();
        let settings = Settings::clients();
        let listener =
            Arc::new(QuicListener::bind(loopback(), Door::Clients, &credentials, &trust, &settings).unwrap());
        tokio::spawn(serve(Arc::clone(&listener)));
        let dialer = QuicDialer::new(&trust, None, proto::ALPN_CLIENT, &settings).unwrap();
        Self { listener, dialer }
    }

    async fn dial(&self) -> Arc<dyn Link> {
        let expect = Peer::AnyNodeOf(pop("pop-a"));
        self.dialer.dial(&self.listener.local_address(), &expect, PATIENCE).await.unwrap()
    }

    async fn answers(&self) {
        let link = self.dial().await;
        let reply: ClientReply = call(&*link, &ping(), PATIENCE).await.unwrap();
        assert_eq!(reply, ClientReply::Pong);
    }
}

fn ping() -> ClientRequest {
    ClientRequest { trace: proto::TraceId(0), deadline_ms: 0, ask: Ask::Ping }
}

async fn serve(listener: Arc<QuicListener>) {
    while let Some(link) = listener.accept().await {
        tokio::spawn(async move {
            while let Ok(mut stream) = link.accept().await {
                tokio::spawn(async move {
                    let reply = match stream.recv::<ClientRequest>().await {
                        Ok(_) => ClientReply::Pong,
                        Err(error) => ClientReply::Error((&error).into()),
                    };
                    // Who is gone wants no answer.
                    let _ = stream.send(&reply).await;
                });
            }
        });
    }
}

/// Random bytes, random bodies behind a good header, cut frames, and headers that promise too much.
fn nonsense() -> impl Strategy<Value = Vec<u8>> {
    use proptest::collection::vec;
    use proptest::num::u8::ANY;
    let behind_header = (vec(ANY, 0..2000), 0u8..8)
        .prop_map(|(body, kind)| [&(body.len() as u32).to_be_bytes()[..], &[kind], &body].concat());
    let cut = (1usize..6).prop_map(|len| {
        let frame = codec::frame(&ping()).unwrap();
        frame[..len.min(frame.len() - 1)].to_vec()
    });
    let promising = (proptest::num::u32::ANY, vec(ANY, 0..64))
        .prop_map(|(len, body)| [&len.to_be_bytes()[..], &[FrameKind::ClientRequest as u8], &body].concat());
    proptest::prop_oneof![vec(ANY, 0..2000), behind_header, cut, promising]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_gets_an_error_and_disturbs_nobody() {
    let target = Target::new();
    let mut runner = TestRunner::deterministic();
    let link = target.dial().await;
    let (mut errors, mut pongs) = (0, 0);
    for _ in 0..1_000 {
        let bytes = nonsense().new_tree(&mut runner).unwrap().current();
        let mut stream = link.open().await.unwrap();
        // The other side may have had enough of it already.
        let _ = stream.send_bytes(Bytes::from(bytes.clone())).await;
        stream.finish();
        match tokio::time::timeout(PATIENCE, stream.recv::<ClientReply>()).await.expect("an answer") {
            Ok(ClientReply::Error(error)) => {
                assert_ne!(error.code, Code::Internal, "{bytes:02x?}");
                errors += 1;
            }
            // By chance a good request.
            Ok(ClientReply::Pong) => pongs += 1,
            other => panic!("{other:?} to {bytes:02x?}"),
        }
    }
    println!("{errors} errors, {pongs} by chance good");
    assert!(errors > 900);
    assert!(!link.is_closed());
    target.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_that_are_not_quic_are_ignored() {
    let target = Target::new();
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    let mut runner = TestRunner::deterministic();
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..1500);
    for _ in 0..2_000 {
        let datagram = bytes.new_tree(&mut runner).unwrap().current();
        socket.send_to(&datagram, target.listener.local_socket()).await.unwrap();
    }
    target.answers().await;
    assert_eq!(target.listener.stats().failed_total, 0);
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Memory is the process's, and other tests share this one: so the case runs in a process of its own.
#[test]
fn promises_take_no_memory() {
    let case = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::promises_take_no_memory_alone", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&case.stdout);
    println!("{said}{}", String::from_utf8_lossy(&case.stderr));
    assert!(case.status.success() && said.contains("1 passed"));
}

/// Headers that promise half a mebibyte each, 20,000 of them, on links that stay open: 10 GiB, if anybody believed them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by promises_take_no_memory, in a process of its own"]
async fn promises_take_no_memory_alone() {
    let target = Target::new();
    let max = FrameKind::ClientRequest.body_bytes_max() as u32;
    let header = Bytes::from([&max.to_be_bytes()[..], &[FrameKind::ClientRequest as u8]].concat());
    let mut links = Vec::new();
    let mut grown = Vec::new();
    for _ in 0..20 {
        let before = resident_bytes();
        let link = target.dial().await;
        for _ in 0..1_000 {
            let mut stream = link.open().await.unwrap();
            stream.send_bytes(header.clone()).await.unwrap();
            stream.finish();
            let reply = stream.recv::<ClientReply>().await.unwrap();
            assert!(matches!(reply, ClientReply::Error(e) if e.code == Code::Malformed));
        }
        links.push(link);
        grown.push(resident_bytes().saturating_sub(before) / 1024);
    }
    println!("KiB more with each 1,000 broken promises on a link of its own: {grown:?}");
    assert!(grown.iter().sum::<usize>() < 16 * 1024);
}

/// Half-received frames of all links together may hold so much, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_received_frames_have_a_budget() {
    let deployment = Deployment::new();
    let trust = deployment.trust();
    // With small windows, what was sent has nearly all been read.
    let settings = Settings {
        frame_bytes_max: 9 * 1024 * 1024,
        stream_window_bytes: 64 * 1024,
        send_window_bytes: 64 * 1024,
        ..Settings::peers()
    };
    let own = deployment.credentials(&node("pop-a", 1));
    let door = Door::Peers { pop: pop("pop-a") };
    let listener = QuicListener::bind(loopback(), door, &own, &trust, &settings).unwrap();
    let theirs = deployment.credentials(&node("pop-a", 2));
    let dialer = QuicDialer::new(&trust, Some(&theirs), proto::ALPN_PEER, &settings).unwrap();
    let expect = Peer::AnyNodeOf(pop("pop-a"));
    let link = dialer.dial(&listener.local_address(), &expect, PATIENCE).await.unwrap();
    let far = listener.accept().await.unwrap();

    let body = vec![1; 6 * 1024 * 1024];
    let frame = Bytes::from(codec::frame(&PeerRequest::Raft { call: RaftCall::Snapshot, body }).unwrap());
    let mut first = link.open().await.unwrap();
    let mut second = link.open().await.unwrap();
    // All but the last byte of the first: it is held.
    first.send_bytes(frame.slice(..1)).await.unwrap();
    let mut first_far = far.accept().await.unwrap();
    tokio::select! {
        got = first_far.recv::<PeerRequest>() => panic!("a byte is missing: {got:?}"),
        sent = first.send_bytes(frame.slice(1..frame.len() - 1)) => sent.unwrap(),
    }
    let (_, refused) = tokio::join!(second.send_bytes(frame.clone()), async {
        let mut stream = far.accept().await.unwrap();
        stream.recv::<PeerRequest>().await
    });
    let refused = refused.unwrap_err();
    assert!(matches!(refused.kind, LinkErrorKind::Overloaded { .. }), "{refused}");
    assert_eq!(refused.code(), Code::Overloaded);
    // The one that was there first is not disturbed, and what is done with is given back.
    first.send_bytes(frame.slice(frame.len() - 1..)).await.unwrap();
    first_far.recv::<PeerRequest>().await.unwrap();
    let mut third = link.open().await.unwrap();
    let (sent, got) = tokio::join!(third.send_bytes(frame.clone()), async {
        let mut stream = far.accept().await.unwrap();
        stream.recv::<PeerRequest>().await
    });
    sent.unwrap();
    got.unwrap();
}
